import pg from 'pg';
import { afterEach, describe, expect, onTestFinished, test, vi } from 'vitest';
import type { Aftermath } from '../../src/core/aftermath.ts';
import { noTimings, type Outcome } from '../../src/core/outcome.ts';
import type { QueueRow } from '../../src/core/request.ts';
import { type Settlement, settlementOf } from '../../src/core/settlement.ts';
import type { Database } from '../../src/postgres/database.ts';
import { connectPg } from '../../src/postgres/pg.ts';
import { type Claimed, claim, dueStart } from '../../src/store/claim.ts';
import { register } from '../../src/store/register.ts';
import { sessionSettings } from '../../src/store/session.ts';
import { settle } from '../../src/store/settle.ts';
import { Ordered } from '../../src/worker/ordered.ts';
import { Signal } from '../../src/worker/signal.ts';
import { installedDatabase } from '../support/installed.ts';
import { startTestPostgres } from '../support/servers.ts';
import { startSteppedWorker } from './stepped.ts';

const closing: (() => Promise<unknown>)[] = [];
afterEach(async () => {
  for (const close of closing.splice(0).reverse()) await close();
});

async function open(): Promise<{ url: string; sql: pg.Client }> {
  const { url } = await installedDatabase(await startTestPostgres({ major: 18 }));
  const sql = new pg.Client(url);
  await sql.connect();
  closing.push(() => sql.end());
  return { url, sql };
}

/** A database, and a session of a worker that is registered there. */
async function openRegistered(): Promise<{ sql: pg.Client; db: Database; workerId: bigint }> {
  const { url, sql } = await open();
  const db = await connectPg({
    connectionString: url,
    applicationName: 'test',
    connectTimeoutMs: 5_000,
    sessionSettings,
  });
  closing.push(() => db.close());
  const registration = await register(db, {
    workerId: null,
    name: 'w',
    version: '0',
    ownsSession: true,
    leaseMs: 60_000,
  });
  const workerId = registration?.workerId ?? 0n;
  return { sql, db, workerId };
}

describe('requests that are due later', () => {
  test('cost a worker nothing while it waits: it rests beside thousands of them', async () => {
    const { url, sql } = await open();
    const worker = await startSteppedWorker(url, 'waiting');
    closing.push(() => worker.stop());
    worker.gate.close();
    await sql.query(`
      select net.request('GET', 'http://h/' || n, run_at := now() + n * interval '10 seconds') from generate_series(1, 3000) n`);
    let statements = 0;
    while (await worker.step()) statements += 1;
    expect(statements).toBeGreaterThan(0);
    expect(worker.service.resting).toBe(true);
    expect(worker.gate.waitingFor).toBeUndefined();
    expect(worker.sent).toEqual([]);
  });

  test('in a thousand years: the longest wait is no wait of nothing', async () => {
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] });
    onTestFinished(() => void vi.useRealTimers());
    const signal = new Signal();
    let isOver = false;
    const waiting = signal.wait(1_000 * 365 * 86_400_000).then(() => {
      isOver = true;
    });
    // A timer that overflowed fires after a millisecond, as Node.js's do.
    await vi.advanceTimersByTimeAsync(5);
    expect(isOver).toBe(false);
    signal.raise();
    await waiting;
  });
});

