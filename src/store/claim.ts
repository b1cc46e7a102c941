import { parseExtras } from '../core/extras.ts';
import { type QueueRow, requesterOf, type UnloadedRow } from '../core/request.ts';
import type { Row, Session, Statement } from '../postgres/database.ts';
import { isUnreadable, refuseUnreadable } from './unreadable.ts';

/**
 * Takes up to `$2` waiting requests for worker `$1` and marks them as its own; they stay in the queue until they are done.
 *
 * Rows with a priority above `$4` and rows that are due (`due_at` set: they came back, or were asked for later) are found
 * through small indexes of their own; the others in the order of their ids, above `$3`, so that the dead row versions of finished requests are not read again, however long some other transaction
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
    urgent as materialized (
      select u.id
      from pg_catalog.generate_series(9, 1, -1) p (priority)
      cross join lateral (
        select q.id
        from net.http_request_queue q
        where q.priority = p.priority and q.id > $4 and q.due_at is null and q.claimed_by is null and q.ordering_key is null
        order by q.id
        limit $2
        for update skip locked
      ) u
      where exists (select from me)
      limit $2
    ),
    due as materialized (
      select q.id
      from net.http_request_queue q
      where q.due_at <= pg_catalog.statement_timestamp() and q.claimed_by is null and q.ordering_key is null
        and exists (select from me)
      order by q.due_at
      limit $2 - (select pg_catalog.count(*) from urgent)
      for update skip locked
    ),
    fresh as materialized (
      select q.id
      from net.http_request_queue q
      where q.id > $3 and q.due_at is null and q.claimed_by is null and q.ordering_key is null
        and q.id <> all (array(select u.id from urgent u))
        and exists (select from me)
      order by q.id
      limit $2 - (select pg_catalog.count(*) from urgent) - (select pg_catalog.count(*) from due)
      for update skip locked
    ),
    picked as materialized (
      select array(select id from urgent union all select id from due union all select id from fresh) as ids
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
        q.due_at is null and q.id <> all (array(select u.id from urgent u)) as is_fresh, net._extras(q) as extras
    )
    select
      c.*,
      -- What is due and was not taken somebody has locked (net.cancel): should that be rolled back, nobody says so.
      case when pg_catalog.cardinality((select ids from picked)) < $2 then least((
        select 1000::double precision from net.http_request_queue w where w.due_at <= pg_catalog.statement_timestamp()
          and w.claimed_by is null and w.ordering_key is null and w.id <> all ((select ids from picked)::bigint[])
        order by w.due_at limit 1), (
        select pg_catalog.ceil(extract(epoch from w.due_at - pg_catalog.clock_timestamp()) * 1000)::double precision
        from net.http_request_queue w where w.due_at > pg_catalog.statement_timestamp() and w.due_at < 'infinity'
          and w.claimed_by is null order by w.due_at limit 1)) end as next_due_ms
    from me
    left join claimed c on true`,
};

/**
 * The same among the requests of the roles `$4` (where `$5`) or of all others, and of those only to the pairs of role and
 * origin `$6` (where `$7`) or to all others: for when a role, or what it sends to an origin, has more requests than its share
 * of the slots, see `src/worker/backlogs.ts`. Walks over at most `$8` waiting rows of each kind, those that are due from `$10` on,
 * and says where it stopped: a queue full of one role's requests, or of a dead host's that are due again, must not be read whole in
 * one statement. Nor must those be that are scheduled for later, of which there may be a million. Of those with a priority only the first `$8` above `$9` go first; the rest is found among the others.
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
    urgent as materialized (
      select taken.id
      from (
        select u.id, u.url, u.limit_key, u.role
        from pg_catalog.generate_series(9, 1, -1) p (priority)
        cross join lateral (
          select w.id, w.url, w.limit_key, coalesce(w.set_role, w.login_role, 0) as role
          from net.http_request_queue w
          where w.priority = p.priority and w.id > $9 and w.due_at is null and w.claimed_by is null
            and w.ordering_key is null
          order by w.id
          limit $8
        ) u
        where exists (select from me)
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
      limit $2
    ),
    due_walked as materialized (
      select w.id, w.due_at, w.url, w.limit_key, coalesce(w.set_role, w.login_role, 0) as role
      from net.http_request_queue w
      where (w.due_at, w.id) > (($10::text[])[1]::timestamptz, ($10::text[])[2]::bigint)
        and w.due_at <= pg_catalog.statement_timestamp() and w.claimed_by is null and w.ordering_key is null
        and exists (select from me)
      order by w.due_at, w.id
      limit $8
    ),
    due as materialized (
      -- In the order in which they were walked over: a sort would lock all of them.
      select taken.id, walked.due_at
      from due_walked walked
      cross join lateral (
        select q.id
        from net.http_request_queue q
        -- Written so that it can only be looked up by the id. Another worker may have put it back until later.
        where q.id = walked.id and coalesce(q.due_at <= pg_catalog.statement_timestamp(), false) and q.claimed_by is null
        for update skip locked
      ) taken
      where (walked.role = any ($4::oid[])) = $5
        and (
          walked.role::text || '/' || pg_catalog.split_part(walked.url, '/', 3) || coalesce('/' || walked.limit_key, '')
            = any ($6::text[])
        ) = $7
      limit $2 - (select pg_catalog.count(*) from urgent)
    ),
    fresh as materialized (
      select taken.id
      from (
        select w.id, w.url, w.limit_key, coalesce(w.set_role, w.login_role, 0) as role,
          w.due_at is null and w.claimed_by is null and w.ordering_key is null as is_fresh
        from net.http_request_queue w
        where w.id > $3 and exists (select from me)
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
        and walked.is_fresh and walked.id <> all (array(select u.id from urgent u))
      order by walked.id
      limit $2 - (select pg_catalog.count(*) from urgent) - (select pg_catalog.count(*) from due)
    ),
    picked as materialized (
      select array(select id from urgent union all select id from due union all select id from fresh) as ids
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
        q.due_at is null and q.id <> all (array(select u.id from urgent u)) as is_fresh, net._extras(q) as extras
    )
    select
      c.*,
      case
        when (select pg_catalog.count(*) from urgent) + (select pg_catalog.count(*) from due) < $2
        then (select array[w.due_at::text, w.id::text] from due_walked w order by w.due_at desc, w.id desc limit 1)
        else coalesce((select array[d.due_at::text, d.id::text] from due d order by d.due_at desc, d.id desc limit 1), $10)
      end as due_up_to,
      case when pg_catalog.cardinality((select ids from picked)) < $2 then least((
        select 1000::double precision from net.http_request_queue w where w.due_at <= pg_catalog.statement_timestamp()
          and w.claimed_by is null and w.ordering_key is null and w.id <> all ((select ids from picked)::bigint[])
        order by w.due_at limit 1), (
        select pg_catalog.ceil(extract(epoch from w.due_at - pg_catalog.clock_timestamp()) * 1000)::double precision
        from net.http_request_queue w where w.due_at > pg_catalog.statement_timestamp() and w.due_at < 'infinity'
          and w.claimed_by is null order by w.due_at limit 1)) end as next_due_ms,
      case when pg_catalog.cardinality((select ids from picked)) < $2 then (
        select w.id
        from net.http_request_queue w
        where w.id > $3
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
  is_fresh: boolean;
  extras: string | null;
} & Stops;

/** Where the look stopped, the same in each row. */
type Stops = {
  next_due_ms: number | null;
  walked_up_to?: bigint | null;
  due_up_to?: readonly string[] | null;
};

