import type { Row, Session, Statement } from '../postgres/database.ts';

/**
 * What the worker does to what, as sql/080_trust.sql grants it to net_worker, and which of it the current role may not do.
 * What does not exist cannot be done either.
 */
const missingRightsStatement: Statement = {
  name: 'pgfetch_missing_rights',
  text: `
    select n.need
    from (
      select 'USAGE on schema net' as need,
        (select pg_catalog.has_schema_privilege(s.oid, 'USAGE') from pg_catalog.pg_namespace s where s.nspname = 'net') as held
      union all
      select t.privilege || ' on table ' || t.name,
        pg_catalog.has_table_privilege(pg_catalog.to_regclass(t.name)::oid, t.privilege)
      from (
        values
          ('net.http_request_queue', 'SELECT'), ('net.http_request_queue', 'DELETE'),
          ('net._http_response', 'SELECT'), ('net._http_response', 'INSERT'), ('net._http_response', 'DELETE'),
          ('net.kept_requests', 'INSERT'), ('net.kept_requests', 'DELETE'),
          ('net.worker', 'SELECT'), ('net.worker', 'INSERT'), ('net.worker', 'UPDATE'), ('net.worker', 'DELETE'),
          ('net.pause', 'SELECT'), ('net.installation', 'SELECT'), ('net.policy', 'SELECT'),
          ('net.callbacks', 'SELECT'), ('net.callbacks', 'INSERT'), ('net.callbacks', 'DELETE'),
          ('net.retry_policy', 'SELECT'),
          ('net.attempts', 'SELECT'), ('net.attempts', 'INSERT'), ('net.attempts', 'DELETE'),
          ('net.idempotency_keys', 'SELECT'), ('net.idempotency_keys', 'DELETE'),
          ('net.ordering_keys', 'SELECT'), ('net.ordering_keys', 'INSERT'), ('net.ordering_keys', 'UPDATE'),
          ('net.ordering_keys', 'DELETE'), ('net.ordering_lock', 'DELETE'),
          ('net.limits', 'SELECT'),
          ('net.limit_state', 'SELECT'), ('net.limit_state', 'INSERT'), ('net.limit_state', 'UPDATE'), ('net.limit_state', 'DELETE'),
          ('net.limit_holders', 'SELECT'), ('net.limit_holders', 'INSERT'), ('net.limit_holders', 'UPDATE'),
          ('net.limit_holders', 'DELETE')
      ) as t (name, privilege)
      union all
      select c.privilege || ' (' || c.name || ') on table ' || c.of_table,
        exists (
          select
          from pg_catalog.pg_attribute a
          where a.attrelid = pg_catalog.to_regclass(c.of_table) and a.attname = c.name and not a.attisdropped
            and pg_catalog.has_column_privilege(a.attrelid, a.attnum, c.privilege)
        )
      from (
        values
          ('net.http_request_queue', 'UPDATE', 'claimed_by'), ('net.http_request_queue', 'UPDATE', 'due_at'),
          ('net.http_request_queue', 'UPDATE', 'attempts'), ('net.http_request_queue', 'UPDATE', 'first_sent_at'),
          ('net.kept_requests', 'SELECT', 'id'), ('net.kept_requests', 'SELECT', 'finished'),
          -- To lock what expires.
          ('net._http_response', 'UPDATE', 'created'), ('net.kept_requests', 'UPDATE', 'finished'),
          ('net.callbacks', 'UPDATE', 'due_at'), ('net.callbacks', 'UPDATE', 'attempts'),
          ('net.callbacks', 'UPDATE', 'error_code'), ('net.callbacks', 'UPDATE', 'error_msg'),
          ('net.callbacks', 'UPDATE', 'ticket'),
          ('net.attempts', 'UPDATE', 'created'), ('net.idempotency_keys', 'UPDATE', 'expires_at')
      ) as c (of_table, privilege, name)
      union all
      select s.privilege || ' on sequence ' || s.name,
        pg_catalog.has_sequence_privilege(pg_catalog.to_regclass(s.name)::oid, s.privilege)
      from (
        values
          ('net.worker_id_seq', 'USAGE'),
          ('net.wake_promise', 'UPDATE'),
          ('net.worker_restart_seq', 'SELECT'), ('net.http_request_queue_id_seq', 'SELECT')
      ) as s (name, privilege)
      union all
      select 'EXECUTE on function ' || f.name,
        pg_catalog.has_function_privilege(pg_catalog.to_regprocedure(f.name)::oid, 'EXECUTE')
      from (
        values
          ('net._session_lives(integer, timestamptz, timestamptz)'),
          ('net._interval_or_null(text)'),
          ('net._bytes_or_null(text)'),
          ('net._is_readable(text, text, jsonb, text)'),
          ('net._unstorable(bytea[])'),
          ('net._has_policies()'), ('net._concerns(oid, oid)'),
          ('net._limits()'), ('net._lock_meters(text[])'),
          ('net._take_tokens(text[], double precision[], text[], double precision[], integer[])'),
          ('net._hold_permits(bigint, text[], integer[], integer[], integer[])'),
          ('net._settings_for(oid)'),
          ('net._extras(net.http_request_queue)'),
          ('net._system_identifier()'),
          ('net._claim_ordered(bigint, oid[], text[], bigint[])'), ('net._forget_ordering_keys(oid, text, integer)')
      ) as f (name)
      union all
      -- Without a policy for it a role is shown only its own requests, and takes the queue for empty; or only the rules that bind itself.
      select 'rows of other roles in ' || t.name,
        (
          select not pg_catalog.row_security_active(c.oid) or exists (
            select
            from pg_catalog.pg_policy p
            where p.polrelid = c.oid and p.polcmd = '*'
              and exists (select from pg_catalog.unnest(p.polroles) r (oid) where r.oid <> 0 and pg_catalog.pg_has_role(r.oid, 'USAGE'))
          )
          from pg_catalog.pg_class c
          where c.oid = pg_catalog.to_regclass(t.name)
        )
      from (
        values
          ('net.http_request_queue'), ('net._http_response'), ('net.policy'), ('net.kept_requests'), ('net.callbacks'),
          ('net.attempts'), ('net.idempotency_keys'), ('net.ordering_keys'),
          ('net.limit_state'), ('net.limit_holders')
      ) as t (name)
    ) as n
    where n.held is not true`,
};

