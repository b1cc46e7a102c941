import type { Aftermath } from '../core/aftermath.ts';
import type { Settlement } from '../core/settlement.ts';
import type { Row, Session, Statement } from '../postgres/database.ts';

/** A settlement that has an aftermath. */
export type Followed = Settlement & { readonly aftermath: Aftermath };

/**
 * Records what follows from finished requests, before their responses: the last attempt of those that were tried more than
 * once, the copies that are kept for redelivery, and the calls that are to be made. In the transaction that records the
 * responses, and fenced as that is.
 */
const aftermathStatement: Statement = {
  name: 'pgfetch_aftermath',
  text: `
    with me as materialized (
      select w.id, w.name from net.worker w where w.id = $1 for key share
    ),
    given as materialized (
      select f.*
      from me
      cross join pg_catalog.jsonb_to_recordset($2::text::jsonb) as f (
        id bigint, attempt integer, started_ms double precision, state text, is_kept boolean, callback oid, idempotency_key text,
        status_code integer, error_code text, error_msg text, host text,
        dns_ms double precision, connect_ms double precision, transfer_ms double precision, total_ms double precision,
        login_role oid, set_role oid
      )
    ),
    attempted as (
      insert into net.attempts (
        request_id, attempt, started, worker, status_code, error_code, error_msg, dns_ms, connect_ms, transfer_ms, total_ms,
        login_role, set_role
      )
      select
        g.id, g.attempt, pg_catalog.to_timestamp(g.started_ms / 1000), me.name, g.status_code, g.error_code, g.error_msg,
        g.dns_ms, g.connect_ms, g.transfer_ms, g.total_ms, g.login_role, g.set_role
      from given g
      cross join me
      where g.attempt > 1
      on conflict do nothing
    ),
    kept as (
      insert into net.kept_requests (
        id, method, url, headers, body, timeout_milliseconds, created, login_role, set_role, sign_with, retry, attempts,
        ordering_key, blocks_key, priority, limit_key, on_success, on_error, keep, label, redelivery_of, idempotency_key,
        state, status_code, error_code, host
      )
      select
        q.id, q.method, q.url, q.headers, q.body, q.timeout_milliseconds, q.created, q.login_role, q.set_role, q.sign_with,
        q.retry, g.attempt, q.ordering_key, q.blocks_key, q.priority, q.limit_key, q.on_success, q.on_error, q.keep, q.label,
        q.redelivery_of, g.idempotency_key, g.state, g.status_code, g.error_code, g.host
      from net.http_request_queue q
      join given g on g.id = q.id
      where q.id = any (array(select k.id from given k where k.is_kept)) and q.claimed_by = $1
      on conflict do nothing
    )
    insert into net.callbacks (request_id, function, requester)
    select g.id, g.callback, coalesce(g.set_role, g.login_role)
    from given g
    -- What is nobody's (inserted by hand, of another server) has nobody's function to be called.
    where g.callback is not null and coalesce(g.set_role, g.login_role) is not null
      -- Where this has been committed once already, and its answer was lost, the call may have been made: none for a second time.
      and case
        when exists (select from net.http_request_queue q where q.id = g.id)
        then exists (select from net.http_request_queue q where q.id = g.id and q.claimed_by = $1)
        else not exists (select from net._http_response r where r.id = g.id)
      end
    on conflict do nothing`,
};

/** Records what follows from these requests beyond their responses. To be called in the transaction that records those. */
export async function recordAftermath(
  session: Session,
  workerId: bigint,
  settlements: readonly Followed[],
): Promise<void> {
  await session.query(aftermathStatement, [workerId, JSON.stringify(settlements.map(recordOf))]);
}

/**
 * Gives requests back to the queue that are to be tried again, and records their attempts. One that somebody has locked is left
 * alone; one that a user has deleted, or somebody has cancelled, is told. No row at all: we have lost our registration.
 */
