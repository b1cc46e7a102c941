import type { Row, Session, Statement } from '../postgres/database.ts';

/** What goes by its age, each by a time of its own. */
export type Expiring = 'responses' | 'keptRequests' | 'attempts' | 'idempotencyKeys';

/** A number, or an instant, for each table. */
export type OfEach<T> = Readonly<Record<Expiring, T>>;

/**
 * Deletes at most `$2` responses older than `$1` milliseconds, oldest first, from `$3` on: a bounded step that holds
 * nothing up. The lower bound keeps it from reading again the index entries of what earlier steps deleted; the upper one is
 * the statement's time, and not the clock's, because an index can be asked only for what does not change meanwhile: with the
 * clock, each step would read every response there is.
 */
const expireResponses: Statement = {
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

/** The same for requests that are kept for redelivery. Only by columns that `net_worker` may read: not by their ctid. */
const expireKept: Statement = {
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

/** Likewise for attempts. */
const expireAttempts: Statement = {
  name: 'pgfetch_expire_attempts',
  text: `
    with old as materialized (
      select a.ctid, a.created
      from net.attempts a
      where a.created >= $3 and a.created < pg_catalog.statement_timestamp() - $1 * interval '1 millisecond'
      order by a.created
      limit $2
      for update skip locked
    ),
    gone as (
      delete from net.attempts a where a.ctid = any (array(select ctid from old))
    )
    select pg_catalog.count(*) as expired, pg_catalog.max(old.created) as upto from old`,
};

/** Likewise for idempotency keys, each of which says itself until when it stands. */
const expireKeys: Statement = {
  name: 'pgfetch_expire_keys',
  text: `
    with old as materialized (
      select k.ctid, k.expires_at
      from net.idempotency_keys k
      where k.expires_at >= $3 and k.expires_at < pg_catalog.statement_timestamp() - $1 * interval '1 millisecond'
      order by k.expires_at
      limit $2
      for update skip locked
    ),
    gone as (
      delete from net.idempotency_keys k where k.ctid = any (array(select ctid from old))
    )
    select pg_catalog.count(*) as expired, pg_catalog.max(old.expires_at) as upto from old`,
};

const expireStatements: OfEach<Statement> = {
  responses: expireResponses,
  keptRequests: expireKept,
  attempts: expireAttempts,
  idempotencyKeys: expireKeys,
};

/** Of all of them in one statement: most databases have rows in the first alone, and should not pay for the others. */
const nextExpiryStatement: Statement = {
  name: 'pgfetch_next_expiry',
  text: `
    select
      (extract(epoch from (
        select pg_catalog.min(r.created) from net._http_response r where r.created >= $1 and pg_catalog.isfinite(r.created)
      ) - c.now) * 1000)::double precision as responses,
      (extract(epoch from (
        select pg_catalog.min(k.finished) from net.kept_requests k where k.finished >= $2 and pg_catalog.isfinite(k.finished)
      ) - c.now) * 1000)::double precision as kept,
      (extract(epoch from (
        select pg_catalog.min(a.created) from net.attempts a where a.created >= $3 and pg_catalog.isfinite(a.created)
      ) - c.now) * 1000)::double precision as attempts,
      (extract(epoch from (
        select pg_catalog.min(k.expires_at)
        from net.idempotency_keys k
        where k.expires_at >= $4 and pg_catalog.isfinite(k.expires_at)
      ) - c.now) * 1000)::double precision as keys
    from pg_catalog.clock_timestamp() c (now)`,
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
  const [row] = await session.query<Row & { expired: bigint; upto: Date | null }>(expireStatements[what], [
    ttlMs,
    rowsMax,
    from.toISOString(),
  ]);
  return { rows: Number(row?.expired ?? 0n), upTo: row?.upto ?? from };
}

/** In how many milliseconds the oldest of each is due to expire; null where there is none. */
export async function nextExpiryMs(
  session: Session,
  ttlMs: OfEach<number>,
  from: OfEach<Date>,
): Promise<OfEach<number | null>> {
  type NextRow = Row & {
    responses: number | null;
    kept: number | null;
    attempts: number | null;
    keys: number | null;
  };
  const [row] = await session.query<NextRow>(nextExpiryStatement, [
    from.responses.toISOString(),
    from.keptRequests.toISOString(),
    from.attempts.toISOString(),
    from.idempotencyKeys.toISOString(),
  ]);
  const after = (ageMs: number | null | undefined, ms: number): number | null =>
    typeof ageMs === 'number' ? ageMs + ms : null;
  return {
    responses: after(row?.responses, ttlMs.responses),
    keptRequests: after(row?.kept, ttlMs.keptRequests),
    attempts: after(row?.attempts, ttlMs.attempts),
    idempotencyKeys: after(row?.keys, ttlMs.idempotencyKeys),
  };
}
