import type pg from 'pg';
import { describe, expect, test } from 'vitest';
import type { EchoServer } from '../../src/embedded/echo.ts';
import type { Database } from '../../src/postgres/database.ts';
import { connectPg } from '../../src/postgres/pg.ts';
import { adopt } from '../../src/schema/adopt.ts';
import { type CreateWorkerOptions, createWorker } from '../../src/worker/create.ts';
import { Worker } from '../../src/worker/worker.ts';
import { installedDatabase } from '../support/installed.ts';
import { closedAfterEach, openReceiver, openSession } from '../support/opened.ts';
import { newestMajors, startTestPostgres, type TestServer, until } from '../support/servers.ts';

/** `net.set_paused`: the workers leave a database, and come back. */
describe.each(newestMajors())('on PostgreSQL %i', (major) => {
  const closing = closedAfterEach();

  const session = (url: string): Promise<pg.Client> => openSession(closing, url);

  const receiver = (): Promise<EchoServer & { readonly seen: string[] }> => openReceiver(closing);

  async function working(
    url: string,
    options: Partial<CreateWorkerOptions> = {},
    wait = true,
  ): Promise<{ worker: Worker; log: string[] }> {
    const log: string[] = [];
    const line =
      (level: string) =>
      (_fields: object, message: string): void => {
        log.push(`${level} ${message}`);
      };
    const worker = createWorker({
      connectionString: url,
      allow: ['loopback'],
      log: { info: line('info'), warn: line('warn'), error: line('error') },
      ...options,
    });
    closing.push(() => worker.stop());
    await worker.start({ wait });
    return { worker, log };
  }

  const server = (): Promise<TestServer> => startTestPostgres({ major });
  const admin = async (): Promise<pg.Client> => session((await server()).connectionString);

  const registered = async (sql: pg.Client): Promise<number> =>
    (await sql.query<{ n: number }>('select count(*)::int as n from net.worker')).rows[0]?.n ?? -1;

  const workerSessions = async (sql: pg.Client, database: string): Promise<number> =>
    (
      await sql.query<{ n: number }>(
        `select count(*)::int as n from pg_stat_activity where datname = $1 and application_name like 'pg\\_net %'`,
        [database],
      )
    ).rows[0]?.n ?? -1;

  const answers = async (sql: pg.Client): Promise<number> =>
    (await sql.query<{ n: number }>('select count(*)::int as n from net._http_response where status_code = 200'))
      .rows[0]?.n ?? -1;

  test('under 10,000 queued requests: two workers leave, and the database can be dropped', async () => {
    const { url, name } = await installedDatabase(await server());
    const echo = await receiver();
    const sql = await session(url);
    await working(url);
    const { log } = await working(url);
    await sql.query(
      `select net.http_get($1 || '/delay/0.2', timeout_milliseconds := 20000) from generate_series(1, 10000)`,
      [echo.url],
    );
    await until(() => echo.seen.length > 100, 'the requests to be in flight');
    await sql.query('select net.set_paused(true)');
    await until(async () => (await registered(sql)) === 0, 'both workers to leave');
    // What was in flight has been finished, and nothing else was begun.
    const { rows } = await sql.query<{ waiting: number; claimed: number }>(
      'select count(*)::int as waiting, count(claimed_by)::int as claimed from net.http_request_queue',
    );
    expect(rows[0]).toEqual({ waiting: 10_000 - echo.seen.length, claimed: 0 });
    expect(await answers(sql)).toBe(echo.seen.length);
    await sql.end();
    await (await admin()).query(`drop database ${name}`);
    await until(() => log.some((line) => /does not exist/.test(line)), 'a worker to find that it is gone');
  });

  test('what is enqueued meanwhile waits; afterwards it is sent, and each is said once', async () => {
    const { url, name } = await installedDatabase(await server());
    const echo = await receiver();
    const sql = await session(url);
    const { worker, log } = await working(url);
    const paused: object[] = [];
    worker.on('paused', (pause) => paused.push(pause));
    await sql.query('select net.set_paused(true)');
    await sql.query('select net.set_paused(true)');
    const watcher = await admin();
    await until(async () => (await registered(sql)) === 0, 'the worker to leave');
    await until(async () => (await workerSessions(watcher, name)) === 0, 'its session to end');
    await sql.query('select net.http_get($1)', [`${echo.url}/get`]);
    await expect(sql.query('select net.check_worker_is_up()')).rejects.toMatchObject({
      message: 'the pg_net background worker is not up',
      detail: expect.stringMatching(/paused since/),
    });
    // A worker that starts now does not serve either.
    const second = await working(url, {}, false);
    await until(() => second.log.length > 0, 'the second worker to look');
    expect(echo.seen).toEqual([]);
    await sql.query('select net.set_paused(false)');
    await until(async () => (await answers(sql)) === 1, 'the request to be sent');
    await until(() => log.length === 4, 'the first worker to come back');
    expect(log).toEqual([
      'info serving',
      expect.stringMatching(/^warn paused since 20.* UTC by postgres: .*stays away until: pgfetch resume$/),
      'info the pause has ended',
      'info serving',
    ]);
    expect(paused).toEqual([{ database: name, since: expect.any(Date), by: 'postgres' }]);
    expect(second.log[0]).toMatch(/^warn paused since/);
  });

  test('what cannot be finished in time is given back, and sent after the pause', async () => {
    const { url } = await installedDatabase(await server());
    const echo = await receiver();
    const sql = await session(url);
    const { log } = await working(url, { stopTimeoutMs: 0 });
    await sql.query(`select net.http_get($1 || '/delay/0.5', timeout_milliseconds := 20000)`, [echo.url]);
    await until(() => echo.seen.length === 1, 'the request to be in flight');
    await sql.query('select net.set_paused(true)');
    await until(async () => (await registered(sql)) === 0, 'the worker to leave');
    const { rows } = await sql.query('select claimed_by, due_at <= now() as is_due from net.http_request_queue');
    expect(rows).toEqual([{ claimed_by: null, is_due: true }]);
    expect(log.some((line) => /1 requests in flight: they are given back/.test(line))).toBe(true);
    await sql.query('select net.set_paused(false)');
    await until(async () => (await answers(sql)) === 1, 'the request to be sent again');
    expect(echo.seen).toHaveLength(2);
  });

  test('a worker that polls, and hears no notification, leaves too', async () => {
    const { url } = await installedDatabase(await server());
    const sql = await session(url);
    await working(url, { prepare: false, pollEveryMs: 10, leaseMs: 1_000 });
    await sql.query('select net.set_paused(true)');
    await until(async () => (await registered(sql)) === 0, 'the worker to leave');
  });

  test('a pause that commits while a worker connects, too early for it to be notified, is not missed', async () => {
    const { url } = await installedDatabase(await server());
    const sql = await session(url);
    let connections = 0;
    const connect = async (): Promise<Database> => {
      const db = await connectPg({ connectionString: url, applicationName: 'pg_net test', connectTimeoutMs: 10_000 });
      connections += 1;
      return {
        kind: db.kind,
        ended: db.ended,
        query: (statement, parameters) => db.query(statement, parameters),
        execute: (script) => db.execute(script),
        transaction: (work) => db.transaction(work),
        reset: () => db.reset(),
        ping: (timeoutMs) => db.ping(timeoutMs),
        close: () => db.close(),
        // It has looked whether the database is paused, and does not listen yet.
        listen: async (channel, onNotify) => {
          await sql.query('select net.set_paused(true)');
          return db.listen(channel, onNotify);
        },
      };
    };
    const worker = new Worker({
      connect,
      send: () => Promise.reject(new Error('nothing is to be sent')),
      name: 'pause',
      version: '0',
      stopTimeoutMs: 1_000,
      timing: { pausedEveryMs: 10 },
    });
    closing.push(() => worker.stop());
    const paused = new Promise((resolve) => worker.once('paused', resolve));
    await worker.start({ wait: false });
    await paused;
    await until(async () => (await registered(sql)) === 0, 'the worker to leave');
    await until(() => connections > 3, 'it to look again and again');
    expect(await registered(sql)).toBe(0);
  });

  test('outlasts a crash of the server; a stop ends the waiting at once', async () => {
    const own = await startTestPostgres({ major, settings: { 'pgfetch_test.name': 'pause' } });
    const { url } = await installedDatabase(own);
    const before = await session(url);
    const { worker } = await working(url);
    const hasPaused = new Promise((resolve) => worker.once('paused', resolve));
    await before.query('select net.set_paused(true)');
    await hasPaused;
    await own.restart('immediate');
    const sql = await session(url);
    expect((await sql.query('select count(*)::int as n from net.pause')).rows).toEqual([{ n: 1 }]);
    const { log } = await working(url, {}, false);
    await until(() => log.length > 0, 'a worker to look');
    expect(log[0]).toMatch(/^warn paused since/);
    await worker.stop();
  });

  test('a pause that is rolled back keeps nobody away', async () => {
    const { url } = await installedDatabase(await server());
    const echo = await receiver();
    const sql = await session(url);
    const { log } = await working(url);
    await sql.query('begin');
    await sql.query('select net.set_paused(true)');
    await sql.query('rollback');
    await sql.query('select net.http_get($1)', [`${echo.url}/get`]);
    await until(async () => (await answers(sql)) === 1, 'the request to be sent');
    expect(log).toEqual(['info serving']);
  });

  test('is for the owner of the schema and net_admin; everybody may see it', async () => {
    const { url, name } = await installedDatabase(await server());
    const sql = await session(url);
    const role = (kind: string): string => `pause_${kind}_${name}`;
    for (const kind of ['nobody', 'worker', 'admin']) {
      await sql.query(`create role ${role(kind)} login`);
      closing.push(() => sql.query(`drop role ${role(kind)}`));
    }
    await sql.query(`grant net_worker to ${role('worker')}`);
    await sql.query(`grant net_admin to ${role('admin')}`);
    const as = (kind: string): Promise<pg.Client> => session(url.replace('postgres@', `${role(kind)}@`));
    for (const kind of ['nobody', 'worker']) {
      await expect((await as(kind)).query('select net.set_paused(true)')).rejects.toMatchObject({ code: '42501' });
    }
    await (await as('admin')).query('select net.set_paused(true)');
    const { rows } = await (await as('nobody')).query(
      'select login_role::regrole::text as by from net.pause where since <= now()',
    );
    expect(rows).toEqual([{ by: role('admin') }]);
    await expect((await as('nobody')).query('delete from net.pause')).rejects.toMatchObject({ code: '42501' });
    await (await as('admin')).query('select net.set_paused(false)');
    expect((await sql.query('select from net.pause')).rows).toHaveLength(0);
  });

  test('lets the database be a template; adopting the copy ends the pause there alone', async () => {
    const { url, name } = await installedDatabase(await server());
    const sql = await session(url);
    await working(url);
    await sql.query('select net.set_paused(true)');
    await until(async () => (await registered(sql)) === 0, 'the worker to leave');
    await sql.end();
    const copier = await admin();
    await copier.query(`create database ${name}_copy template ${name}`);
    closing.push(() => copier.query(`drop database ${name}_copy with (force)`));
    const copyUrl = url.replace(name, `${name}_copy`);
    const copy = await connectPg({ connectionString: copyUrl, applicationName: 'pause', connectTimeoutMs: 10_000 });
    closing.push(() => copy.close());
    const { lines } = await adopt(copy, { queue: 'discard' });
    expect(lines).toContain('The pause that was copied along is ended.');
    await working(copyUrl);
    expect((await (await session(url)).query('select from net.pause')).rows).toHaveLength(1);
  });
});
