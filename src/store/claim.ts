import { parseExtras } from '../core/extras.ts';
import { type QueueRow, requesterOf, type UnloadedRow } from '../core/request.ts';
import type { Row, Session, Statement } from '../postgres/database.ts';
import { isUnreadable, refuseUnreadable } from './unreadable.ts';

/**
 * Takes up to `$2` waiting requests for worker `$1` and marks them as its own; they stay in the queue until they are done.
 *
 * Rows that came back (`due_at` set) are found through a small index of their own; the others in the order of their ids,
 * above `$3`, so that the dead row versions of finished requests are not read again, however long some other transaction
 * keeps them from being vacuumed. SKIP LOCKED: several workers share the queue without waiting.
 * A body above 64 KiB is not told, only its length, for which it need not be read: hundreds of them would not fit into the
 * worker's memory. See `body.ts`.
 * Ids go from one step to the next in arrays, never in joins: a session keeps its plans, and one that was made for an almost
 * empty queue must not read the whole of a long one.
 *
 * Only who has a lease claims, and the lock on the worker's own row fences it: once it has been declared dead, or goes on
 * over another session, it claims nothing. That row is locked after the requests were picked, and only if there were
 * any: a look that finds nothing writes nothing. With a lease there is a row, of nulls where nothing was claimed; no row at
 * all means that the lease has lapsed, or the registration is gone (declared dead, or DROP EXTENSION) or another session's.
 */
const claimStatement: Statement = {
  name: 'pgfetch_claim',
  text: `
    with me as materialized (
      select w.id
      from net.worker w
      where w.id = $1
        and w.lease_until > pg_catalog.clock_timestamp()
        and (w.pid is null or w.pid = pg_catalog.pg_backend_pid())
    ),
    due as materialized (
      select q.id
      from net.http_request_queue q
      where q.due_at <= pg_catalog.statement_timestamp() and q.claimed_by is null and q.ordering_key is null
        and exists (select from me)
      order by q.due_at
      limit $2
      for update skip locked
    ),
    fresh as materialized (
      select q.id
      from net.http_request_queue q
      where q.id > $3 and q.due_at is null and q.claimed_by is null and q.ordering_key is null
        and exists (select from me)
      order by q.id
      limit $2 - (select pg_catalog.count(*) from due)
      for update skip locked
    ),
    picked as materialized (
      select array(select id from due union all select id from fresh) as ids
    ),
    alive as materialized (
      select w.id
      from net.worker w
      where w.id = $1
        and (w.pid is null or w.pid = pg_catalog.pg_backend_pid())
        and pg_catalog.cardinality((select ids from picked)) > 0
      for key share
    ),
    claimed as (
      update net.http_request_queue q
      set claimed_by = alive.id
      from alive
      where q.id = any ((select ids from picked)::bigint[])
      returning q.id, q.method, q.url, q.headers, case when pg_catalog.octet_length(q.body) <= 65536 then q.body end as body,
        pg_catalog.octet_length(q.body) as body_bytes, q.timeout_milliseconds, q.login_role, q.set_role, q.sign_with,
        q.due_at is not null as came_back, net._extras(q) as extras
    )
    select c.* from me left join claimed c on true`,
};

/**
 * The same among the requests of the roles `$4` (where `$5`) or of all others, and of those only to the pairs of role and
 * origin `$6` (where `$7`) or to all others: for when a role, or what it sends to an origin, has more requests than its share
 * of the slots, see `src/worker/backlogs.ts`. Walks over at most `$8` waiting rows, and says where it stopped: a queue full of
 * one role's requests must not be read whole in one statement.
 */
const claimAmongStatement: Statement = {
  name: 'pgfetch_claim_among',
  text: `
    with me as materialized (
      select w.id
      from net.worker w
      where w.id = $1
        and w.lease_until > pg_catalog.clock_timestamp()
        and (w.pid is null or w.pid = pg_catalog.pg_backend_pid())
    ),
    due as materialized (
      select q.id
      from net.http_request_queue q
      where q.due_at <= pg_catalog.statement_timestamp() and q.claimed_by is null and q.ordering_key is null
        and exists (select from me)
        and (coalesce(q.set_role, q.login_role, 0) = any ($4::oid[])) = $5
        and (
          coalesce(q.set_role, q.login_role, 0)::text || '/' || pg_catalog.split_part(q.url, '/', 3)
            || coalesce('/' || q.limit_key, '') = any ($6::text[])
        ) = $7
      order by q.due_at
      limit $2
      for update skip locked
    ),
    fresh as materialized (
      select taken.id
      from (
        select w.id, w.url, w.limit_key, coalesce(w.set_role, w.login_role, 0) as role
        from net.http_request_queue w
        where w.id > $3 and w.due_at is null and w.claimed_by is null and w.ordering_key is null
          and exists (select from me)
        order by w.id
        limit $8
      ) walked
      cross join lateral (
        select q.id
        from net.http_request_queue q
        where q.id = walked.id and q.due_at is null and q.claimed_by is null
        for update skip locked
      ) taken
      where (walked.role = any ($4::oid[])) = $5
        and (
          walked.role::text || '/' || pg_catalog.split_part(walked.url, '/', 3) || coalesce('/' || walked.limit_key, '')
            = any ($6::text[])
        ) = $7
      order by walked.id
      limit $2 - (select pg_catalog.count(*) from due)
    ),
    picked as materialized (
      select array(select id from due union all select id from fresh) as ids
    ),
    alive as materialized (
      select w.id
      from net.worker w
      where w.id = $1
        and (w.pid is null or w.pid = pg_catalog.pg_backend_pid())
        and pg_catalog.cardinality((select ids from picked)) > 0
      for key share
    ),
    claimed as (
      update net.http_request_queue q
      set claimed_by = alive.id
      from alive
      where q.id = any ((select ids from picked)::bigint[])
      returning q.id, q.method, q.url, q.headers, case when pg_catalog.octet_length(q.body) <= 65536 then q.body end as body,
        pg_catalog.octet_length(q.body) as body_bytes, q.timeout_milliseconds, q.login_role, q.set_role, q.sign_with,
        q.due_at is not null as came_back, net._extras(q) as extras
    )
    select
      c.*,
      case when pg_catalog.cardinality((select ids from picked)) < $2 then (
        select w.id
        from net.http_request_queue w
        where w.id > $3 and w.due_at is null and w.claimed_by is null and w.ordering_key is null
        order by w.id
        offset $8 - 1
        limit 1
      ) end as walked_up_to
    from me
    left join claimed c on true`,
};

