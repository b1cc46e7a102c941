-- Makes pg_settings show pg_net's settings, as it does where pg_net is a C library. This changes the rule of a system
-- view, so only a superuser can run it, and only where somebody asked for it: `pgfetch install --show-settings`, and the
-- embedded servers. The rule depends on nothing of ours and shows nothing once the schema is gone.
do $show$
begin
  if not (select rolsuper from pg_catalog.pg_roles where rolname = current_user) then
    raise exception 'only a superuser can make pg_settings show the pg_net settings'
      using errcode = 'insufficient_privilege',
            hint    = 'Install without --show-settings; the view net.settings shows them to everybody.';
  end if;
  set local allow_system_table_mods = on;

  create or replace rule "_RETURN" as on select to pg_catalog.pg_settings do instead
    select a.*
    from pg_catalog.pg_show_all_settings() a
    union all
    select
      k.name,
      coalesce(
        (
          select pg_catalog.substr(c.entry, pg_catalog.strpos(c.entry, '=') + 1)
          from pg_catalog.pg_db_role_setting s
          cross join lateral pg_catalog.unnest(s.setconfig) as c (entry)
          where pg_catalog.lower(pg_catalog.split_part(c.entry, '=', 1)) = k.name
            and s.setrole in (0, i.owner)
            and s.setdatabase in (0, i.database)
          order by (s.setrole <> 0) desc, (s.setdatabase <> 0) desc
          limit 1
        ),
        nullif(pg_catalog.current_setting(k.name, true), ''),
        case k.name when 'pg_net.database_name' then pg_catalog.current_database()::text else k.boot_val end
      ),
      k.unit, 'Customized Options', k.short_desc, null, 'sighup', k.vartype, 'default',
      null, null, null, k.boot_val, k.boot_val, null, null::integer, false
    from (
      values
        ('pg_net.batch_size', 'integer', null, '200', 'The most requests that one claim takes from the queue'),
        ('pg_net.concurrency', 'integer', null, '200', 'The most requests that one worker has in flight'),
        ('pg_net.concurrency_per_origin', 'integer', null, '0', 'The most requests that one worker has in flight to one host and port; 0: its fair share'),
        ('pg_net.database_name', 'string', null, 'postgres', 'The database that the worker connects to, where set on the server'),
        ('pg_net.decompress', 'bool', null, 'off', 'Whether compressed responses are asked for and decoded'),
        ('pg_net.follow_insecure_redirects', 'bool', null, 'on', 'Whether a redirect from https to http is followed'),
        ('pg_net.idempotency_keys', 'bool', null, 'off', 'Whether requests that may be tried again carry an Idempotency-Key that nobody gave'),
        ('pg_net.idempotency_window', 'string', null, '1 day', 'How long an idempotency_key stands for the request that was made with it'),
        ('pg_net.keep_requests', 'string', null, 'failed', 'Which requests are kept for redelivery when they are done: none, failed or all'),
        ('pg_net.keep_requests_ttl', 'string', null, '7 days', 'How long they are kept'),
        ('pg_net.max_attempts', 'integer', null, '1', 'How often a request is tried that does not say so itself, the first attempt included'),
        ('pg_net.max_response_bytes', 'string', null, '8388608', 'How much of a response body is kept, in bytes or with a unit (8MB)'),
        ('pg_net.retry_policy', 'string', null, '', 'The policy of net.retry_policy by which requests are tried again that name none; empty: the defaults'),
        ('pg_net.ttl', 'string', null, '6 hours', 'How long responses are kept'),
        ('pg_net.username', 'string', null, '', 'The role that the worker connects as, where set on the server'),
        ('pg_net.wake', 'bool', null, 'on', 'Whether an enqueuing transaction wakes the worker (off for two-phase commit)')
    ) as k (name, vartype, unit, boot_val, short_desc)
    cross join (
      select n.nspowner, d.oid
      from pg_catalog.pg_namespace n
      join pg_catalog.pg_class c on c.relnamespace = n.oid and c.relname = 'installation'
      join pg_catalog.pg_database d on d.datname = pg_catalog.current_database()
      where n.nspname = 'net'
    ) as i (owner, database)
    where not exists (select from pg_catalog.pg_show_all_settings() a where a.name = k.name);
end
$show$;
