-- Who may do what. The functions are enough to use pgfetch: nobody else needs rights on the tables.
--
-- The documented functions are SECURITY DEFINER, and in one PostgreSQL tells the login and the role that was SET, not a
-- function that called it: those two are recorded, and a role with the rights of either sees the request, without its
-- headers and body. net.request is not, and records the role as which it was called, alone. The owner of the schema and
-- net_admin see everything.

alter table net.http_request_queue enable row level security;
alter table net._http_response enable row level security;
alter table net.policy enable row level security;
alter table net.queue_limit enable row level security;
alter table net.limits enable row level security;
alter table net.limit_state enable row level security;
alter table net.limit_holders enable row level security;
alter table net.retry_policy enable row level security;
alter table net.attempts enable row level security;
alter table net.kept_requests enable row level security;
alter table net.idempotency_keys enable row level security;
alter table net.ordering_keys enable row level security;
alter table net.ordering_lock enable row level security;
alter table net.callbacks enable row level security;

-- For whoever has rights on the tables at all, which net.set_grants decides.
create policy own_requests on net.http_request_queue for select to public
  using (pg_catalog.pg_has_role(login_role, 'USAGE') or pg_catalog.pg_has_role(set_role, 'USAGE'));
create policy own_responses on net._http_response for select to public
  using (pg_catalog.pg_has_role(login_role, 'USAGE') or pg_catalog.pg_has_role(set_role, 'USAGE'));
-- What binds a role, it sees.
create policy own_rules on net.policy for select to public
  using (role is null or pg_catalog.pg_has_role(role, 'USAGE'));
create policy own_attempts on net.attempts for select to public
  using (pg_catalog.pg_has_role(login_role, 'USAGE') or pg_catalog.pg_has_role(set_role, 'USAGE'));
create policy own_kept on net.kept_requests for select to public
  using (pg_catalog.pg_has_role(login_role, 'USAGE') or pg_catalog.pg_has_role(set_role, 'USAGE'));
create policy own_callbacks on net.callbacks for select to public using (pg_catalog.pg_has_role(requester, 'USAGE'));
-- A limit is nobody's: the rights on the table decide.
create policy every_limit_row on net.limits to public using (true) with check (true);
-- A policy is no secret.
create policy every_retry_policy on net.retry_policy for select to public using (true);
create policy own_limits on net.queue_limit for select to public
  using (role is null or pg_catalog.pg_has_role(role, 'USAGE'));

-- Roles belong to the whole server. Who may grant one of ours decides who reads or enqueues requests here: a tenant that made
-- it beforehand, comment included, must not. (From PostgreSQL 16 on who creates a role keeps ADMIN OPTION on it.)
-- API: private
create function net._refuse_untrusted_roles(role_names text[])
  returns void
  language plpgsql
  volatile
  parallel unsafe
  set search_path = pg_catalog, pg_temp
as $$
declare
  role_name  text;
  admin_name text;
begin
  select r.rolname, a.rolname
  into role_name, admin_name
  from pg_auth_members m
  join pg_roles r on r.oid = m.roleid
  join pg_roles a on a.oid = m.member
  where r.rolname = any (role_names)
    and m.admin_option
    and not a.rolsuper
    and a.rolname <> current_user
    and not exists (
      select from pg_auth_members c
      join pg_roles i on i.oid = c.member
      where c.roleid = a.oid and i.rolname = current_user
    )
    and not exists (
      select from pg_database d where d.datname = current_database() and d.datdba = a.oid
    )
    -- A superuser may call set_grants where another owns the schema.
    and not exists (
      select from pg_namespace n where n.nspname = 'net' and n.nspowner = a.oid
    )
  limit 1;
  if found then
    raise exception 'role "%" is not to be trusted: "%" may grant it to anybody', role_name, admin_name
      using errcode = 'insufficient_privilege',
            detail  = case role_name
                        when 'net_user' then 'Whoever holds net_user may enqueue requests in this database.'
                        when 'net_callback' then 'Whoever holds net_callback may call the functions that are granted to it.'
                        else 'Whoever holds pgfetch''s roles sees every request of this database.'
                      end,
            hint    = format(
                        'If that role is trusted, let it install, or make it the owner of this database. Else, as a superuser: REVOKE ADMIN OPTION FOR %I FROM %I CASCADE; and try again.',
                        role_name, admin_name
                      );
  end if;
end
$$;

