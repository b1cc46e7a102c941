import { execFile } from 'node:child_process';
import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { promisify } from 'node:util';
import pg from 'pg';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { createWorker } from '../../src/worker/create.ts';
import type { Worker } from '../../src/worker/worker.ts';
import { installedDatabase } from '../support/installed.ts';
import { startTestPostgres, type TestServer, temporaryDirectory } from '../support/servers.ts';

// The benchmarks still run: as little of each as shows it. What they measure here means nothing.

const run = promisify(execFile);

/** The reports, where `bench/all.mjs` looks for them. */
const results = temporaryDirectory('bench-results');

async function smoke(name: string, ...more: readonly string[]): Promise<Record<string, unknown>> {
  const { stdout } = await run(process.execPath, [`bench/${name}.mjs`, '--smoke', '--json', ...more]);
  writeFileSync(join(results, `${name}.json`), stdout);
  return JSON.parse(stdout) as Record<string, unknown>;
}

describe('on a server of its own', () => {
  test.each([
    ['flat', ['time per request, deep / shallow (median of rounds)', 'p99 beside expiry / alone']],
    ['memory', ['RSS, idle, MB', 'RSS under 200/s', 'RSS at most, 4 bodies of 8 MiB at once, MB']],
    ['durable', ['drain, requests/s']],
    ['workers', ['draining one queue']],
    ['retries', ['with retries / plain (median of rounds)']],
    ['idle', ['statements while idle']],
    ['ordering', ['ordered / plain (median of rounds)']],
    ['limits', ['requests/s, to the limit', 'at a time, at most']],
  ])('bench/%s.mjs', { timeout: 60_000 }, async (name, keys) => {
    const report = await smoke(name);
    expect(report).toMatchObject({ benchmark: name, rows: expect.arrayContaining([expect.anything()]) });
    expect(Object.keys(report)).toEqual(expect.arrayContaining(keys));
  });

  test('bench/rivals.mjs, where Node.js is new enough for them', { timeout: 120_000 }, async () => {
    const report = await smoke('rivals');
    if (Number(process.versions.node.split('.')[0]) < 22) {
      expect(report['skipped']).toContain('npx -p node@24');
    } else if (report['skipped'] === undefined) {
      expect(report['drain (medians)']).toHaveLength(6);
    } else {
      expect(report['skipped']).toContain('could not be installed');
    }
  });
});

describe('on a server that has a worker', () => {
  let server: TestServer;
  let url: string;
  let worker: Worker;

  beforeAll(async () => {
    server = await startTestPostgres({ major: 18 });
    ({ url } = await installedDatabase(server));
    worker = createWorker({ connectionString: url, allow: ['loopback'], stopTimeoutMs: 0 });
    await worker.start();
  });
  afterAll(async () => {
    await worker?.stop();
  });

  test.each([
    ['drain', 'requests/s (median)'],
    ['latency', 'back to back, ms'],
    ['enqueue', 'bulk http_post / INSERT ... SELECT (median)'],
    ['blocking', '50 fast ones beside one of 5 s, p99 ms'],
  ])('bench/%s.mjs --worker none', { timeout: 60_000 }, async (name, key) => {
    const report = await smoke(name, '--database-url', url, '--worker', 'none');
    expect(report).toMatchObject({ benchmark: name, rows: expect.arrayContaining([expect.anything()]) });
    expect(report).toHaveProperty([key]);
  });

  test('refuses to empty tables that hold something', async () => {
    const { url: other, drop } = await installedDatabase(server);
    const client = new pg.Client({ connectionString: other });
    await client.connect();
    await client.query(`select net.http_get('http://localhost/')`);
    await expect(smoke('drain', '--database-url', other, '--worker', 'none')).rejects.toThrow('has rows');
    expect((await client.query('select from net.http_request_queue')).rowCount).toBe(1);
    await client.end();
    await drop();
  });
});

test('bench/all.mjs draws the reports and prints rows for docs/performance.md', async () => {
  const { stdout } = await run(process.execPath, [
    ...['bench/all.mjs', '--draw', '--markdown', '--results', results, '--charts', results],
  ]);
  const table = stdout.trim().split('\n');
  expect(table.length).toBeGreaterThan(10);
  for (const line of table) expect(line).toMatch(/^\|(?:[^|]*\|){5}$/);
  const drawn = readdirSync(results).filter((name) => name.endsWith('.svg'));
  expect(drawn).toEqual(
    expect.arrayContaining(['performance-horizon.svg', 'performance-latency.svg', 'performance-memory.svg']),
  );
  for (const name of drawn) expect(readFileSync(join(results, name), 'utf8')).not.toMatch(/NaN|undefined|Infinity/);
});
