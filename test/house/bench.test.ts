import { execFile } from 'node:child_process';
import { promisify } from 'node:util';
import { expect, test } from 'vitest';

const run = promisify(execFile);

/** The benchmarks still run: as little of each as shows it. What they measure here means nothing. */
test.each([
  ['drain', 'requests/s (median)'],
  ['latency', 'back to back, ms'],
  ['enqueue', 'rounds'],
  ['blocking', 'rounds'],
  ['idle', 'statements while idle'],
])('bench/%s.mjs', { timeout: 90_000 }, async (name, key) => {
  const { stdout } = await run(process.execPath, [`bench/${name}.mjs`, '--smoke', '--json']);
  const report: unknown = JSON.parse(stdout);
  expect(report).toMatchObject({ benchmark: name });
  expect(report).toHaveProperty([name === 'enqueue' && !stdout.includes('rounds') ? 'skipped' : key]);
});
