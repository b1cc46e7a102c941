-- The settings, read from where PostgreSQL keeps them without a C library: ALTER SYSTEM, ALTER DATABASE, ALTER ROLE.

-- An interval, or null where the text is none: a wrong setting must not stop a worker.
-- API: private
create function net._interval_or_null(setting text)
  returns interval
  language plpgsql
  stable
  parallel unsafe
  set search_path = pg_catalog, pg_temp
as $$
begin
  return setting::interval;
exception
  when data_exception then
    return null;
end
$$;

-- A number of bytes, with or without a unit ('8MB'), or null where the text is none.
-- API: private
create function net._bytes_or_null(setting text)
  returns bigint
  language plpgsql
  stable
  parallel unsafe
  set search_path = pg_catalog, pg_temp
as $$
begin
  return pg_size_bytes(setting);
exception
  when data_exception then
    return null;
end
$$;

-- Every setting with its value in force for a worker that connects as `worker_role`. PostgreSQL's precedence: system <
-- database < role < role in database; the role is the worker's own or, where that has no pg_net setting of this name,
-- the schema owner's (so that the documented ALTER ROLE "postgres" SET works whoever the worker connects as).
-- API: private
create function net._settings_for(worker_role oid)
  returns table (name text, setting text, source text, boot_val text, description text)
  language sql
  stable
  parallel unsafe
  set search_path = pg_catalog, pg_temp
as $$
  with known (name, boot_val, description) as (
    values
      ('pg_net.batch_size', '200', 'The most requests that one claim takes from the queue'),
      ('pg_net.concurrency', '200', 'The most requests that one worker has in flight'),
      ('pg_net.concurrency_per_origin', '0', 'The most requests that one worker has in flight to one host and port; 0: its fair share'),
      ('pg_net.database_name', 'postgres', 'The database that the worker connects to, where set on the server'),
      ('pg_net.decompress', 'off', 'Whether compressed responses are asked for and decoded'),
      ('pg_net.follow_insecure_redirects', 'on', 'Whether a redirect from https to http is followed'),
      ('pg_net.idempotency_keys', 'off', 'Whether requests that may be tried again carry an Idempotency-Key that nobody gave'),
      ('pg_net.idempotency_window', '1 day', 'How long an idempotency_key stands for the request that was made with it'),
      ('pg_net.keep_requests', 'failed', 'Which requests are kept for redelivery when they are done: none, failed or all'),
      ('pg_net.keep_requests_ttl', '7 days', 'How long they are kept'),
      ('pg_net.max_attempts', '1', 'How often a request is tried that does not say so itself, the first attempt included'),
      ('pg_net.max_response_bytes', '8388608', 'How much of a response body is kept, in bytes or with a unit (8MB)'),
      ('pg_net.retry_policy', '', 'The policy of net.retry_policy by which requests are tried again that name none; empty: the defaults'),
      ('pg_net.ttl', '6 hours', 'How long responses are kept'),
      ('pg_net.username', '', 'The role that the worker connects as, where set on the server'),
      ('pg_net.wake', 'on', 'Whether an enqueuing transaction wakes the worker (off for two-phase commit)')
  ),
  installed (owner) as (
    select n.nspowner from pg_namespace n where n.nspname = 'net'
  ),
  stored (name, value, db, role) as (
    select lower(split_part(c.entry, '=', 1)), substr(c.entry, strpos(c.entry, '=') + 1), s.setdatabase, s.setrole
    from pg_db_role_setting s
    cross join lateral unnest(s.setconfig) as c (entry)
    where s.setdatabase in (0, (select d.oid from pg_database d where d.datname = current_database()))
      and s.setrole in (0, worker_role, (select owner from installed))
  ),
  ranked as (
    select distinct on (k.name) k.name, s.value,
      case
        when s.role = 0 then 'database'
        when s.db = 0 then 'role'
        else 'role in database'
      end as source
    from known k
    join stored s on s.name = k.name
    order by k.name, (s.role <> 0) desc, (s.role = worker_role) desc, (s.db <> 0) desc
  )
  select
    k.name,
    coalesce(
      r.value,
      nullif(current_setting(k.name, true), ''),
      case k.name when 'pg_net.database_name' then current_database()::text else k.boot_val end
    ),
    case
      when r.source is not null then r.source
      -- A name that was set in this session and reset, or given to ALTER ROLE ... SET, stays behind with an empty value.
      when nullif(current_setting(k.name, true), '') is not null then 'server'
      else 'default'
    end,
    k.boot_val,
    k.description
  from known k
  left join ranked r on r.name = k.name
  order by k.name
$$;
