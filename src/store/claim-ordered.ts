import type { QueueRow, UnloadedRow } from '../core/request.ts';
import { PostgresError, type Row, type Session, type Statement } from '../postgres/database.ts';
import { type ClaimRow, rowOf } from './claim.ts';
import { isUnreadable, refuseUnreadable } from './unreadable.ts';

/**
 * Claims the next request of each of the keys `$2` (whose: `$3`) for worker `$1`: see net._claim_ordered in sql/053_order.sql. As in
 * the claim of others (claim.ts), there is a row, of nulls where nothing was claimed, unless the worker has no lease.
 */
const claimOrderedStatement: Statement = {
  name: 'pgfetch_claim_ordered',
  text: `
    with me as materialized (
      select w.id
      from net.worker w
      where w.id = $1
        and w.lease_until > pg_catalog.clock_timestamp()
        and (w.pid is null or w.pid = pg_catalog.pg_backend_pid())
    )
    select q.id, q.method, q.url, q.headers, case when pg_catalog.octet_length(q.body) <= 65536 then q.body end as body,
      pg_catalog.octet_length(q.body) as body_bytes, q.timeout_milliseconds, q.login_role, q.set_role, q.sign_with,
      q.due_at is not null as came_back, net._extras(q) as extras
    from me
    left join net._claim_ordered($1, $2::oid[], $3::text[], $4::bigint[]) q on true`,
};

/**
 * Walks over the keys after the given one, at most `$3` of them: from the first request of one key to the first of the next, so
 * that a key with a million requests is one step. Tells those whose first request waits and is due, and the last key where there
 * may be more.
 */
const waitingKeysStatement: Statement = {
  name: 'pgfetch_waiting_keys',
  text: `
    with recursive heads as (
      (
        select
          coalesce(q.set_role, q.login_role, 0) as requester, q.ordering_key, q.id, q.url, q.limit_key, q.claimed_by, q.due_at,
          1 as place
        from net.http_request_queue q
        where q.ordering_key is not null
          and (coalesce(q.set_role, q.login_role, 0), q.ordering_key) > ($1::oid, $2::text)
        order by coalesce(q.set_role, q.login_role, 0), q.ordering_key, q.id
        limit 1
      )
      union all
      select n.*, h.place + 1
      from heads h
      cross join lateral (
        select coalesce(q.set_role, q.login_role, 0), q.ordering_key, q.id, q.url, q.limit_key, q.claimed_by, q.due_at
        from net.http_request_queue q
        where q.ordering_key is not null
          and (coalesce(q.set_role, q.login_role, 0), q.ordering_key) > (h.requester, h.ordering_key)
        order by coalesce(q.set_role, q.login_role, 0), q.ordering_key, q.id
        limit 1
      ) n
    ),
    walked as (
      select
        h.requester, h.ordering_key, h.id, pg_catalog.split_part(h.url, '/', 3) || coalesce('/' || h.limit_key, '') as origin,
        h.place = $3 as is_last,
        h.claimed_by is null and (h.due_at is null or h.due_at <= pg_catalog.statement_timestamp())
          -- One that became visible late may be the first, while it is another's turn.
          and not exists (
            select
            from net.ordering_keys k
            join net.http_request_queue t on t.id = k.request_id
            where k.requester = h.requester and k.ordering_key = h.ordering_key and t.id <> h.id
              and (t.claimed_by is not null or t.due_at > pg_catalog.statement_timestamp())
          ) as is_waiting
      from heads h
      limit $3
    )
    select w.* from walked w where w.is_waiting or w.is_last`,
};

const forgetStatement: Statement = {
  name: 'pgfetch_forget_keys',
  text: 'select f.requester, f.ordering_key from net._forget_ordering_keys($1::oid, $2::text, $3) f',
};

/** An ordering key: the same text means nothing between roles. */
export type Key = {
  /** By OID; 0 for requests that were inserted by hand. */
  readonly requester: number;
  readonly orderingKey: string;
};

/** Before every other. */
export const firstKey: Key = Object.freeze({ requester: 0, orderingKey: '' });

/** A key of which a request may wait. */
export type WaitingKey = Key & {
  /** Where its next request is sent to, as far as is known: where the last one was. */
  readonly origin: string;
  /** Its first request, where that was seen; null: it has a next one, if any. */
  readonly firstId: bigint | null;
};

/** What a walk found, and the key after which to go on; undefined: that was the end. */
export type Walked = { readonly waiting: readonly WaitingKey[]; readonly upTo: Key | undefined };

/** Finds keys of which a request waits, among the next `keysMax` after a key. Locks and writes nothing. */
export async function findWaitingKeys(session: Session, after: Key, keysMax: number): Promise<Walked> {
  type HeadRow = Row & {
    requester: number;
    ordering_key: string;
    id: bigint;
    origin: string;
    is_last: boolean;
    is_waiting: boolean;
  };
  const rows = await readable(session, () =>
    session.query<HeadRow>(waitingKeysStatement, [after.requester, after.orderingKey, keysMax]),
  );
  const keys = rows.map((row) => ({
    requester: row.requester,
    orderingKey: row.ordering_key,
    origin: row.origin,
    firstId: row.id,
  }));
  return { waiting: keys.filter((_, i) => rows[i]?.is_waiting), upTo: rows.at(-1)?.is_last ? keys.at(-1) : undefined };
}

/**
 * Claims the next request of each of these keys, where one may be sent now. Null where the worker has no lease, or is not registered
 * any more; undefined where others held the lock for too long, and it is to be tried again.
 */
export async function claimOrdered(
  session: Session,
  workerId: bigint,
  keys: readonly WaitingKey[],
): Promise<readonly (QueueRow | UnloadedRow)[] | null | undefined> {
  const parameters = [
    workerId,
    keys.map(({ requester }) => requester),
    keys.map(({ orderingKey }) => orderingKey),
    keys.map(({ firstId }) => firstId),
  ];
  try {
    const rows = await readable(session, () =>
      session.query<ClaimRow | (Row & { id: null })>(claimOrderedStatement, parameters),
    );
    return rows.length === 0 ? null : rows.filter((row): row is ClaimRow => row.id !== null).map(rowOf);
  } catch (error) {
    if (isLockTimeout(error)) {
      return undefined;
    }
    throw error;
  }
}

/**
 * Forgets which of the next `keysMax` keys after `after` have nothing in the queue. Returns the key after which to go on; undefined:
 * that was the end.
 */
export async function forgetKeys(session: Session, after: Key, keysMax: number): Promise<Key | undefined> {
  try {
    const [row] = await session.query<Row & { requester: number; ordering_key: string }>(forgetStatement, [
      after.requester,
      after.orderingKey,
      keysMax,
    ]);
    return row === undefined ? undefined : { requester: row.requester, orderingKey: row.ordering_key };
  } catch (error) {
    if (isLockTimeout(error)) {
      return after;
    }
    throw error;
  }
}

async function readable<T>(session: Session, ask: () => Promise<T>): Promise<T> {
  try {
    return await ask();
  } catch (error) {
    if (!isUnreadable(error)) {
      throw error;
    }
    await refuseUnreadable(session);
    return await ask();
  }
}

function isLockTimeout(error: unknown): boolean {
  return error instanceof PostgresError && error.code === '55P03';
}
