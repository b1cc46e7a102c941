// What every benchmark stands on: a database with pgfetch installed, the target, and one way to report.
import { fork } from 'node:child_process';
import { chmodSync, mkdtempSync, rmSync } from 'node:fs';
import { cpus, tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import pg from 'pg';
import { connectPg, install, startEmbeddedPostgres } from '../dist/index.js';

/**
 * Runs a benchmark: `--database-url` names a server of your own that has the same SQL surface (pg_net itself, too); without
 * it an embedded PostgreSQL 18 is started. `--smoke` is for CI: as little as shows that it works. `--json` prints JSON alone.
 *
 * @param {string} name
 * @param {Record<string, { type: 'string' | 'boolean', default?: string | boolean }>} options
 * @param {(stage: Stage) => Promise<object>} run
 *
 * @typedef {{ url: string, target: string, options: Record<string, string | boolean | undefined>, number: (name: string, smoke: number) => number, sql: pg.Client, session: () => Promise<pg.Client>, smoke: boolean, say: (text: string) => void }} Stage
 */
export async function benchmark(name, options, run) {
  const { values } = parseArgs({
    options: {
      'database-url': { type: 'string' },
      smoke: { type: 'boolean', default: false },
      json: { type: 'boolean', default: false },
      ...options,
    },
  });
  const closing = [];
  const say = (text) => {
    if (!values.json) process.stderr.write(`${text}\n`);
  };
  try {
    const url = values['database-url'] ?? (await embedded(closing));
    const target = fork(new URL('./target.mjs', import.meta.url), { stdio: 'inherit' });
    closing.push(() => target.kill());
    const { port } = await new Promise((resolve) => target.once('message', resolve));
    const session = async () => {
      const client = new pg.Client(url);
      await client.connect();
      closing.push(() => client.end());
      return client;
    };
    const result = await run({
      url,
      target: `http://127.0.0.1:${port}`,
      options: values,
      number: (option, smoke) => (values.smoke ? smoke : Number(values[option])),
      sql: await session(),
      session,
      smoke: values.smoke === true,
      say,
    });
    const report = { benchmark: name, node: process.version, cores: cpus().length, ...result };
    if (values.json) process.stdout.write(`${JSON.stringify(report)}\n`);
    else {
      process.stdout.write(`\n${name} (Node.js ${report.node}, ${report.cores} cores)\n`);
      for (const [key, value] of Object.entries(result)) {
        process.stdout.write(`  ${key.padEnd(44)} ${typeof value === 'object' ? JSON.stringify(value) : value}\n`);
      }
    }
  } finally {
    for (const close of closing.reverse()) await close();
  }
}

async function embedded(closing) {
  const directory = mkdtempSync(join(tmpdir(), 'pgfetch-bench-'));
  // As root, the server runs as another user, who must be able to enter.
  chmodSync(directory, 0o755);
  closing.push(() => rmSync(directory, { recursive: true, force: true }));
  const server = await startEmbeddedPostgres({
    directory,
    settings: { shared_preload_libraries: 'pg_stat_statements', max_connections: '200' },
  });
  closing.push(() => server.stop('fast'));
  const db = await connectPg({
    connectionString: server.connectionString,
    applicationName: 'pgfetch bench',
    connectTimeoutMs: 10_000,
  });
  await install(db);
  await db.close();
  return server.connectionString;
}

/** The value below which `share` of the sorted numbers lie. */
export function percentile(numbers, share) {
  const sorted = [...numbers].sort((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))] ?? Number.NaN;
}

export const median = (numbers) => percentile(numbers, 0.5);
export const rounded = (number, digits = 2) => Number(number.toFixed(digits));
