import type { Session, Statement } from '../postgres/database.ts';
import { PostgresError } from '../postgres/database.ts';

/**
 * Refuses the waiting requests of which the worker, whose session is in UTF-8, cannot be told: rows that were inserted by hand
 * into a database whose encoding has characters that UTF-8 lacks (EUC_JP), or that checks none (SQL_ASCII). The documented
 * functions refuse them at once. One of them would fail every claim.
 */
const refuseUnreadableStatement: Statement = {
  name: 'pgfetch_refuse_unreadable',
  text: `
    with unreadable as materialized (
      select q.id
      from net.http_request_queue q
      where q.claimed_by is null and not net._is_readable(
        q.method, q.url, q.headers, pg_catalog.concat(q.sign_with, net._extras(q))
      )
      for update skip locked
    ),
    refused as (
      delete from net.http_request_queue q
      where q.id = any (array(select u.id from unreadable u))
      returning q.id, q.login_role, q.set_role
    )
    insert into net._http_response (id, timed_out, error_msg, error_code, login_role, set_role)
    select
      r.id, false, 'The request holds characters that cannot be converted to UTF-8', 'invalid_request', r.login_role, r.set_role
    from refused r
    on conflict (id) do nothing`,
};

/** Whether the server could not tell us what is in a row. */
export function isUnreadable(error: unknown): boolean {
  return error instanceof PostgresError && (error.code === '22021' || error.code === '22P05');
}

export async function refuseUnreadable(session: Session): Promise<void> {
  await session.query(refuseUnreadableStatement, []);
}
