import { execFile } from 'node:child_process';
import { expect, test } from 'vitest';

/** A short run of `npm run soak`: every process of it is a real one. What it finds, it prints. */
test('the ledger balances after faults of every sort', { timeout: 150_000 }, async () => {
  const seed = Math.floor(Math.random() * 2 ** 31);
  const { status, stdout, stderr } = await soak('--requests', '12000', '--faults', '12', '--seed', `${seed}`);
  expect(stderr).toBe('');
  const result: unknown = JSON.parse(stdout);
  expect(result).toMatchObject({ seed, balances: true, wrong: {}, complaints: [], 'ended early': false });
  expect(result).toHaveProperty(
    'acknowledged',
    expect.toSatisfy((number) => number >= 12_000),
  );
  expect(status).toBe(0);
});

/** Runs it to its end. */
function soak(...words: readonly string[]): Promise<{ status: number | null; stdout: string; stderr: string }> {
  return new Promise((resolve) => {
    const child = execFile(process.execPath, ['soak/soak.mjs', '--json', ...words], (_, stdout, stderr) =>
      resolve({ status: child.exitCode, stdout, stderr }),
    );
  });
}
