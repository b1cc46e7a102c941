import type { Row, Session, Statement } from '../postgres/database.ts';

/**
 * Frees what other workers held that are dead: their session is gone, or their lease has run out. Whoever loses rows
 * loses its registration with them, which fences it; an idle worker, whose lease has lapsed because it holds nothing,
 * keeps its own, and is marked so that the queue is read for it once and not each time.
 *
 * Returns what is to be watched: until when the others that may hold something have their leases.
 */
const reclaimStatement: Statement = {
  name: 'pgfetch_reclaim',
  text: `
    with others as materialized (
      select
        w.id,
        w.pid,
        w.lease_until,
        net._session_lives(w.pid, w.backend_start, w.lease_until) as lives
      from net.worker w
      where w.id <> $1
    ),
    suspects as materialized (
      select w.id, o.lives
      from others o
      join net.worker w on w.id = o.id
      -- A worker may have restarted since its old session was read of: the row is seen anew once it is locked.
      where (not o.lives and (w.pid, w.lease_until) is not distinct from (o.pid, o.lease_until))
        or (w.lease_until <= pg_catalog.clock_timestamp() and w.lease_until > 'epoch')
      for update of w skip locked
    ),
    held as materialized (
      -- Reads the queue, but only where there is a suspect.
      select q.id, q.claimed_by
      from net.http_request_queue q
      where q.claimed_by = any (array(select id from suspects)) and exists (select from suspects)
    ),
    loose as materialized (
      -- What somebody is cancelling, for as long as that transaction lasts, is an orphan then.
      select q.id
      from net.http_request_queue q
      where q.id = any (array(select id from held)) and q.claimed_by = any (array(select id from suspects))
      for update skip locked
    ),
    freed as (
      update net.http_request_queue q
      set claimed_by = null, due_at = pg_catalog.clock_timestamp()
      where q.id = any (array(select id from loose))
      returning 1
    ),
    buried as (
      delete from net.worker w
      using suspects s
      where w.id = s.id and (not s.lives or s.id in (select claimed_by from held))
      returning w.id
    ),
    idle as (
      -- It lives and holds nothing, and claims nothing before it has renewed its lease: the queue need not be read for it again.
      update net.worker w
      set lease_until = 'epoch'
      from suspects s
      where w.id = s.id and s.lives and s.id not in (select claimed_by from held)
    )
    select
      (select pg_catalog.count(*) from freed) as freed,
      (select pg_catalog.count(*) from buried) as buried,
      (
        select (extract(epoch from pg_catalog.min(o.lease_until) - pg_catalog.clock_timestamp()) * 1000)::double precision
        from others o
        where o.lives and o.lease_until > pg_catalog.clock_timestamp()
      ) as watch_ms`,
};

/** Claims of workers that are not registered at all: their registrations were lost in a crash, or deleted by hand. */
const reclaimOrphansStatement: Statement = {
  name: 'pgfetch_reclaim_orphans',
  text: `
    with orphans as materialized (
      select q.id
      from net.http_request_queue q
      where q.claimed_by is not null
        and not exists (select from net.worker w where w.id = q.claimed_by)
    ),
    loose as materialized (
      select q.id
      from net.http_request_queue q
      where q.id = any (array(select id from orphans))
        and q.claimed_by is not null
        and not exists (select from net.worker w where w.id = q.claimed_by)
      for update of q skip locked
    ),
    freed as (
      update net.http_request_queue q
      set claimed_by = null, due_at = pg_catalog.clock_timestamp()
      where q.id = any (array(select id from loose))
      returning 1
    )
    select
      (select pg_catalog.count(*) from freed) as freed,
      (select pg_catalog.count(*) from orphans) > (select pg_catalog.count(*) from loose) as are_left`,
};

/** What was claimed as worker `$1`'s and never reached it: the connection was lost before the answer. */
const reclaimLostStatement: Statement = {
  name: 'pgfetch_reclaim_lost',
  text: `
    with lost as materialized (
      select q.id
      from net.http_request_queue q
      where q.claimed_by = $1 and q.id <> all ($2::bigint[])
      for update skip locked
    ),
    freed as (
      update net.http_request_queue q
      set claimed_by = null, due_at = pg_catalog.clock_timestamp()
      where q.id = any (array(select id from lost))
      returning 1
    )
    select pg_catalog.count(*) as freed from freed`,
};

export type Reclaimed = {
  /** How many requests are free again. */
  readonly freed: number;
  /** How many workers were declared dead. */
  readonly buried: number;
  /** After how many milliseconds the first lease of another worker ends; null: no other holds anything. */
  readonly watchMs: number | null;
};

/** Frees what dead workers held. Cheap where none is dead. */
export async function reclaim(session: Session, workerId: bigint): Promise<Reclaimed> {
  const [row] = await session.query<Row & { freed: bigint; buried: bigint; watch_ms: number | null }>(
    reclaimStatement,
    [workerId],
  );
  return { freed: Number(row?.freed ?? 0n), buried: Number(row?.buried ?? 0n), watchMs: row?.watch_ms ?? null };
}

/**
 * Frees what is claimed as this worker's but for what it holds, `heldIds`: to be called after a connection was lost and the
 * registration has a new session. Reads the whole queue. Returns how many.
 */
export async function reclaimLost(session: Session, workerId: bigint, heldIds: readonly bigint[]): Promise<number> {
  const [row] = await session.query<Row & { freed: bigint }>(reclaimLostStatement, [workerId, heldIds]);
  return Number(row?.freed ?? 0n);
}

export type Orphans = {
  readonly freed: number;
  /** Others are locked by whoever cancels them: to be looked for again. */
  readonly areLeft: boolean;
};

/** Frees claims of workers that are unknown. Reads the whole queue: for the start of a worker. */
export async function reclaimOrphans(session: Session): Promise<Orphans> {
  const [row] = await session.query<Row & { freed: bigint; are_left: boolean }>(reclaimOrphansStatement);
  return { freed: Number(row?.freed ?? 0n), areLeft: row?.are_left === true };
}
