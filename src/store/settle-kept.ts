import type { Aftermath } from '../core/aftermath.ts';
import type { Statement } from '../postgres/database.ts';

/**
 * As `settle.ts` records plain responses, and moves the requests to those that are kept for redelivery: in one statement, so that
 * a host that answers with errors does not cost a transaction of several round trips a group. A statement of its own, so that
 * plain responses do not pay for it. The body is moved by the server.
 * A copy that is there already (somebody inserted it) fails it; the request is then settled by itself, and the old copy stays.
 */
export const settleKeptStatement: Statement = {
  name: 'pgfetch_settle_kept',
  text: `
    with me as materialized (
      select w.id from net.worker w where w.id = $1 for key share
    ),
    finished as materialized (
      select *
      from rows from (
        unnest(
          $2::bigint[], $3::integer[], $4::text[], $6::text[], $7::bytea[], $8::boolean[], $9::boolean[],
          $10::text[], $11::text[], $12::oid[], $13::oid[], $14::text[], $15::integer[], $16::text[],
          $17::text[], $18::text[], $19::integer[], $20::boolean[], $21::text[]
        ),
        pg_catalog.jsonb_array_elements($5::text::jsonb)
      ) as f (
        id, status_code, content_type, content, content_bytes, timed_out, truncated,
        error_msg, error_code, login_role, set_role, final_url, redirects, header_list,
        host, label, attempts, is_dead, state, headers
      )
      where exists (select from me)
    ),
    done as (
      -- By an array and not by a join: this plan is kept, and was made for an almost empty queue.
      delete from net.http_request_queue q
      where q.id = any ($2) and q.claimed_by = $1 and exists (select from me)
      returning q.*
    ),
    kept as (
      insert into net.kept_requests (
        id, method, url, headers, body, timeout_milliseconds, created, login_role, set_role, sign_with, retry, attempts,
        ordering_key, blocks_key, priority, limit_key, on_success, on_error, keep, label, redelivery_of,
        state, status_code, error_code, host
      )
      select
        q.id, q.method, q.url, q.headers, q.body, q.timeout_milliseconds, q.created, q.login_role, q.set_role, q.sign_with,
        q.retry, 1, q.ordering_key, q.blocks_key, q.priority, q.limit_key, q.on_success, q.on_error, q.keep, q.label,
        q.redelivery_of, f.state, f.status_code, f.error_code, f.host
      from done q
      join finished f on f.id = q.id
    )
    insert into net._http_response (
      id, status_code, content_type, headers, content, timed_out, error_msg, error_code,
      content_bytes, truncated, login_role, set_role, final_url, redirects, header_list,
      host, label, attempts, is_dead, created
    )
    select
      f.id, f.status_code, f.content_type, nullif(f.headers, 'null'), f.content, coalesce(f.timed_out, false),
      f.error_msg, f.error_code, f.content_bytes, f.truncated, f.login_role, f.set_role,
      f.final_url, f.redirects, f.header_list::jsonb,
      f.host, f.label, f.attempts, f.is_dead, pg_catalog.clock_timestamp()
    from finished f
    where (select pg_catalog.count(*) from done) = pg_catalog.cardinality($2)
      or (select q.claimed_by is not distinct from $1 from net.http_request_queue q where q.id = f.id) is not false
    returning id`,
};

/**
 * Whether nothing follows a finished request but the copy that is kept of it: it was tried once, its response is recorded, and
 * the copy needs nothing that the row in the queue does not have.
 */
export function isKeptAlone(aftermath: Aftermath | undefined): boolean {
  return (
    aftermath?.isKept === true &&
    aftermath.retryInMs === undefined &&
    aftermath.attempt === 1 &&
    aftermath.keep !== 'none' &&
    aftermath.callback === undefined &&
    aftermath.idempotencyKey === undefined
  );
}
