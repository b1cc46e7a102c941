import { execFile } from 'node:child_process';
import { expect, onTestFinished, test } from 'vitest';

/** A short run of `npm run fuzz`. */
test('thousands of replies, sound and spoilt, are taken for what they are', { timeout: 120_000 }, async () => {
  const seed = Math.floor(Math.random() * 2 ** 31);
  const { status, stdout } = await fuzz(
    '--json',
    '--replies',
    '6000',
    '--tcp',
    '30',
    '--threads',
    '1',
    '--seed',
    `${seed}`,
  );
  expect(JSON.parse(stdout)).toMatchObject({ seed, replies: 6_000, failures: [], complaints: [], isSound: true });
  expect(status).toBe(0);
});

test('a single one can be had again', { timeout: 60_000 }, async () => {
  const { status, stdout } = await fuzz('--json', '--replies', '1', '--seed', '7', '--at', '27787', '--tcp', '1');
  expect(JSON.parse(stdout)).toMatchObject({ replies: 1, 'of them over TCP, too': 1, isSound: true });
  expect(status).toBe(0);
});

function fuzz(...words: readonly string[]): Promise<{ status: number | null; stdout: string }> {
  return new Promise((resolve) => {
    const child = execFile(process.execPath, ['fuzz/fuzz.mjs', ...words], { maxBuffer: 2 ** 26 }, (_, stdout) =>
      resolve({ status: child.exitCode, stdout }),
    );
    onTestFinished(() => void child.kill());
  });
}