const retryStatement: Statement = {
  name: 'pgfetch_retry',
  text: `
    with me as materialized (
      select w.id, w.name from net.worker w where w.id = $1 for key share
    ),
    given as materialized (
      select f.*
      from me
      cross join pg_catalog.jsonb_to_recordset($2::text::jsonb) as f (
        id bigint, attempt integer, started_ms double precision,
        status_code integer, error_code text, error_msg text,
        dns_ms double precision, connect_ms double precision, transfer_ms double precision, total_ms double precision,
        login_role oid, set_role oid
      )
    ),
    held as materialized (
      -- Found by an array and not by a join: this plan is kept, and was made for an almost empty queue.
      select q.id, q.cancel_asked is true as is_cancelled
      from net.http_request_queue q
      where q.id = any ($3::bigint[]) and q.claimed_by = $1 and exists (select from me)
      for update skip locked
    ),
    back as (
      update net.http_request_queue q
      set
        claimed_by = null,
        due_at = pg_catalog.clock_timestamp()
          + ($4::double precision[])[pg_catalog.array_position($3::bigint[], q.id)] * interval '1 millisecond',
        attempts = ($5::integer[])[pg_catalog.array_position($3::bigint[], q.id)],
        first_sent_at = coalesce(
          q.first_sent_at,
          pg_catalog.to_timestamp(($6::double precision[])[pg_catalog.array_position($3::bigint[], q.id)] / 1000)
        )
      where q.id = any (array(select h.id from held h where not h.is_cancelled))
      returning q.id, q.due_at
    ),
    attempted as (
      insert into net.attempts (
        request_id, attempt, started, worker, status_code, error_code, error_msg, dns_ms, connect_ms, transfer_ms, total_ms,
        login_role, set_role, retry_at
      )
      select
        g.id, g.attempt, pg_catalog.to_timestamp(g.started_ms / 1000), me.name, g.status_code, g.error_code, g.error_msg,
        g.dns_ms, g.connect_ms, g.transfer_ms, g.total_ms, g.login_role, g.set_role, b.due_at
      from given g
      cross join me
      join back b on b.id = g.id
      on conflict do nothing
    )
    select
      g.id,
      case
        when exists (select from back b where b.id = g.id) then 'returned'
        when exists (select from held h where h.id = g.id and h.is_cancelled) then 'cancelled'
        when not exists (select from net.http_request_queue q where q.id = g.id) then 'deleted'
        when exists (select from net.http_request_queue q where q.id = g.id and q.claimed_by = $1) then 'locked'
      end as state
    from given g`,
};

/** What became of requests that were to be tried again. Those that are in no list are not ours any more. */
export type PutBack = {
  readonly returned: readonly bigint[];
  /** Users have deleted them meanwhile: there is nothing to try again. */
  readonly deleted: readonly bigint[];
  /** Somebody has cancelled them meanwhile: they are still ours, and must not be tried again. */
  readonly cancelled: readonly bigint[];
  /** Somebody else has locked their rows: still ours, and nothing was done. */
  readonly locked: readonly bigint[];
};

/** Gives requests back to the queue until they are to be tried again. */
export async function putBackForRetry(
  session: Session,
  workerId: bigint,
  settlements: readonly Followed[],
): Promise<PutBack> {
  const rows = await session.query<Row & { id: bigint; state: string | null }>(retryStatement, [
    workerId,
    JSON.stringify(settlements.map(recordOf)),
    settlements.map(({ id }) => id),
    settlements.map(({ aftermath }) => aftermath.retryInMs ?? 0),
    settlements.map(({ aftermath }) => aftermath.attempt),
    settlements.map(({ aftermath }) => aftermath.startedAtMs),
  ]);
  const those = (state: string): bigint[] => rows.filter((row) => row.state === state).map(({ id }) => id);
  return {
    returned: those('returned'),
    deleted: those('deleted'),
    cancelled: those('cancelled'),
    locked: those('locked'),
  };
}

/** As `jsonb_to_recordset` takes it. */
function recordOf(settlement: Followed): object {
  const { aftermath } = settlement;
  return {
    id: String(settlement.id),
    attempt: aftermath.attempt,
    started_ms: aftermath.startedAtMs,
    state: aftermath.state,
    is_kept: aftermath.isKept,
    callback: aftermath.callback,
    idempotency_key: aftermath.idempotencyKey,
    status_code: settlement.statusCode,
    error_code: settlement.errorCode,
    error_msg: settlement.errorMessage,
    host: settlement.host,
    dns_ms: aftermath.timings.dnsMs,
    connect_ms: aftermath.timings.connectMs,
    transfer_ms: aftermath.timings.transferMs,
    total_ms: aftermath.timings.totalMs,
    login_role: settlement.loginRole,
    set_role: settlement.setRole,
  };
}