describe('a claim', () => {
  const start = { afterId: 0n, urgentAfterId: 0n, dueAfter: dueStart };

  test('of what goes first says nothing of what lies before it', async () => {
    const { sql, db, workerId } = await openRegistered();
    await sql.query(`select net.request('GET', 'http://h/' || n, priority := n / 4 * 9) from generate_series(1, 4) n`);
    const urgent = await claim(db, workerId, 1, start);
    expect(urgent).toMatchObject({ rows: [{ id: 4n }], upToId: 0n });
    expect(await claim(db, workerId, 1, start)).toMatchObject({ rows: [{ id: 1n }], upToId: 1n });
    // Below that it waits for its turn.
    await sql.query(`select net.request('GET', 'http://h/', priority := 1)`);
    expect(await claim(db, workerId, 1, { ...start, urgentAfterId: 5n })).toMatchObject({
      rows: [{ id: 2n }],
      upToId: 2n,
    });
    expect(await claim(db, workerId, 9, start)).toMatchObject({ rows: [{ id: 5n }, { id: 3n }], upToId: null });
  });

  test('among some of the requests goes on over what is due where it stopped, though all are due at once', async () => {
    const { sql, db, workerId } = await openRegistered();
    await sql.query(`
      insert into net.http_request_queue (method, url, headers, timeout_milliseconds, due_at)
      select 'GET', 'http://' || case when n % 3 = 0 then 'dead' else 'h' end || '/', '{}', 1, '2001-01-01 00:00:00.123456'
      from generate_series(1, 8) n`);
    const among = { roles: [], rolesIncluded: false, pairs: ['0/dead'], pairsIncluded: false };
    const found: bigint[][] = [];
    let dueAfter: typeof dueStart | null = dueStart;
    while (dueAfter !== null) {
      const claimed: Claimed | null = await claim(db, workerId, 2, { ...start, dueAfter }, among);
      found.push((claimed?.rows ?? []).map(({ id }) => id));
      dueAfter = claimed?.dueUpTo ?? null;
    }
    expect(found).toEqual([[1n, 2n], [4n, 5n], [7n, 8n], []]);
    expect((await claim(db, workerId, 9, start, { ...among, pairsIncluded: true }))?.rows.map(({ id }) => id)).toEqual([
      3n,
      6n,
    ]);
  });

  test('that could not take what is due, because somebody has locked it, says to come again', async () => {
    const { sql, db, workerId } = await openRegistered();
    const among = { roles: [], rolesIncluded: false, pairs: [], pairsIncluded: false };
    await sql.query(`
      insert into net.http_request_queue (method, url, headers, timeout_milliseconds, due_at)
      select 'GET', 'http://h/', '{}', 1, now() from generate_series(1, 3)`);
    await sql.query('begin; select net.cancel(2)');
    expect(await claim(db, workerId, 9, start)).toMatchObject({ rows: [{ id: 1n }, { id: 3n }], nextDueMs: 1_000 });
    expect(await claim(db, workerId, 9, start, among)).toMatchObject({ rows: [], nextDueMs: 1_000 });
    await sql.query('rollback');
    expect(await claim(db, workerId, 9, start)).toMatchObject({ rows: [{ id: 2n }], nextDueMs: null });
  });

  test('that finds fewer than it asked for says when the next falls due; what never does rings no alarm', async () => {
    const { sql, db, workerId } = await openRegistered();
    const nextDueMs = async (): Promise<number | null | undefined> => (await claim(db, workerId, 1, start))?.nextDueMs;
    await sql.query(`
      insert into net.http_request_queue (method, url, headers, timeout_milliseconds, due_at)
      values ('GET', 'http://h/', '{}', 1, 'infinity')`);
    expect(await nextDueMs()).toBeNull();
    await sql.query(`select net.request('GET', 'http://h/', delay := '1 hour')`);
    const inAnHour = await nextDueMs();
    expect(inAnHour).toBeGreaterThan(3_500_000);
    expect(inAnHour).toBeLessThanOrEqual(3_600_000);
    await sql.query(`select net.request('GET', 'http://h/')`);
    expect(await nextDueMs()).toBeNull();
    expect(await nextDueMs()).not.toBeNull();
  });
});

