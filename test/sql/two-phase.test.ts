import pg from 'pg';
import { afterEach, describe, expect, test } from 'vitest';
import { startEchoServer } from '../../src/embedded/echo.ts';
import { createWorker } from '../../src/worker/create.ts';
import type { Worker } from '../../src/worker/worker.ts';
import { installedDatabase } from '../support/installed.ts';
import { availableMajors, startTestPostgres, until } from '../support/servers.ts';

/** Transactions that are prepared and committed, or rolled back, later and by another session. */
describe.each(availableMajors())('two-phase commit on PostgreSQL %i', (major) => {
  const closing: (() => Promise<unknown>)[] = [];

  afterEach(async () => {
    for (const close of closing.splice(0).reverse()) await close();
  });

  async function stage() {
    const server = await startTestPostgres({ major, settings: { max_prepared_transactions: '10' } });
    const { url, name } = await installedDatabase(server);
    const seen: string[] = [];
    const echo = await startEchoServer({ onRequest: ({ path }) => seen.push(path) });
    closing.push(() => echo.close());
    const session = async (): Promise<pg.Client> => {
      const client = new pg.Client(url);
      await client.connect();
      closing.push(() => client.end());
      return client;
    };
    const sql = await session();
    const start = async (): Promise<Worker> => {
      const worker = createWorker({ connectionString: url, allow: ['loopback'], stopTimeoutMs: 2_000 });
      closing.push(() => worker.stop());
      await worker.start();
      return worker;
    };
    /** Enqueues a request for `path` and prepares the transaction under a name of this database's own; returns that name. */
    const prepare = async (path: string): Promise<string> => {
      const transaction = `${name} ${path}`;
      const client = await session();
      await client.query('begin; set local pg_net.wake = off');
      await client.query('select net.http_get($1)', [`${echo.url}${path}`]);
      await client.query(`prepare transaction ${pg.escapeLiteral(transaction)}`);
      return transaction;
    };
    const finish = (how: 'commit' | 'rollback', transaction: string) =>
      sql.query(`${how} prepared ${pg.escapeLiteral(transaction)}`);
    const statusOf = async (path: string): Promise<unknown> =>
      (
        await sql.query(`select status_code from net._http_response where content::jsonb ->> 'url' like $1`, [
          `%${path}`,
        ])
      ).rows[0]?.status_code;
    return { seen, echo, sql, start, prepare, finish, statusOf };
  }

  test('without pg_net.wake = off PREPARE TRANSACTION says what PostgreSQL says, and nothing is sent', async () => {
    const { seen, echo, sql, start } = await stage();
    await start();
    await sql.query('begin');
    await sql.query('select net.http_get($1)', [`${echo.url}/refused`]);
    await expect(sql.query(`prepare transaction 'refused'`)).rejects.toMatchObject({
      code: '0A000',
      message: 'cannot PREPARE a transaction that has executed LISTEN, UNLISTEN, or NOTIFY',
    });
    await sql.query('select net.http_get($1)', [`${echo.url}/get?after`]);
    await until(() => seen.includes('/get?after'), 'a later request is sent');
    expect(seen).not.toContain('/refused');
  });

  test('COMMIT PREPARED wakes nobody; net.wake() does', async () => {
    const { seen, sql, start, prepare, finish, statusOf } = await stage();
    const worker = await start();
    const transaction = await prepare('/get?prepared');
    // A prepared transaction is one that still runs: nobody looks into it.
    await worker.drain();
    expect(seen).toEqual([]);
    await finish('commit', transaction);
    await sql.query('select net.wake()');
    await until(async () => (await statusOf('/get?prepared')) === 200, 'the request is answered');
    expect(seen).toEqual(['/get?prepared']);
  });

  test('the next request wakes for it as well, and so does the start of a worker', async () => {
    const { seen, echo, sql, start, prepare, finish } = await stage();
    const worker = await start();
    await finish('commit', await prepare('/get?first'));
    await sql.query('select net.http_get($1)', [`${echo.url}/get?another`]);
    await until(() => seen.includes('/get?first') && seen.includes('/get?another'), 'both are sent');
    await worker.drain();
    await worker.stop();
    await finish('commit', await prepare('/get?second'));
    await start();
    await until(() => seen.includes('/get?second'), 'the one that was committed beside no worker is sent');
    expect(seen).toHaveLength(3);
  });

  test('one that stays prepared while others are served holds up none of them, and is not passed over', async () => {
    const { seen, echo, sql, start, prepare, finish } = await stage();
    await start();
    const transaction = await prepare('/get?slow');
    // For longer than the worker's low-water mark waits for a transaction that still runs: it goes by this one.
    const endMs = performance.now() + 1_500;
    let sent = 0;
    while (performance.now() < endMs) {
      sent += 1;
      await sql.query('select net.http_get($1)', [`${echo.url}/get?${sent}`]);
    }
    await until(() => seen.length === sent, 'all the others are sent');
    await finish('commit', transaction);
    await sql.query('select net.wake()');
    await until(() => seen.includes('/get?slow'), 'the one that was prepared first is sent');
  });

  test('ROLLBACK PREPARED sends nothing, and leaves nothing', async () => {
    const { seen, sql, start, prepare, finish } = await stage();
    const worker = await start();
    await finish('rollback', await prepare('/get?never'));
    await sql.query('select net.wake()');
    await worker.drain();
    expect(seen).toEqual([]);
    expect((await sql.query('select from net.http_request_queue')).rowCount).toBe(0);
  });

  test('what was prepared survives a restart of the server, as PostgreSQL promises, in durable mode', async () => {
    const server = await startTestPostgres({
      major,
      settings: { max_prepared_transactions: '10', 'pgfetch_test.name': 'prepared, restarted' },
    });
    const { url } = await installedDatabase(server);
    const seen: string[] = [];
    const echo = await startEchoServer({ onRequest: ({ path }) => seen.push(path) });
    closing.push(() => echo.close());
    const run = async (...statements: string[]): Promise<void> => {
      const client = new pg.Client(url);
      await client.connect();
      for (const statement of statements) await client.query(statement);
      await client.end();
    };
    await run('select net.set_durable(true)');
    await run(
      `begin; set local pg_net.wake = off; select net.http_get('${echo.url}/get?durable'); prepare transaction 'durable'`,
    );
    await server.restart('immediate');
    const worker = createWorker({ connectionString: url, allow: ['loopback'] });
    closing.push(() => worker.stop());
    await worker.start();
    await worker.drain();
    expect(seen).toEqual([]);
    await run(`commit prepared 'durable'`, 'select net.wake()');
    await until(() => seen.includes('/get?durable'), 'it is sent');
  });
});