/** The registration stands and there was nothing to claim. */
type NoClaimRow = Row & { id: null } & Stops;

function isClaimed(row: ClaimRow | NoClaimRow): row is ClaimRow {
  return row.id !== null;
}

export type Claimed = {
  readonly rows: readonly (QueueRow | UnloadedRow)[];
  /** Above `afterId` and up to this id, everything that was asked for and could be seen has been taken; null: to the end of the queue. */
  readonly upToId: bigint | null;
  /** How far it walked over requests that are due; null: there was none beyond where it began. Without `among`, always null. */
  readonly dueUpTo: DuePlace | null;
  /** In how many milliseconds the next request falls due; null: none waits for its time, or not everything could be taken. */
  readonly nextDueMs: number | null;
};

/** A place among the requests that are due: the `due_at` and the id of one, as the database writes them. */
export type DuePlace = readonly string[];

/** Before all of them. */
export const dueStart: DuePlace = Object.freeze(['-infinity', '0']);

/** Where a look begins. */
export type From = {
  /** Of the requests that have only waited, those above this id are asked for. */
  readonly afterId: bigint;
  /** Of those that go before others, the ones above this id go first: below it, what is left of them waits its turn. */
  readonly urgentAfterId: bigint;
  /** Among some of the requests: where the walk over those that are due goes on. Without `among` they are taken from the start. */
  readonly dueAfter: DuePlace;
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

/** Everybody's requests, for a claim that walks over a bounded number of rows. */
export const everybody: Among = Object.freeze({ roles: [], rolesIncluded: false, pairs: [], pairsIncluded: false });

/** How many waiting rows of each kind a claim among some of the requests walks over at most: about a millisecond. */
const walkRowsMax = 2_000;

/**
 * Claims at most `rowsMax` waiting requests from there on, those with a priority first, then those that are due. Null where the
 * worker has no lease, or is not registered any more.
 */
export async function claim(
  session: Session,
  workerId: bigint,
  rowsMax: number,
  from: From,
  among?: Among,
): Promise<Claimed | null> {
  try {
    return await claimOnce(session, workerId, rowsMax, from, among);
  } catch (error) {
    if (!isUnreadable(error)) {
      throw error;
    }
    await refuseUnreadable(session);
    return await claimOnce(session, workerId, rowsMax, from, among);
  }
}

async function claimOnce(
  session: Session,
  workerId: bigint,
  rowsMax: number,
  { afterId, urgentAfterId, dueAfter }: From,
  among: Among | undefined,
): Promise<Claimed | null> {
  const answer =
    among === undefined
      ? await session.query<ClaimRow | NoClaimRow>(claimStatement, [workerId, rowsMax, afterId, urgentAfterId])
      : await session.query<ClaimRow | NoClaimRow>(claimAmongStatement, [
          workerId,
          rowsMax,
          afterId,
          among.roles,
          among.rolesIncluded,
          among.pairs,
          among.pairsIncluded,
          walkRowsMax,
          urgentAfterId,
          dueAfter,
        ]);
  const [first] = answer;
  if (first === undefined) {
    return null;
  }
  let highestFreshId = afterId;
  let hasUrgent = false;
  const rows = answer.filter(isClaimed).map((row) => {
    if (row.is_fresh && row.id > highestFreshId) {
      highestFreshId = row.id;
    }
    const request = rowOf(row);
    hasUrgent ||= priorityOf(request) > 0;
    return request;
  });
  return {
    rows: hasUrgent ? rows.sort((a, b) => priorityOf(b) - priorityOf(a)) : rows,
    upToId: rows.length === rowsMax ? highestFreshId : (first.walked_up_to ?? null),
    dueUpTo: first.due_up_to ?? null,
    nextDueMs: first.next_due_ms,
  };
}

/** 1 to 9 for what goes before others; else 0. */
export function priorityOf({ extras }: Pick<QueueRow, 'extras'>): number {
  return extras?.priority ?? 0;
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
