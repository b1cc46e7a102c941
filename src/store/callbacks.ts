import type { Row, Session, Statement } from '../postgres/database.ts';

/** How often a function that fails is called, the first time included; each delay is ten times the one before. */
export const callbackAttemptsMax = 4;

const nextStatement: Statement = {
  name: 'pgfetch_next_callback',
  text: `
    with outdated as (
      delete from net.callbacks c
      where c.due_at is null and c.created < pg_catalog.clock_timestamp() - $1 * interval '1 millisecond'
    )
    select (extract(epoch from pg_catalog.min(c.due_at) - pg_catalog.clock_timestamp()) * 1000)::double precision as due_ms
    from net.callbacks c
    where c.due_at is not null`,
};

/** In how many milliseconds the next call is due; null where there is none. Forgets what failed longer ago than `ttlMs`. */
export async function nextCallbackMs(session: Session, ttlMs: number): Promise<number | null> {
  const [row] = await session.query<Row & { due_ms: number | null }>(nextStatement, [ttlMs]);
  return row?.due_ms ?? null;
}

const claimStatement: Statement = {
  name: 'pgfetch_claim_callback',
  text: `
    with made as materialized (
      select pg_catalog.gen_random_uuid()::text as ticket
    ),
    due as materialized (
      select c.request_id
      from net.callbacks c
      where c.due_at <= pg_catalog.clock_timestamp() and c.requester <> all ($1::oid[])
      order by c.due_at
      limit 1
      for update skip locked
    )
    update net.callbacks c
    set
      due_at = pg_catalog.clock_timestamp() + $2 * interval '1 millisecond',
      ticket = pg_catalog.sha256(pg_catalog.convert_to(made.ticket, 'UTF8'))
    from due
    cross join made
    where c.request_id = due.request_id
    returning c.request_id, c.requester, made.ticket`,
};

/** A call that this worker may have made. */
export type CallbackClaim = {
  readonly requestId: bigint;
  readonly requester: number;
  /** Known to nobody else, and worthless when another worker has claimed the call. */
  readonly ticket: string;
};

/**
 * Claims the call that is due for longest, of none of these requesters. It is left to us for `leaseMs`, and then due again.
 * Undefined where there is none.
 */
export async function claimCallback(
  session: Session,
  notOf: readonly number[],
  leaseMs: number,
): Promise<CallbackClaim | undefined> {
  type ClaimRow = Row & { request_id: bigint; requester: number; ticket: string };
  const [row] = await session.query<ClaimRow>(claimStatement, [notOf, leaseMs]);
  return row && { requestId: row.request_id, requester: row.requester, ticket: row.ticket };
}

const returnStatement: Statement = {
  name: 'pgfetch_return_callback',
  text: `
    update net.callbacks c
    set due_at = pg_catalog.clock_timestamp() + $3 * interval '1 millisecond', ticket = null
    where c.request_id = $1 and c.ticket = pg_catalog.sha256(pg_catalog.convert_to($2, 'UTF8'))`,
};

/** Gives back a call that was not made: it is due again after `delayMs`. */
export async function returnCallback(session: Session, claim: CallbackClaim, delayMs: number): Promise<void> {
  await session.query(returnStatement, [claim.requestId, claim.ticket, delayMs]);
}

const failedStatement: Statement = {
  name: 'pgfetch_callback_failed',
  // SKIP LOCKED: a call that never ends holds its row.
  text: `
    update net.callbacks c
    set
      attempts = c.attempts + 1,
      error_code = $3,
      error_msg = pg_catalog.left($4, 1000),
      due_at = case
        when c.attempts + 1 < $5
        then pg_catalog.clock_timestamp() + pg_catalog.power(10, c.attempts) * interval '1 second'
      end,
      ticket = null
    where c.request_id = (
      select k.request_id
      from net.callbacks k
      where k.request_id = $1 and k.ticket = pg_catalog.sha256(pg_catalog.convert_to($2, 'UTF8'))
      for update skip locked
    )`,
};