-- The roles are missing where the installer may not create them; everything then belongs to the schema's owner alone.
do $$
begin
  perform net._refuse_untrusted_roles('{net_admin,net_worker,net_callback}');

  if exists (select from pg_catalog.pg_roles where rolname = 'net_admin') then
    create policy every_request on net.http_request_queue for select to net_admin using (true);
    create policy every_response on net._http_response for select to net_admin using (true);
    create policy every_rule on net.policy for select to net_admin using (true);
    create policy every_limit on net.queue_limit for select to net_admin using (true);
    create policy every_attempt on net.attempts for select to net_admin using (true);
    create policy every_kept on net.kept_requests for select to net_admin using (true);
    create policy every_callback on net.callbacks for select to net_admin using (true);
  end if;
  if exists (select from pg_catalog.pg_roles where rolname = 'net_worker') then
    create policy worker_requests on net.http_request_queue to net_worker using (true) with check (true);
    create policy worker_responses on net._http_response to net_worker using (true) with check (true);
    create policy worker_rules on net.policy to net_worker using (true) with check (true);
    create policy worker_limit_state on net.limit_state to net_worker using (true) with check (true);
    create policy worker_limit_holders on net.limit_holders to net_worker using (true) with check (true);
    create policy worker_attempts on net.attempts to net_worker using (true) with check (true);
    create policy worker_kept on net.kept_requests to net_worker using (true) with check (true);
    create policy worker_idempotency on net.idempotency_keys to net_worker using (true) with check (true);
    create policy worker_ordering on net.ordering_keys to net_worker using (true) with check (true);
    create policy worker_callbacks on net.callbacks to net_worker using (true) with check (true);
  end if;
end
$$;

-- Sets every right in the schema to what the profile says, for the owner of the schema. All other grants are taken away.
--   public   any role may enqueue, and sees its own requests (without headers and body) and responses
--   members  the same for members of the role net_user alone, which is created if it is missing
--   none     nobody but the owner may: grant what you want to whom you want
-- API: public
create function net.set_grants(profile text)
  returns void
  language plpgsql
  strict
  volatile
  parallel unsafe
  set search_path = pg_catalog, pg_temp
as $$
declare
  holding record;
  looks   text;
  users   text := case profile when 'public' then 'public' when 'members' then 'net_user' end;