/** A row of a claim, as the statements here tell it. */
export type ClaimRow = Row & {
  id: bigint;
  method: string;
  url: string;
  headers: string;
  body: Uint8Array | null;
  body_bytes: number | null;
  timeout_milliseconds: number;
  login_role: number | null;
  set_role: number | null;
  sign_with: string | null;
  came_back: boolean;
  extras: string | null;
  walked_up_to?: bigint | null;
};

/** The registration stands and there was nothing to claim. */
type NoClaimRow = Row & { id: null; walked_up_to?: bigint | null };

function isClaimed(row: ClaimRow | NoClaimRow): row is ClaimRow {
  return row.id !== null;
}

export type Claimed = {
  readonly rows: readonly (QueueRow | UnloadedRow)[];
  /** Above `afterId` and up to this id, everything that was asked for and could be seen has been taken; null: to the end of the queue. */
  readonly upToId: bigint | null;
};

/**
 * A part of the queue: what a role sends to one origin (undefined: to all of them). By its OID; see {@link roleOf}. Requests with
 * a limit_key are a part by themselves: it stands behind the origin, after a slash.
 */
export type Part = { readonly role: number; readonly origin: string | undefined };

/** Which requests are asked for: those of the given roles, or of all others; and of those the given pairs, or all others. */
export type Among = {
  readonly roles: readonly number[];
  readonly rolesIncluded: boolean;
  /** As {@link pairOf} writes them. */
  readonly pairs: readonly string[];
  readonly pairsIncluded: boolean;
};

/** How many waiting rows a claim among some of the requests walks over at most: about a millisecond. */
const walkRowsMax = 2_000;

/**
 * Claims at most `rowsMax` waiting requests with ids above `afterId` (and any that came back). Null where the worker has no
 * lease, or is not registered any more.
 */
export async function claim(
  session: Session,
  workerId: bigint,
  rowsMax: number,
  afterId: bigint,
  among?: Among,
): Promise<Claimed | null> {
  try {
    return await claimOnce(session, workerId, rowsMax, afterId, among);
  } catch (error) {
    if (!isUnreadable(error)) {
      throw error;
    }
    await refuseUnreadable(session);
    return await claimOnce(session, workerId, rowsMax, afterId, among);
  }
}

async function claimOnce(
  session: Session,
  workerId: bigint,
  rowsMax: number,
  afterId: bigint,
  among: Among | undefined,
): Promise<Claimed | null> {
  const answer =
    among === undefined
      ? await session.query<ClaimRow | NoClaimRow>(claimStatement, [workerId, rowsMax, afterId])
      : await session.query<ClaimRow | NoClaimRow>(claimAmongStatement, [
          workerId,
          rowsMax,
          afterId,
          among.roles,
          among.rolesIncluded,
          among.pairs,
          among.pairsIncluded,
          walkRowsMax,
        ]);
  if (answer.length === 0) {
    return null;
  }
  let highestFreshId = afterId;
  const rows = answer.filter(isClaimed).map((row) => {
    if (!row.came_back && row.id > highestFreshId) {
      highestFreshId = row.id;
    }
    return rowOf(row);
  });
  return { rows, upToId: rows.length === rowsMax ? highestFreshId : (answer[0]?.walked_up_to ?? null) };
}

/** The request of a row that was claimed. */
export function rowOf(row: ClaimRow): QueueRow | UnloadedRow {
  const request: QueueRow = {
    id: row.id,
    method: row.method,
    url: row.url,
    headersJson: row.headers,
    body: row.body,
    timeoutMs: row.timeout_milliseconds,
    loginRole: row.login_role,
    setRole: row.set_role,
    signWith: row.sign_with,
    extras: row.extras === null ? undefined : parseExtras(row.extras),
  };
  return row.body === null && row.body_bytes !== null
    ? { ...request, body: undefined, bodyBytes: row.body_bytes }
    : request;
}

/** Whose request it is, by OID; 0, which is no role's, where it was inserted by hand. As the claim has it. */
export function roleOf(row: Pick<QueueRow, 'loginRole' | 'setRole'>): number {
  return requesterOf(row) ?? 0;
}

/** A role and an origin as the claim compares them. */
export function pairOf(role: number, origin: string): string {
  return `${role}/${origin}`;
}