/** Records that a call has failed: it is made again after 1 s, 10 s, 100 s, and then no more. Nothing where it is not ours any more. */
export async function recordCallbackFailure(
  session: Session,
  claim: CallbackClaim,
  failure: { readonly code: string; readonly message: string },
): Promise<void> {
  const { requestId, ticket } = claim;
  await session.query(failedStatement, [requestId, ticket, failure.code, failure.message, callbackAttemptsMax]);
}

const callStatement: Statement = {
  name: 'pgfetch_call_back',
  text: 'select net._call_back($1::pg_catalog.int8, $2::pg_catalog.text) as called',
};

/**
 * Calls the function, in a transaction of its own that also takes the call off the list. Throws what the function raised. False
 * where the call is not there, or not ours any more. To be run by the callback login.
 */
export async function callBack(session: Session, { requestId, ticket }: CallbackClaim): Promise<boolean> {
  const [row] = await session.query<Row & { called: boolean }>(callStatement, [requestId, ticket]);
  return row?.called === true;
}

const loginStatement: Statement = {
  name: 'pgfetch_callback_login',
  text: `
    select
      current_user::text as name,
      pg_catalog.pg_backend_pid() as pid,
      pg_catalog.version() ~* '(emscripten|emcc|wasm)' as is_shared,
      array(
        select a.excess
        from (
          values
            (r.rolsuper, 'is a superuser'), (r.rolbypassrls, 'has BYPASSRLS'), (r.rolcreaterole, 'has CREATEROLE'),
            (r.rolcreatedb, 'has CREATEDB'), (r.rolreplication, 'has REPLICATION'),
            (
              exists (
                select from pg_catalog.pg_namespace n where n.nspname = 'net' and n.nspowner = r.oid
              ),
              'owns the schema net'
            ),
            (
              exists (
                select from pg_catalog.pg_database d
                where d.datname = pg_catalog.current_database() and d.datdba = r.oid
              ),
              'owns this database'
            )
        ) a (is_held, excess)
        where a.is_held and (a.excess = 'is a superuser' or not r.rolsuper)
        union all
        select 'is a member of ' || pg_catalog.quote_ident(g.rolname)
        from pg_catalog.pg_roles g
        where not r.rolsuper
          and g.oid <> r.oid
          and g.rolname not in ('net_callback', 'pg_database_owner')
          and pg_catalog.pg_has_role(r.oid, g.oid, 'MEMBER')
        limit 10
      ) as excess,
      coalesce(
        pg_catalog.has_schema_privilege(pg_catalog.to_regnamespace('net')::oid, 'USAGE')
        and pg_catalog.has_function_privilege(pg_catalog.to_regprocedure('net._call_back(bigint, text)')::oid, 'EXECUTE')
        and pg_catalog.has_function_privilege(pg_catalog.to_regprocedure('net._take_callback(bigint, text)')::oid, 'EXECUTE'),
        false
      ) as may_call
    from pg_catalog.pg_roles r
    where r.rolname = current_user`,
};

/** The login of a session that calls callbacks. */
export type CallbackLogin = {
  readonly name: string;
  /** Its session's server process. */
  readonly pid: number;
  /** The server has one session for all (PGlite behind a socket): it is nobody else's to forget, and has one user. */
  readonly isShared: boolean;
  /** What it may beyond calling: `is a superuser`, `is a member of app`, ... */
  readonly excess: readonly string[];
  readonly mayCall: boolean;
};

/** Whose session this is, and whether it may do what it is for, and nothing else. */
export async function readCallbackLogin(session: Session): Promise<CallbackLogin> {
  type LoginRow = Row & {
    name: string;
    pid: number;
    is_shared: boolean;
    excess: readonly string[];
    may_call: boolean;
  };
  const [row] = await session.query<LoginRow>(loginStatement);
  if (row === undefined) {
    throw new Error('the callback login statement returned no row');
  }
  return {
    name: row.name,
    pid: row.pid,
    isShared: row.is_shared,
    excess: row.excess,
    mayCall: row.may_call,
  };
}

const endStatement: Statement = {
  name: 'pgfetch_end_callback',
  text: 'select pg_catalog.pg_terminate_backend($1::pg_catalog.int4)',
};

/** Ends a session of the same login, whatever the function in it makes of time-outs. */
export async function endCallbackSession(session: Session, pid: number): Promise<void> {
  await session.query(endStatement, [pid]);
}
