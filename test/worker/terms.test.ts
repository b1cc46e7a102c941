import type pg from 'pg';
import { describe, expect, test } from 'vitest';
import { type CreateWorkerOptions, createWorker } from '../../src/worker/create.ts';
import { startGate } from '../contract/gate.ts';
import { installedDatabase } from '../support/installed.ts';
import { closedAfterEach, openReceiver, openSession } from '../support/opened.ts';
import { startTestPostgres, until } from '../support/servers.ts';

/**
 * What a worker serves by is changed in a transaction that runs on: workers learn that a restart is asked for before they can
 * see why, since a sequence counts restarts. They must see it when it has committed.
 */
describe.each([
  ['that listens', {}],
  ['that polls', { prepare: false }],
] satisfies [string, Partial<CreateWorkerOptions>][])('a worker %s', (_, options) => {
  const closing = closedAfterEach();

  async function working(url: string) {
    let ready = 0;
    const worker = createWorker({
      connectionString: url,
      allow: ['loopback'],
      leaseMs: 1_000,
      stopTimeoutMs: 1_000,
      ...options,
    });
    worker.on('ready', () => {
      ready += 1;
    });
    closing.push(() => worker.stop());
    await worker.start();
    return { worker, ready: () => ready };
  }

  /** Returns once the worker has restarted in the middle of the transaction; it holds a request, and so renews its lease. */
  async function changeSlowly(sql: pg.Client, echoUrl: string, ready: () => number, change: string): Promise<void> {
    await sql.query(`select net.http_get($1, timeout_milliseconds := 60000)`, [`${echoUrl}/delay/30`]);
    const before = ready();
    await sql.query('begin');
    await sql.query(change);
    await until(() => ready() > before, 'the restart before the commit');
    await sql.query('commit');
  }

  test('sees a policy', async () => {
    const { url } = await installedDatabase(await startTestPostgres({ major: 18 }));
    const echo = await openReceiver(closing);
    const sql = await openSession(closing, url);
    const { ready } = await working(url);
    await changeSlowly(sql, echo.url, ready, `insert into net.policy values (null, 'nowhere.example', null)`);
    // By hand, so that the worker alone stands in its way.
    await until(async () => {
      await sql.query(
        `insert into net.http_request_queue (method, url, headers, timeout_milliseconds)
         values ('GET', $1, '{}', 1000)`,
        [`${echo.url}/get`],
      );
      await sql.query('select net.wake()');
      const denied = await sql.query(`select from net._http_response where error_msg like '%net.policy%'`);
      return (denied.rowCount ?? 0) > 0;
    }, 'a request to be refused');
  });

  test('sees a setting', async () => {
    const { url } = await installedDatabase(await startTestPostgres({ major: 18 }));
    const echo = await openReceiver(closing);
    const sql = await openSession(closing, url);
    const { ready } = await working(url);
    const change = `do $$ begin
      execute format('alter database %I set pg_net.max_response_bytes = 1024', current_database());
      perform net.worker_restart();
    end $$`;
    await changeSlowly(sql, echo.url, ready, change);
    await until(async () => {
      await sql.query(`select net.http_post($1, jsonb_build_object('x', repeat('x', 5000)))`, [`${echo.url}/post`]);
      return (await sql.query('select from net._http_response where truncated')).rowCount !== 0;
    }, 'a response to be cut');
  });

  test('sees what has changed between its reading and its registering', async () => {
    const { url } = await installedDatabase(await startTestPostgres({ major: 18 }));
    const sql = await openSession(closing, url);
    const locking = await openSession(closing, url);
    // It waits for this where it registers, after it has read its settings.
    await locking.query('begin; lock table net.worker in access exclusive mode');
    let ready = 0;
    const worker = createWorker({ connectionString: url, ...options });
    worker.on('ready', () => {
      ready += 1;
    });
    closing.push(() => worker.stop());
    await worker.start({ wait: false });
    await until(async () => {
      const waiting = await sql.query(
        `select from pg_locks where relation = 'net.worker'::regclass and not granted
         and database = (select oid from pg_database where datname = current_database())`,
      );
      return waiting.rowCount === 1;
    }, 'the worker to register');
    await sql.query(
      `do $$ begin execute format('alter database %I set pg_net.concurrency = 7', current_database()); end $$`,
    );
    await locking.query('commit');
    await until(() => ready === 2, 'the worker to restart');
  });

  test('holds to a policy in what it had claimed before, too', async () => {
    const { url } = await installedDatabase(await startTestPostgres({ major: 18 }));
    const sql = await openSession(closing, url);
    const gate = await startGate();
    closing.push(() => gate.open());
    await sql.query(
      `do $$ begin execute format('alter database %I set pg_net.concurrency_per_origin = 1', current_database()); end $$`,
    );
    const { worker, ready } = await working(url);
    await sql.query(`select net.http_get($1 || n, timeout_milliseconds := 60000) from generate_series(1, 5) n`, [
      `${gate.url}/`,
    ]);
    await until(() => gate.waiting() === 1 && worker.held === 5, 'one to be in flight and the others to wait for room');
    const before = ready();
    await sql.query(`insert into net.policy values (null, 'nowhere.example', null)`);
    await until(() => ready() > before, 'the restart');
    gate.letOneThrough();
    await until(async () => (await sql.query('select from net._http_response')).rowCount === 5, 'all to be done');
    const denied = await sql.query(`select from net._http_response where error_msg like '%net.policy%'`);
    expect(denied.rowCount).toBe(4);
  });

  test('sees a pause', async () => {
    const { url } = await installedDatabase(await startTestPostgres({ major: 18 }));
    const echo = await openReceiver(closing);
    const sql = await openSession(closing, url);
    const { worker, ready } = await working(url);
    const paused = new Promise((resolve) => worker.once('paused', resolve));
    await changeSlowly(sql, echo.url, ready, 'select net.set_paused(true)');
    await paused;
    await until(async () => (await sql.query('select from net.worker')).rowCount === 0, 'the worker to leave');
  });
});
