import type { Row, Session, Statement } from '../postgres/database.ts';

/** Channel on which an enqueuing transaction wakes the workers at its commit. It carries nothing. */
export const wakeChannel = 'net_wake';
/** Channel on which `net.worker_restart()` asks the workers to reload and reconnect. */
export const restartChannel = 'net_restart';
/** Channel on which a worker announces that it is about to promise to look by itself. */
export const promiseChannel = 'net_promise';
/** Channel on which workers and `net.reset_breaker` say that a breaker has opened or closed. */
export const breakersChannel = 'net_breakers';

const announceStatement: Statement = {
  name: 'pgfetch_announce',
  text: `select pg_catalog.pg_notify('net_promise', '')`,
};

const promiseStatement: Statement = {
  name: 'pgfetch_promise',
  text: `select pg_catalog.setval('net.wake_promise', (extract(epoch from pg_catalog.clock_timestamp()) * 1000)::bigint + $1)`,
};

const withdrawStatement: Statement = {
  name: 'pgfetch_withdraw',
  text: `select pg_catalog.setval('net.wake_promise', 1)`,
};

const fenceStatement: Statement = {
  name: 'pgfetch_fence',
  text: 'select pg_catalog.pg_current_xact_id()::text::bigint as xid',
};

// The transaction id is taken after the last request id has been read: the CASE sees to it. See LowWaterMark.
const horizonStatement: Statement = {
  name: 'pgfetch_horizon',
  text: `
    select
      pg_catalog.pg_snapshot_xmin(s)::text::bigint as xmin,
      pg_catalog.pg_snapshot_xmax(s)::text::bigint as xmax,
      array(select x::text from pg_catalog.pg_snapshot_xip(s) x) as running,
      given.last_id,
      case when given.last_id is not null then pg_catalog.pg_current_xact_id()::text::bigint end as xid
    from
      pg_catalog.pg_current_snapshot() s,
      (select q.last_value - case when q.is_called then 0 else 1 end as last_id from net.http_request_queue_id_seq q offset 0) given`,
};

/** Where the server's transactions stand. */
export type Horizon = {
  /** Every transaction below this has ended, and its rows can be seen by any later snapshot. */
  readonly xmin: bigint;
  /** One past the last transaction that has ended; those that run may lie beyond it, and are then not in `running`. */
  readonly xmax: bigint;
  /** The transactions between the two that have not ended. */
  readonly running: readonly bigint[];
  /** The last request id that was given out. */
  readonly lastId: bigint;
};

/** Tells the other workers that a promise follows: whoever rests sets a timer for its end. Commits before the promise. */
export async function announcePromise(session: Session): Promise<void> {
  await session.query(announceStatement);
}

/** Promises to look by ourselves for `forMs` milliseconds from now: no enqueuing transaction notifies meanwhile. */
export async function promise(session: Session, forMs: number): Promise<void> {
  await session.query(promiseStatement, [forMs]);
}

/** Withdraws whatever promise stands. Takes effect at once, for every transaction and isolation level. */
export async function withdrawPromise(session: Session): Promise<void> {
  await session.query(withdrawStatement);
}

/** Takes a transaction id of our own and commits it. After a withdrawal, every later id belongs to one that will notify. */
export async function takeTransactionId(session: Session): Promise<bigint> {
  const [row] = await session.query<Row & { xid: bigint }>(fenceStatement);
  if (row === undefined) {
    throw new Error('the fence statement returned no row');
  }
  return row.xid;
}

/** Where the transactions stand now. Takes a transaction id of its own and commits it, after reading `lastId`. */
export async function horizon(session: Session): Promise<Horizon> {
  const [row] = await session.query<Row & { xmin: bigint; xmax: bigint; running: readonly string[]; last_id: bigint }>(
    horizonStatement,
  );
  if (row === undefined) {
    throw new Error('the horizon statement returned no row');
  }
  return { xmin: row.xmin, xmax: row.xmax, running: row.running.map(BigInt), lastId: row.last_id };
}