const roleStatement: Statement = {
  name: 'pgfetch_role',
  text: `
    select
      current_user::text as name,
      array(
        select a.excess
        from (
          values
            (r.rolsuper, 'is a superuser'), (r.rolbypassrls, 'has BYPASSRLS'), (r.rolcreaterole, 'has CREATEROLE'),
            (r.rolcreatedb, 'has CREATEDB'), (r.rolreplication, 'has REPLICATION')
        ) a (is_held, excess)
        where a.is_held and (a.excess = 'is a superuser' or not r.rolsuper)
        union all
        select 'is a member of ' || pg_catalog.quote_ident(g.rolname)
        from pg_catalog.pg_roles g
        where not r.rolsuper
          and g.oid <> r.oid
          -- Whoever owns the database is a member of pg_database_owner, and nobody else can be.
          and g.rolname not in ('net_worker', 'pg_database_owner')
          and pg_catalog.pg_has_role(r.oid, g.oid, 'MEMBER')
        limit 10
      ) as excess,
      exists (
        select
        from pg_catalog.pg_namespace n
        where n.nspname = 'net' and pg_catalog.pg_has_role(n.nspowner, 'USAGE')
      ) as owns_schema,
      exists (select from pg_catalog.pg_roles w where w.rolname = 'net_worker') as has_worker_role
    from pg_catalog.pg_roles r
    where r.rolname = current_user`,
};

export type RoleFacts = {
  readonly name: string;
  /** What it may beyond what a worker needs: `is a superuser`, `is a member of app`, ... */
  readonly excess: readonly string[];
  /** It has the rights of the owner of the schema `net`. */
  readonly ownsSchema: boolean;
  /** The role `net_worker` exists on this server. */
  readonly hasWorkerRole: boolean;
  /** What a worker needs and this role lacks. */
  readonly missing: readonly string[];
};

/** What the current role lacks to run a worker; empty where it may. */
export async function readMissingRights(session: Session): Promise<readonly string[]> {
  const missing = await session.query<Row & { need: string }>(missingRightsStatement);
  return missing.map((row) => row.need);
}

/** The current role, and what it lacks to run a worker. */
export async function readRights(session: Session): Promise<RoleFacts> {
  type RoleRow = Row & {
    name: string;
    excess: readonly string[];
    owns_schema: boolean;
    has_worker_role: boolean;
  };
  const [role] = await session.query<RoleRow>(roleStatement);
  if (role === undefined) {
    throw new Error('the role statement returned no row');
  }
  return {
    name: role.name,
    excess: role.excess,
    ownsSchema: role.owns_schema,
    hasWorkerRole: role.has_worker_role,
    missing: await readMissingRights(session),
  };
}