begin
  if profile not in ('public', 'members', 'none') then
    raise exception 'unknown profile of grants: "%"', profile
      using errcode = 'invalid_parameter_value',
            hint    = 'Give public, members or none.';
  end if;
  if profile = 'members' then
    perform net._create_user_role();
  end if;

  -- Nobody but the owner, to begin with: not by PostgreSQL's defaults, not by ALTER DEFAULT PRIVILEGES (a role with TRIGGER
  -- on a table could run code as whoever writes to it), not by an earlier profile.
  for holding in
    select distinct
      o.kind,
      o.name,
      case when a.grantee = 0 then 'public' else quote_ident(pg_get_userbyid(a.grantee)) end as grantee
    from pg_namespace n
    cross join lateral (
      select 'schema', 'net', n.nspowner, n.nspacl
      union all
      select 'routine', p.oid::regprocedure::text, p.proowner, coalesce(p.proacl, acldefault('f', p.proowner))
      from pg_proc p
      where p.pronamespace = n.oid
      union all
      select case c.relkind when 'S' then 'sequence' else 'table' end, c.oid::regclass::text, c.relowner, c.relacl
      from pg_class c
      where c.relnamespace = n.oid
      union all
      -- REVOKE on the table takes away what was granted on its columns.
      select 'table', c.oid::regclass::text, c.relowner, t.attacl
      from pg_class c
      join pg_attribute t on t.attrelid = c.oid
      where c.relnamespace = n.oid
      union all
      select 'type', t.oid::regtype::text, t.typowner, t.typacl
      from pg_type t
      where t.typnamespace = n.oid
    ) o (kind, name, owner, acl)
    cross join lateral aclexplode(o.acl) a
    where n.nspname = 'net' and o.owner = n.nspowner and a.grantee <> o.owner
      -- USAGE on a type lets nobody see or do anything: it stays PUBLIC's, as PostgreSQL has it.
      and (o.kind <> 'type' or a.grantee <> 0)
  loop
    execute format('revoke all on %s %s from %s cascade', holding.kind, holding.name, holding.grantee);
  end loop;

  if users is not null then
    execute format(
      'grant execute on function
        net.http_get(text, jsonb, jsonb, integer),
        net.http_post(text, jsonb, jsonb, jsonb, integer),
        net.http_delete(text, jsonb, jsonb, integer),
        net.http_put(text, jsonb, jsonb, jsonb, integer),
        net.http_patch(text, jsonb, jsonb, jsonb, integer),
        net.http_head(text, jsonb, jsonb, integer),
        net.request(text, text, jsonb, jsonb, jsonb, jsonb, text, bytea, integer, text, integer, text, timestamptz, interval, text, text, text, integer, text, regproc, regproc, text, text),
        net._enqueue(net._caller, text, text, jsonb, jsonb, jsonb, jsonb, text, bytea, integer, text, net._options),
        net.redeliver(bigint), net._redeliver(net._caller, bigint),
        net.redeliver_where(text, text, timestamptz, timestamptz, text, text, boolean, numeric, integer),
        net._redeliver_where(net._caller, text, text, timestamptz, timestamptz, text, text, boolean, numeric, integer),
        net.cancel(bigint),
        net._cancel(net._caller, bigint),
        net.wake(),
        net.worker_restart(),
        net.wait_until_running(),
        net.check_worker_is_up(),
        net._refuse_endless_wait(),
        net._urlencode_string(varchar),
        net._encode_url_with_params_array(text, text[]),
        net._is_own_transactions(bigint),
        net._request_state(bigint),
        net._await_all(bigint[], timestamptz),
        net._check_awaited(bigint[], timestamptz, boolean),
        net._refuse_to_wait_on(bigint[]),
        net.await(bigint[], interval),
        net._await_response(bigint),
        net._last_running_xid(),
        net._others_have_ended(bigint),
        net._http_collect_response(bigint, boolean),
        net.http_collect_response(bigint, boolean)
      to %1$s;
      grant select on net._http_response, net.settings, net.policy, net.queue_limit, net.retry_policy, net.attempts,
        net.callbacks, net.requests to %1$s;
      grant select on net.limits to %1$s;
      grant select (id, method, url, timeout_milliseconds, claimed_by, due_at, created, login_role, set_role, sign_with,
        retry, attempts, first_sent_at, ordering_key, blocks_key, priority, limit_key, on_success, on_error, keep, label,
        cancel_asked, redelivery_of)
        on net.http_request_queue to %1$s;
      grant select (id, method, url, timeout_milliseconds, created, login_role, set_role, sign_with, retry, attempts, ordering_key,
        blocks_key, priority, limit_key, on_success, on_error, keep, label, redelivery_of, state, status_code, error_code, host,
        finished, redelivered_as)
        on net.kept_requests to %1$s',
      users
    );
  end if;

  -- What tells how the installation stands.
  for looks in
    select l.name
    from unnest(array[users, 'net_admin', 'net_worker']) l (name)
    where l.name = 'public' or exists (select from pg_roles r where r.rolname = l.name)
  loop
    execute format(
      'grant usage on schema net to %1$s;
      grant select on net.installation, net.pause to %1$s;
      grant execute on function net._settings_for(oid), net._system_identifier(), net._fingerprint() to %1$s',
      looks
    );
  end loop;

  if exists (select from pg_roles where rolname = 'net_admin') then
    grant select on net.http_request_queue, net._http_response, net.worker, net.settings, net.policy, net.queue_limit,
      net.retry_policy, net.attempts, net.kept_requests, net.callbacks, net.ordering_keys,
      net.requests to net_admin;
    grant select on net.limits, net.breakers to net_admin;
    grant execute on function net.reset_breaker(text, text) to net_admin;
    grant execute on function
      net.redeliver(bigint), net._redeliver(net._caller, bigint),
      net.redeliver_where(text, text, timestamptz, timestamptz, text, text, boolean, numeric, integer),
      net._redeliver_where(net._caller, text, text, timestamptz, timestamptz, text, text, boolean, numeric, integer),
      net.cancel(bigint), net._cancel(net._caller, bigint), net.set_paused(boolean), net.wake(), net.worker_restart(), net.wait_until_running(),
      net._refuse_endless_wait(), net.check_worker_is_up(),
      -- What `pgfetch status` and `pgfetch doctor` read the settings by.
      net._interval_or_null(text), net._bytes_or_null(text) to net_admin;
  end if;

  if exists (select from pg_roles where rolname = 'net_worker') then
    grant select, update (claimed_by, due_at, attempts, first_sent_at), delete on net.http_request_queue to net_worker;
    -- UPDATE of one column, because expiry locks the rows it is about to delete (FOR UPDATE SKIP LOCKED asks for it).
    grant select, insert, update (created), delete on net._http_response to net_worker;
    grant select, insert, update, delete on net.worker to net_worker;
    grant select on net.policy, net.retry_policy to net_worker;
    grant select on net.limits to net_worker;
    grant select, insert, update, delete on net.limit_state, net.limit_holders to net_worker;
    grant select, insert, update (created), delete on net.attempts to net_worker;
    grant select, update (expires_at), delete on net.idempotency_keys to net_worker;
    grant select, insert, update, delete on net.ordering_keys to net_worker;
    -- It copies what it has in the queue, and deletes what expires (UPDATE is for the lock, as above); it never reads them.
    grant select (id, finished), insert, update (finished), delete on net.kept_requests to net_worker;
    grant select, insert, update (due_at, attempts, error_code, error_msg, ticket), delete on net.callbacks to net_worker;
    -- It locks the table and does nothing else with it.
    grant delete on net.ordering_lock to net_worker;
    grant execute on function net._claim_ordered(bigint, oid[], text[], bigint[]),
      net._forget_ordering_keys(oid, text, integer) to net_worker;
    grant usage on sequence net.worker_id_seq to net_worker;
    grant update on sequence net.wake_promise to net_worker;
    grant select on sequence net.worker_restart_seq, net.http_request_queue_id_seq to net_worker;
    grant execute on function net._session_lives(integer, timestamptz, timestamptz), net._interval_or_null(text),
      net._bytes_or_null(text), net._is_readable(text, text, jsonb, text), net._unstorable(bytea[]),
      net._has_policies(), net._concerns(oid, oid), net._extras(net.http_request_queue),
      net._limits(), net._lock_meters(text[]),
      net._take_tokens(text[], double precision[], text[], double precision[], integer[]),
      net._hold_permits(bigint, text[], integer[], integer[], integer[]) to net_worker;
  end if;

  if exists (select from pg_roles where rolname = 'net_callback') then
    grant usage on schema net to net_callback;
    grant execute on function net._call_back(bigint, text), net._take_callback(bigint, text) to net_callback;
  end if;

  -- The new rights are the standard that `pgfetch doctor` compares with; what else has changed stays a difference.
  update net.installation i
  set fingerprint = recorded.rest || found.rights
  from
    (
      select coalesce(jsonb_object_agg(f.key, f.value), '{}')
      from net.installation r
      cross join lateral jsonb_each(r.fingerprint) f
      where f.key <> 'profile' and not starts_with(f.key, 'rights on ')
    ) recorded (rest),
    (
      select jsonb_object_agg(f.key, f.value)
      from jsonb_each(net._fingerprint()) f
      where f.key = 'profile' or starts_with(f.key, 'rights on ')
    ) found (rights);
