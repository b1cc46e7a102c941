// What every benchmark stands on: a database with pgfetch installed, the target, workers, and one way to report.
import { randomBytes } from 'node:crypto';
import { chmodSync, mkdtempSync, rmSync } from 'node:fs';
import { cpus, tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import pg from 'pg';
import { connectPg, install, startEmbeddedPostgres } from '../dist/index.js';
import { markdownRows, printed } from './printing.mjs';
import { startTarget, startWorker } from './processes.mjs';

/**
 * Runs a benchmark: `--database-url` names a server of your own that has the same SQL surface, without it an embedded PostgreSQL 18
 * is started. Where the server has a worker of its own (pg_net itself, or one that you started), `--worker none` starts none.
 * `--smoke` is for CI: as little as shows that it works. `--json` prints JSON alone, `--markdown` the rows of docs/performance.md.
 *
 * `run` returns what was measured, by name, and the `rows` of the table of docs/performance.md.
 *
 * @param {string} name
 * @param {Record<string, { type: 'string' | 'boolean', default?: string | boolean }>} options
 * @param {(stage: Stage) => Promise<{ measured: object, rows?: Row[] }>} run
 *
 * @typedef {{ what: string, here: string, wanted?: string, pgNet?: string }} Row
 * @typedef {{
 *   url: string, sql: pg.Client, session: (url?: string) => Promise<pg.Client>, database: () => Promise<string>,
 *   target: Awaited<ReturnType<typeof startTarget>>, worker: () => Promise<import('./processes.mjs').Observed | undefined>,
 *   ownWorker: (start?: (url: string, say: (text: string) => void) => Promise<import('./processes.mjs').Observed>) => Promise<import('./processes.mjs').Observed>,
 *   until: (condition: () => Promise<boolean>, limitSeconds?: number) => Promise<void>,
 *   recorded: (count: number, sql?: pg.Client) => Promise<void>, empty: () => Promise<void>, emptyForGood: () => Promise<void>, options: Record<string, string | boolean | undefined>,
 *   number: (name: string, smoke: number) => number, smoke: boolean, say: (text: string) => void,
 * }} Stage
 */
export async function benchmark(name, options, run) {
  const { values } = parseArgs({
    options: {
      'database-url': { type: 'string' },
      // The address of this machine, as the server's own worker reaches it.
      'target-host': { type: 'string', default: '127.0.0.1' },
      worker: { type: 'string', default: 'process' },
      smoke: { type: 'boolean', default: false },
      json: { type: 'boolean', default: false },
      markdown: { type: 'boolean', default: false },
      ...options,
    },
  });
  const closing = [];
  let closed;
  const close = () => {
    closed ??= (async () => {
      // One that fails leaves no less for the others to do.
      while (closing.length > 0) await Promise.allSettled([closing.pop()()]);
    })();
    return closed;
  };
  for (const signal of ['SIGINT', 'SIGTERM']) {
    process.once(signal, () => void close().finally(() => process.exit(1)));
  }
  const say = (text) => {
    if (!values.json) process.stderr.write(`${text}\n`);
  };
  try {
    const stage = await prepare(values, closing, say);
    const { measured, rows = [] } = await Promise.race([run(stage), stage.workerFailed]);
    // The next benchmark on that server finds the tables as this one did.
    if (values['database-url'] !== undefined) await stage.emptyForGood();
    const report = { benchmark: name, node: process.version, cores: cpus().length, ...measured, rows };
    if (values.json) process.stdout.write(`${JSON.stringify(report)}\n`);
    else if (values.markdown) process.stdout.write(markdownRows(report));
    else process.stdout.write(printed(report));
  } finally {
    await close();
  }
}

async function prepare(values, closing, say) {
  const given = values['database-url'];
  const url = given ?? (await embedded(closing));
  const target = await startTarget(values['target-host']);
  closing.push(() => target.stop());

  const session = async (of = url) => {
    const client = new pg.Client(of);
    // Queries fail by themselves; between them, a server that goes away tells nobody.
    client.on('error', () => {});
    await client.connect();
    closing.push(() => client.end());
    return client;
  };
  const sql = await session();
  await checkTables(sql, given);

  let onWorkerFailed = (_error) => {};
  const workerFailed = new Promise((_, reject) => {
    onWorkerFailed = reject;
  });
  workerFailed.catch(() => {});
  const ownWorker = async (start = startWorker, of = url) => {
    if (values.worker === 'none')
      throw new Error('this benchmark looks at pgfetch’s own worker: run it without --worker none');
    const worker = await start(of, say);
    worker.failed.catch(onWorkerFailed);
    closing.push(() => worker.stop());
    return worker;
  };
  const until = async (condition, limitSeconds = 600) => {
    const began = performance.now();
    for (;;) {
      const asked = performance.now();
      if (await condition()) return;
      if (performance.now() - began > limitSeconds * 1_000)
        throw new Error(`not so after ${limitSeconds} s: ${condition}`);
      // Asking takes the server's time too: not more than a third of it.
      await sleep(Math.min(200, Math.max(1, 2 * (performance.now() - asked))));
    }
  };
  const empty = () => sql.query('truncate net.http_request_queue, net._http_response');
  return {
    url,
    sql,
    session,
    target,
    ownWorker,
    until,
    workerFailed,
    say,
    smoke: values.smoke === true,
    options: values,
    worker: async () => (values.worker === 'none' ? undefined : await ownWorker()),
    number: (option, smoke) => (values.smoke ? smoke : Number(values[option])),
    database: async () => {
      const name = `pgfetch_bench_${randomBytes(4).toString('hex')}`;
      await sql.query(`create database ${name}`);
      closing.push(() => sql.query(`drop database if exists ${name} with (force)`));
      const of = new URL(url);
      of.pathname = `/${name}`;
      return of.href;
    },
    recorded: (count, of = sql) =>
      until(async () => {
        const { rows } = await of.query('select count(*)::int as recorded from net._http_response');
        return rows[0].recorded >= count;
      }),
    empty,
    /** What a worker has under way when the queue is emptied is recorded all the same, a little later. */
    emptyForGood: () =>
      until(async () => {
        await empty();
        await sleep(200);
        return !(await hasRows(sql));
      }, 20),
  };
}

/** The benchmarks empty both tables, so what they hold must be nobody's. */
async function checkTables(sql, given) {
  const { rows } = await sql.query(`select to_regclass('net._http_response') is not null as installed`);
  if (!rows[0].installed) throw new Error('there is no schema net in this database: pgfetch install -d ...');
  if (given !== undefined && (await hasRows(sql))) {
    throw new Error(
      'net.http_request_queue or net._http_response has rows, and benchmarks empty both: use a database of its own, or TRUNCATE them',
    );
  }
}

async function hasRows(sql) {
  const { rows } = await sql.query(
    'select exists (select from net.http_request_queue) or exists (select from net._http_response) as some',
  );
  return rows[0].some;
}

/** A server of this benchmark's own: nothing is left of it. */
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
  await installInto(server.connectionString);
  return server.connectionString;
}

export async function installInto(connectionString) {
  const db = await connectPg({ connectionString, applicationName: 'pgfetch bench', connectTimeoutMs: 10_000 });
  try {
    await install(db);
  } finally {
    await db.close();
  }
}
