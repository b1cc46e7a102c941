import { execFile } from 'node:child_process';
import { expect, onTestFinished, test } from 'vitest';

/** A short run of `npm run soak`: every process of it is a real one. */
test('the ledger balances after faults of every sort', { timeout: 150_000 }, async () => {
  const seed = Math.floor(Math.random() * 2 ** 31);
  // A longer lease than by default: beside other tests a healthy worker may have to wait for its turn.
  const options = ['--requests', '10000', '--faults', '9', '--lease', '2000', '--seed', `${seed}`];
  const { status, stdout, stderr } = await soak(...options);
  expect(stderr).toBe('');
  const result: unknown = JSON.parse(stdout);
  expect(result).toMatchObject({ seed, balances: true, wrong: {}, complaints: [], 'ended early': false });
  expect(result).toHaveProperty(
    'acknowledged',
    expect.toSatisfy((number) => number >= 10_000),
  );
  expect(status).toBe(0);
});

/** Runs it to its end; told to stop, it takes down what it started. */
async function soak(...words: readonly string[]): Promise<{ status: number | null; stdout: string; stderr: string }> {
  const command = ['soak/soak.mjs', '--json', ...words];
  let child: ReturnType<typeof execFile> | undefined;
  const ended = new Promise<{ status: number | null; stdout: string; stderr: string }>((resolve) => {
    child = execFile(process.execPath, command, (_, stdout, stderr) =>
      resolve({ status: child?.exitCode ?? null, stdout, stderr }),
    );
  });
  onTestFinished(async () => {
    child?.kill('SIGTERM');
    await ended;
  });
  return await ended;
}