end
$$;

-- The role whose members may enqueue under the profile `members`. One that merely has the name is not used.
-- API: private
create function net._create_user_role()
  returns void
  language plpgsql
  volatile
  parallel unsafe
  set search_path = pg_catalog, pg_temp
as $$
begin
  if exists (select from pg_roles where rolname = 'net_user') then
    if not exists (
      select
      from pg_roles r
      where r.rolname = 'net_user'
        and not r.rolsuper and not r.rolcanlogin and not r.rolcreaterole and not r.rolbypassrls
        and starts_with(shobj_description(r.oid, 'pg_authid'), 'pgfetch:')
    ) then
      raise exception 'role "net_user" already exists and is not pgfetch''s'
        using errcode = 'duplicate_object',
              detail  = 'pgfetch''s own role cannot log in, has no special rights, and carries a comment that starts with "pgfetch:".',
              hint    = 'Rename or drop that role (ALTER ROLE net_user RENAME TO ...) and try again.';
    end if;
    perform net._refuse_untrusted_roles('{net_user}');
  elsif (select rolsuper or rolcreaterole from pg_roles where rolname = current_user) then
    create role net_user nologin;
    comment on role net_user is 'pgfetch: may enqueue requests where pgfetch is installed with --grants members';
  else
    raise exception 'role "net_user" does not exist, and % may not create roles', current_user
      using errcode = 'insufficient_privilege',
            hint    = 'As a role with CREATEROLE: CREATE ROLE net_user; COMMENT ON ROLE net_user IS ''pgfetch: may enqueue requests''; then try again.';
  end if;
end
$$;
