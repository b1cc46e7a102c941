import type { Row, Session, Statement } from '../postgres/database.ts';

/**
 * Deletes at most `$2` responses older than `$1` milliseconds, oldest first, from `$3` on: a bounded step that holds
 * nothing up. The lower bound keeps it from reading again the index entries of what earlier steps deleted; the upper one is
 * the statement's time, and not the clock's, because an index can be asked only for what does not change meanwhile: with the
 * clock, each step would read every response there is.
 */
const expireStatement: Statement = {
  name: 'pgfetch_expire',
  text: `
    with old as materialized (
      select r.ctid, r.created
      from net._http_response r
      where r.created >= $3 and r.created < pg_catalog.statement_timestamp() - $1 * interval '1 millisecond'
      order by r.created
      limit $2
      for update skip locked
    ),
    gone as (
      delete from net._http_response r where r.ctid = any (array(select ctid from old))
    )
    select pg_catalog.count(*) as expired, pg_catalog.max(old.created) as upto from old`,
};

const nextExpiryStatement: Statement = {
  name: 'pgfetch_next_expiry',
  text: `
    select (extract(epoch from pg_catalog.min(r.created) + $1 * interval '1 millisecond' - pg_catalog.clock_timestamp()) * 1000)::double precision as due_ms
    from net._http_response r
    where r.created >= $2 and pg_catalog.isfinite(r.created)`,
};

/** The same for requests that are kept for redelivery. Only by columns that `net_worker` may read: not by their ctid. */
const expireKeptStatement: Statement = {
  name: 'pgfetch_expire_kept',
  text: `
    with old as materialized (
      select k.id, k.finished
      from net.kept_requests k
      where k.finished >= $3 and k.finished < pg_catalog.statement_timestamp() - $1 * interval '1 millisecond'
      order by k.finished
      limit $2
      for update skip locked
    ),
    gone as (
      delete from net.kept_requests k where k.id = any (array(select id from old))
    )
    select pg_catalog.count(*) as expired, pg_catalog.max(old.finished) as upto from old`,
};

const nextKeptExpiryStatement: Statement = {
  name: 'pgfetch_next_expiry_kept',
  text: `
    select (extract(epoch from pg_catalog.min(k.finished) + $1 * interval '1 millisecond' - pg_catalog.clock_timestamp()) * 1000)::double precision as due_ms
    from net.kept_requests k
    where k.finished >= $2 and pg_catalog.isfinite(k.finished)`,
};

/** What expires, each by a time of its own. */
export type Expiring = 'responses' | 'keptRequests';

const statements: Readonly<Record<Expiring, { readonly expire: Statement; readonly next: Statement }>> = {
  responses: { expire: expireStatement, next: nextExpiryStatement },
  keptRequests: { expire: expireKeptStatement, next: nextKeptExpiryStatement },
};

export type Expired = {
  readonly rows: number;
  /** Everything before this has been dealt with. */
  readonly upTo: Date;
};

/** One bounded step of expiry. Fewer rows than `rowsMax`: nothing more is due. */
export async function expire(
  session: Session,
  what: Expiring,
  ttlMs: number,
  rowsMax: number,
  from: Date,
): Promise<Expired> {
  const [row] = await session.query<Row & { expired: bigint; upto: Date | null }>(statements[what].expire, [
    ttlMs,
    rowsMax,
    from.toISOString(),
  ]);
  return { rows: Number(row?.expired ?? 0n), upTo: row?.upto ?? from };
}

/** In how many milliseconds the oldest of them is due to expire; null where there is none. */
export async function nextExpiryMs(
  session: Session,
  what: Expiring,
  ttlMs: number,
  from: Date,
): Promise<number | null> {
  const [row] = await session.query<Row & { due_ms: number | null }>(statements[what].next, [
    ttlMs,
    from.toISOString(),
  ]);
  return row?.due_ms ?? null;
}