describe('an ordered request that somebody has locked', () => {
  test('is looked for again', async () => {
    const { sql, db, workerId } = await openRegistered();
    let nowMs = 0;
    const flights = { freeSlots: 9, roomFor: () => 9 };
    const ordered = new Ordered({ db, workerId, flights, settings: { batchSize: 9 }, now: () => nowMs });
    await sql.query(`select net.request('GET', 'http://h/', ordering_key := 'k')`);
    await sql.query('begin; select net.cancel(1)');
    ordered.looked(false);
    expect(await ordered.look()).toEqual([]);
    expect(await ordered.lookThrough()).toEqual([]);
    expect(ordered.dueAtMs).toBeLessThanOrEqual(1_000);
    await sql.query('rollback');
    nowMs = 1_000;
    expect(await ordered.look()).toMatchObject([{ id: 1n }]);
    expect(ordered.dueAtMs).toBe(Number.POSITIVE_INFINITY);
  });

  test('but not while it is the turn of another, which blocks the key', async () => {
    const { sql, db, workerId } = await openRegistered();
    let nowMs = 0;
    const flights = { freeSlots: 9, roomFor: () => 9 };
    const ordered = new Ordered({ db, workerId, flights, settings: { batchSize: 9 }, now: () => nowMs });
    await sql.query(`
      select net.request('GET', 'http://h/', ordering_key := 'k') from generate_series(1, 2);
      update net.http_request_queue set claimed_by = null, due_at = 'infinity' where id = 2;
      insert into net.ordering_keys select set_role, 'k', 2, 0, 3 from net.http_request_queue where id = 2`);
    for (; nowMs <= 2_000; nowMs += 1_000) {
      ordered.looked(false);
      expect(await ordered.look()).toEqual([]);
      expect(ordered.dueAtMs).toBe(Number.POSITIVE_INFINITY);
    }
    // Its turn comes back.
    await sql.query('select net._retry_blocked(2)');
    ordered.looked(false);
    expect(await ordered.look()).toMatchObject([{ id: 2n }]);
  });
});

describe('a request that is cancelled while it is being sent', () => {
  const failed: Outcome = { kind: 'failure', code: 'timed_out', message: 'Timeout', timings: noTimings };

  /** The attempt has failed, and it is to be tried again after a minute. */
  function toBeRetried(row: QueueRow, attempt: number): Settlement {
    const aftermath: Aftermath = {
      state: 'failed',
      retryInMs: 60_000,
      attempt,
      startedAtMs: Date.now(),
      timings: noTimings,
      isKept: true,
      keep: 'full',
      label: row.extras?.label,
      callback: undefined,
      idempotencyKey: undefined,
      blocksKey: false,
    };
    return settlementOf(row, failed, aftermath);
  }

  test('is not tried again, and recorded as cancelled; others are', async () => {
    const { sql, db, workerId } = await openRegistered();
    await sql.query(`
      select net.request('GET', 'http://h/' || n, label := 'l' || n) from generate_series(1, 3) n`);
    const claimed = await claim(db, workerId, 10, { afterId: 0n, urgentAfterId: 0n, dueAfter: dueStart });
    const rows = (claimed?.rows ?? []) as readonly QueueRow[];
    expect(rows).toHaveLength(3);
    const [first, second] = rows;
    expect((await sql.query('select net.cancel($1)', [second?.id])).rows).toEqual([{ cancel: 'cancelling' }]);
    // As if somebody had emptied a part of the queue.
    await sql.query('delete from net.http_request_queue where id = $1', [rows[2]?.id]);

    const settled = await settle(
      db,
      workerId,
      rows.map((row) => toBeRetried(row, 2)),
    );
    expect(settled).toMatchObject({
      returned: [first?.id],
      recorded: [rows[2]?.id, second?.id],
      retryInMs: 60_000,
      refused: [],
    });
    const queue = await sql.query(
      'select id, claimed_by, attempts, due_at > now() as is_later from net.http_request_queue',
    );
    expect(queue.rows).toEqual([{ id: String(first?.id), claimed_by: null, attempts: 2, is_later: true }]);
    const responses = await sql.query(
      'select status_code, error_code, error_msg, timed_out, label, attempts, is_dead from net._http_response order by id',
    );
    // What was deleted has what its last attempt brought.
    const rest = { status_code: null, attempts: 2, is_dead: null };
    expect(responses.rows).toEqual([
      { ...rest, error_code: 'cancelled', error_msg: 'The request was cancelled', timed_out: false, label: 'l2' },
      { ...rest, error_code: 'timed_out', error_msg: 'Timeout', timed_out: true, label: 'l3' },
    ]);
    expect((await sql.query('select from net.kept_requests')).rowCount).toBe(0);
  });
});
