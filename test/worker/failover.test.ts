import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import type pg from 'pg';
import { describe, expect, test } from 'vitest';
import { createWorker } from '../../src/worker/create.ts';
import type { Worker } from '../../src/worker/worker.ts';
import { installedDatabase } from '../support/installed.ts';
import { closedAfterEach, openSession } from '../support/opened.ts';
import { type Relay, startRelay } from '../support/relay.ts';
import { newestMajors, startTestPostgres, type TestMajor, until } from '../support/servers.ts';
import { startStandby } from '../support/standby.ts';

/** A primary with a streaming standby; the address that the worker knows moves from one to the other. */
describe.skipIf(process.platform === 'win32').each(newestMajors())('on PostgreSQL %i', (major: TestMajor) => {
  const closing = closedAfterEach();

  const session = (url: string): Promise<pg.Client> => openSession(closing, url);

  /** Answers what it holds, and everything later, when told to. */
  async function holdingReceiver() {
    const held: (() => void)[] = [];
    const seen: string[] = [];
    let isOpen = false;
    const server = createServer((request, response) => {
      seen.push(request.url ?? '');
      if (isOpen) response.end('done');
      else held.push(() => response.end('done'));
    });
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    closing.push(() => {
      server.closeAllConnections();
      return new Promise((resolve) => server.close(resolve));
    });
    return {
      url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
      seen,
      open: () => {
        isOpen = true;
        for (const release of held.splice(0)) release();
      },
    };
  }

  async function pair(name: string) {
    const primary = await startTestPostgres({ major, settings: { 'pgfetch_test.name': name } });
    const database = await installedDatabase(primary);
    const standby = await startStandby(primary, major);
    closing.push(() => standby.stop('immediate'));
    const sql = await session(database.url);
    await until(
      async () => (await sql.query(`select from pg_stat_replication where state = 'streaming'`)).rowCount === 1,
      'the standby streams',
    );
    const standbyUrl = database.url.replace(`:${primary.port}/`, `:${standby.port}/`);
    const relay = await startRelay(primary.port);
    closing.push(() => relay.close());
    /** Waits until the standby has all that the primary has committed. */
    const caughtUp = (): Promise<unknown> =>
      until(
        async () =>
          (
            await sql.query(
              `select from pg_stat_replication where replay_lsn >= (select pg_current_wal_flush_lsn()) and replay_lsn is not null`,
            )
          ).rowCount === 1,
        'the standby has caught up',
      );
    return { primary, standby, database, standbyUrl, relay, sql, caughtUp };
  }

  async function working(url: string, relay: Relay, wait = true): Promise<{ worker: Worker; problems: string[] }> {
    const problems: string[] = [];
    const worker = createWorker({ connectionString: relay.through(url), allow: ['loopback'], stopTimeoutMs: 5_000 });
    worker.on('problem', (error) => problems.push(error.message));
    closing.push(() => worker.stop());
    await worker.start({ wait });
    return { worker, problems };
  }

  const isStandby = /is a standby \(read-only\).*promoted/;

  test('a failover in the middle of durable work: the worker waits, says so once, and everything is answered', async () => {
    const { primary, standby, database, standbyUrl, relay, sql, caughtUp } = await pair('failover');
    const receiver = await holdingReceiver();
    await sql.query('select net.set_durable(true)');
    const { problems } = await working(database.url, relay);
    await sql.query(
      `select net.http_get('${receiver.url}/' || n, timeout_milliseconds := 60000) from generate_series(1, 500) n`,
    );
    await until(() => receiver.seen.length >= 50, 'many are in flight');
    await caughtUp();

    await primary.stop('immediate');
    relay.cut();
    await until(() => problems.length > 0, 'the loss to be told');
    relay.pointTo(standby.port);
    await until(() => problems.some((problem) => isStandby.test(problem)), 'the standby to be told');
    // What is in flight is answered while there is nowhere to record it.
    receiver.open();
    const promoted = await session(standbyUrl);
    await promoted.query('select pg_promote()');
    await until(
      async () => (await promoted.query('select count(*)::int as n from net._http_response')).rows[0].n === 500,
      'everything is answered',
      30_000,
    );
    const { rows } = await promoted.query(
      'select count(distinct id)::int as ids, min(status_code) as low, max(status_code) as high from net._http_response',
    );
    expect(rows).toEqual([{ ids: 500, low: 200, high: 200 }]);
    expect((await promoted.query('select from net.http_request_queue')).rowCount).toBe(0);
    expect(new Set(receiver.seen).size).toBe(500);
    expect(problems.filter((problem) => isStandby.test(problem))).toHaveLength(1);
    expect(new Set(problems).size).toBe(problems.length);
    // It is woken there, too.
    await promoted.query(`select net.http_get('${receiver.url}/afterwards')`);
    await until(() => receiver.seen.includes('/afterwards'), 'a request on the new primary');
  });

  test.each(['fast', 'immediate'] as const)(
    'a %s restart in the middle of durable work: everything is answered',
    async (mode) => {
      const server = await startTestPostgres({ major, settings: { 'pgfetch_test.name': `durable, ${mode}` } });
      const database = await installedDatabase(server);
      const receiver = await holdingReceiver();
      const sql = await session(database.url);
      await sql.query('select net.set_durable(true)');
      const relay = await startRelay(server.port);
      closing.push(() => relay.close());
      const { problems } = await working(database.url, relay);
      await sql.query(
        `select net.http_get('${receiver.url}/' || n, timeout_milliseconds := 60000) from generate_series(1, 500) n`,
      );
      await until(() => receiver.seen.length >= 50, 'many are in flight');
      await server.restart(mode);
      receiver.open();
      const after = await session(database.url);
      await until(
        async () => (await after.query('select count(*)::int as n from net._http_response')).rows[0].n === 500,
        'everything is answered',
        30_000,
      );
      expect((await after.query('select from net.http_request_queue')).rowCount).toBe(0);
      expect(new Set(receiver.seen).size).toBe(500);
      // A clean restart keeps the registration: what was in flight is recorded, and not sent again.
      if (mode === 'fast') expect(receiver.seen).toHaveLength(500);
      expect(problems.length).toBeGreaterThan(0);
      expect(new Set(problems).size).toBe(problems.length);
    },
  );

  test('without durable mode the queue does not come along; the worker and the ids go on', async () => {
    const { primary, standby, database, standbyUrl, relay, sql, caughtUp } = await pair('failover, not durable');
    const receiver = await holdingReceiver();
    receiver.open();
    const { worker } = await working(database.url, relay);
    const before = await sql.query(`select net.http_get('${receiver.url}/before') as id`);
    await worker.drain();
    await caughtUp();
    await primary.stop('immediate');
    relay.cut();
    relay.pointTo(standby.port);
    const promoted = await session(standbyUrl);
    await promoted.query('select pg_promote()');
    const { rows } = await promoted.query(`select net.http_get('${receiver.url}/after') as id`);
    await until(
      async () => (await promoted.query('select from net._http_response where id = $1', [rows[0].id])).rowCount === 1,
      'a request on the new primary is answered',
      20_000,
    );
    expect(Number(rows[0].id)).toBeGreaterThan(Number(before.rows[0].id));
  });

  test('a worker that is started on a standby serves as soon as that is promoted', async () => {
    const { standby, standbyUrl, relay, sql, caughtUp } = await pair('standby first');
    const receiver = await holdingReceiver();
    receiver.open();
    await sql.query('select net.set_durable(true)');
    await sql.query(`select net.http_get('${receiver.url}/queued-on-the-primary')`);
    await caughtUp();
    relay.pointTo(standby.port);
    const { problems } = await working(standbyUrl, relay, false);
    await until(() => problems.length > 0, 'the standby to be told');
    expect(problems).toEqual([expect.stringMatching(isStandby)]);
    await (await session(standbyUrl)).query('select pg_promote()');
    await until(() => receiver.seen.includes('/queued-on-the-primary'), 'the request is sent', 20_000);
    expect(problems).toHaveLength(1);
  });
});
