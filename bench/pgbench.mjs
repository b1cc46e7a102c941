// pgbench, which drives transactions at less cost than a program in JavaScript could.
import { execFile } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';

const run = promisify(execFile);

export const pgbenchOption = { pgbench: { type: 'string', default: 'pgbench' } };
export const pgbenchMissing = 'pgbench is not installed; give its path with --pgbench';

/**
 * @param {string} program its path
 * @param {Record<string, string>} scripts by name
 * @returns a function that runs one of the scripts, and `close`; undefined where there is no pgbench.
 */
export async function openPgbench(program, scripts) {
  try {
    await run(program, ['--version']);
  } catch {
    return undefined;
  }
  const directory = mkdtempSync(join(tmpdir(), 'pgfetch-bench-sql-'));
  for (const [name, text] of Object.entries(scripts)) writeFileSync(join(directory, `${name}.sql`), text);
  return {
    /** @returns {Promise<{ tps: number, bySecond: number[] }>} over the whole run, and in each second of it */
    async drive(name, { url, clients, seconds }) {
      const { stdout, stderr } = await run(program, [
        ...['-n', '-M', 'prepared', '-j', '1', '-P', '1'],
        ...['-c', `${clients}`, '-T', `${seconds}`, '-f', join(directory, `${name}.sql`), url],
      ]);
      return {
        tps: Number(/tps = ([\d.]+)/.exec(stdout)?.[1]),
        bySecond: [...stderr.matchAll(/^progress: [\d.]+ s, ([\d.]+) tps/gm)].map(([, tps]) => Number(tps)),
      };
    },
    close() {
      rmSync(directory, { recursive: true, force: true });
    },
  };
}
