import type pg from 'pg';
import { describe, expect, test } from 'vitest';
import type { EchoServer } from '../../src/embedded/echo.ts';
import { type CreateWorkerOptions, createWorker } from '../../src/worker/create.ts';
import type { Worker } from '../../src/worker/worker.ts';
import { installedDatabase } from '../support/installed.ts';
import { closedAfterEach, openReceiver, openSession } from '../support/opened.ts';
import { createDatabase, newestMajors, startTestPostgres, type TestServer, until } from '../support/servers.ts';

/** What the worker survives, on every major: each test has a database, a receiver and workers of its own. */
describe.each(newestMajors())('on PostgreSQL %i', (major) => {
  const closing = closedAfterEach();

  const session = (url: string): Promise<pg.Client> => openSession(closing, url);

  const receiver = (): Promise<EchoServer & { readonly seen: string[] }> => openReceiver(closing);

  async function working(
    url: string,
    options: Partial<CreateWorkerOptions> = {},
    wait = true,
  ): Promise<{ worker: Worker; problems: string[] }> {
    const problems: string[] = [];
    const worker = createWorker({ connectionString: url, allow: ['loopback'], stopTimeoutMs: 5_000, ...options });
    worker.on('problem', (error) => problems.push(error.message));
    closing.push(() => worker.stop());
    await worker.start({ wait });
    return { worker, problems };
  }

  async function own(name: string): Promise<TestServer> {
    return startTestPostgres({ major, settings: { 'pgfetch_test.name': name } });
  }

  const answered = (client: pg.Client, id: string) =>
    until(async () => {
      const { rows } = await client.query('select * from net._http_response where id = $1', [id]);
      return rows[0];
    }, `a response to request ${id}`);

  test('a lost connection costs no answer: what was in flight is recorded once it is back', async () => {
    const { url } = await installedDatabase(await startTestPostgres({ major }));
    const echo = await receiver();
    const sql = await session(url);
    const { worker } = await working(url);
    const { rows } = await sql.query(`select net.http_get('${echo.url}/delay/1') as id from generate_series(1, 20)`);
    await until(() => echo.seen.length === 20, 'the requests to be in flight');
    await sql.query(
      `select pg_terminate_backend(pid) from pg_stat_activity where application_name like 'pg_net %' and datname = current_database()`,
    );
    for (const { id } of rows) expect(await answered(sql, id)).toMatchObject({ status_code: 200 });
    await worker.drain();
    expect(echo.seen).toHaveLength(20);
    expect((await sql.query('select count(*)::int from net.http_request_queue')).rows[0].count).toBe(0);
  });

  test.each(['fast', 'immediate'] as const)('goes on by itself after a %s restart of the server', async (mode) => {
    const server = await own(`restart ${mode}`);
    const { url } = await installedDatabase(server);
    const echo = await receiver();
    const { problems } = await working(url);
    await (await session(url)).query(`select net.http_get('${echo.url}/before')`);
    await until(() => echo.seen.includes('/before'), 'a request before the restart');
    await server.restart(mode);
    const sql = await session(url);
    const { rows } = await sql.query(`select net.http_get('${echo.url}/after') as id`);
    expect(await answered(sql, rows[0].id)).toMatchObject({ status_code: 200 });
    // Ids are not used twice, not even where the unlogged tables came back empty.
    expect(Number(rows[0].id)).toBeGreaterThan(1);
    expect(new Set(problems).size).toBe(problems.length);
  });

  test('net.worker_restart() beside several workers: what they have in flight is not sent twice', async () => {
    const { url } = await installedDatabase(await startTestPostgres({ major }));
    const echo = await receiver();
    const sql = await session(url);
    const workers = [await working(url), await working(url), await working(url)];
    await sql.query(
      `select net.http_get($1 || '/delay/1.5', timeout_milliseconds := 20000) from generate_series(1, 500)`,
      [echo.url],
    );
    await until(() => echo.seen.length === 500, 'the requests to be in flight');
    const restarted = workers.map(({ worker }) => new Promise((resolve) => worker.once('ready', resolve)));
    await sql.query('select net.worker_restart()');
    await Promise.all(restarted);
    await until(
      async () => (await sql.query('select count(*)::int as n from net._http_response')).rows[0].n === 500,
      'all responses',
    );
    expect(echo.seen).toHaveLength(500);
  });

  test('waits for a schema that is missing, says so once, and serves when it is there', async () => {
    const server = await startTestPostgres({ major });
    const database = await createDatabase(server);
    const { problems } = await working(database.url, {}, false);
    await until(() => problems.length > 0, 'the problem to be told');
    expect(problems).toEqual([expect.stringMatching(/pgfetch is not installed in database .*pgfetch install/)]);
    const sql = await session(database.url);
    await sql.query('create schema net');
    await until(() => problems.length > 1, 'the foreign schema to be told');
    expect(problems[1]).toMatch(/schema "net" .* is not pgfetch's/);
  });

  test('refuses to send what a restored copy had queued, until it is adopted', async () => {
    const { url } = await installedDatabase(await startTestPostgres({ major }));
    const echo = await receiver();
    const sql = await session(url);
    await sql.query(`select net.http_get('${echo.url}/queued-in-production')`);
    await sql.query(`update net.installation set system_identifier = '1'`);
    const { problems } = await working(url, {}, false);
    await until(() => problems.length > 0, 'the problem to be told');
    expect(problems[0]).toMatch(/is a copy.*pgfetch adopt/s);
    expect(echo.seen).toEqual([]);
    await sql.query('update net.installation set system_identifier = net._system_identifier()');
    await until(() => echo.seen.includes('/queued-in-production'), 'the request to be sent after adoption');
  });

  test('refuses a schema of another version', async () => {
    const { url } = await installedDatabase(await startTestPostgres({ major }));
    await (await session(url)).query(`update net.installation set schema_version = 99, version = '9.9.9'`);
    const { problems } = await working(url, {}, false);
    await until(() => problems.length > 0, 'the problem to be told');
    expect(problems[0]).toMatch(/version 9\.9\.9.*Update the worker/s);
  });

  test('says that an object of the schema is missing, and serves when it is back', async () => {
    const { url } = await installedDatabase(await startTestPostgres({ major }));
    const echo = await receiver();
    const sql = await session(url);
    const { problems } = await working(url);
    await sql.query('alter table net.worker rename column restart_seen to mislaid');
    await sql.query('select net.worker_restart()');
    await until(() => problems.length > 0, 'the problem to be told');
    expect(problems).toEqual([expect.stringMatching(/restart_seen.* does not exist.*pgfetch doctor/)]);
    await sql.query('alter table net.worker rename column mislaid to restart_seen');
    await sql.query(`select net.http_get('${echo.url}/whole')`);
    await until(() => echo.seen.includes('/whole'), 'a request by the whole schema');
    expect(problems).toHaveLength(1);
  });

  test('says which rights are missing', async () => {
    const server = await startTestPostgres({ major });
    const { url, name } = await installedDatabase(server);
    const sql = await session(url);
    await sql.query(`create role powerless_${name} login`);
    closing.push(() => sql.query(`drop role powerless_${name}`));
    const { problems, worker } = await working(url.replace('postgres@', `powerless_${name}@`), {}, false);
    await until(() => problems.length > 0, 'the problem to be told');
    expect(problems[0]).toMatch(/permission denied|may not serve/);
    await worker.stop();
  });

  test('stop() gives back what it cannot finish, and another worker sends it', async () => {
    const { url } = await installedDatabase(await startTestPostgres({ major }));
    const echo = await receiver();
    const sql = await session(url);
    const { worker } = await working(url, { stopTimeoutMs: 100 });
    const { rows } = await sql.query(`select net.http_get('${echo.url}/delay/5', timeout_milliseconds := 9000) as id`);
    await until(() => echo.seen.length === 1, 'the request to be in flight');
    await worker.stop();
    const [row] = (await sql.query('select claimed_by, due_at from net.http_request_queue')).rows;
    expect(row).toMatchObject({ claimed_by: null, due_at: expect.any(Date) });
    expect((await sql.query('select * from net.worker')).rows).toEqual([]);
    await working(url);
    expect(await answered(sql, rows[0].id)).toMatchObject({ status_code: 200 });
    expect(echo.seen).toHaveLength(2);
  });

  test('worker_restart makes it read its settings again; a flood of them starves nobody', async () => {
    const server = await startTestPostgres({ major });
    const { url, name } = await installedDatabase(server);
    const echo = await receiver();
    const sql = await session(url);
    await working(url);
    await sql.query(`alter database ${name} set pg_net.concurrency to 1`);
    expect((await sql.query('select net.worker_restart() as ok')).rows).toEqual([{ ok: true }]);
    await sql.query('select net.wait_until_running()');
    await sql.query(`select net.http_get('${echo.url}/delay/0.2') from generate_series(1, 3)`);
    await until(() => echo.seen.length === 1, 'the first of three');
    const claimed = await sql.query('select count(*)::int from net.http_request_queue where claimed_by is not null');
    expect(claimed.rows[0].count).toBe(1);
    for (let i = 0; i < 100; i++) {
      await sql.query('select net.worker_restart()');
      await sql.query(`select net.http_get('${echo.url}/flood/${i}')`);
    }
    await until(() => echo.seen.includes('/flood/99'), 'the last request of the flood', 20_000);
  });

  test('connects where pg_net.database_name and pg_net.username say, and keeps the old where it cannot', async () => {
    const server = await own('database_name');
    const first = await installedDatabase(server);
    const second = await installedDatabase(server);
    const echo = await receiver();
    const inFirst = await session(first.url);
    const inSecond = await session(second.url);
    await inFirst.query(`alter database ${first.name} set pg_net.database_name to '${second.name}'`);
    const { problems } = await working(first.url);
    await inSecond.query(`select net.http_get('${echo.url}/second')`);
    await until(() => echo.seen.includes('/second'), 'a request of the database that the setting names');
    await inFirst.query(`alter database ${first.name} set pg_net.database_name to 'nowhere'`);
    await inSecond.query('select net.worker_restart()');
    await inFirst.query(`select net.http_get('${echo.url}/first')`);
    await until(() => echo.seen.includes('/first'), 'a request of the connection string’s database');
    expect(problems.join()).toMatch(/pg_net\.database_name.*nowhere.*keeping/s);
  });

  test('a request that came back later than the mark is found at its time', async () => {
    const { url } = await installedDatabase(await startTestPostgres({ major }));
    const echo = await receiver();
    const sql = await session(url);
    await working(url);
    await sql.query('begin');
    await sql.query(`select net.http_get('${echo.url}/later')`);
    await sql.query(`update net.http_request_queue set due_at = clock_timestamp() + interval '2 seconds'`);
    await sql.query('commit');
    await sql.query(`select net.http_get('${echo.url}/now')`);
    await until(() => echo.seen.includes('/now'), 'the request that is due now');
    expect(echo.seen).not.toContain('/later');
    await until(() => echo.seen.includes('/later'), 'the request that fell due');
  });
});
