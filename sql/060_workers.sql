-- The workers that serve this database, and what SQL can ask of them.

-- One row a running worker. Its session and its lease say whether it lives: rows that a dead worker had claimed are
-- free again as soon as its session is gone, and after the lease in any case. A worker whose row is gone records nothing
-- more: that fences one that was paused past its lease.
-- API: private
create sequence net.worker_id_seq as bigint;

-- Not from 1: a worker that outlives DROP EXTENSION asks the next installation for the id it had, which must not be
-- another worker's by then.
do $$
begin
  perform pg_catalog.setval('net.worker_id_seq', (extract(epoch from pg_catalog.clock_timestamp()) * 1000)::bigint);
end
$$;

-- API: private
create unlogged table net.worker (
  id            bigint      primary key default nextval('net.worker_id_seq'::regclass),
  -- Where it runs, for people: host and process.
  name          text        not null,
  version       text        not null,
  role          oid         not null,
  -- Its session; null where a pooler stands between and the server process is not its own.
  pid           integer     null,
  backend_start timestamptz null,
  started       timestamptz not null default now(),
  -- Until when what it has claimed is its own. An idle worker lets it lapse: it holds nothing.
  lease_until   timestamptz not null,
  -- The restart request that it has obeyed (see net.worker_restart).
  restart_seen  bigint      not null
);

-- Counts the restarts asked for; a worker that missed the notification sees that the number has grown.
-- API: private
create sequence net.worker_restart_seq as bigint minvalue 0 start 0;

do $$
begin
  -- The first nextval of a new sequence gives its start, which would leave last_value as it was.
  perform pg_catalog.setval('net.worker_restart_seq', 0);
end
$$;

-- Whether a worker's session still exists. The start of a session is hidden from roles that may not see it; the process
-- number alone then decides, and the lease is what remains.
-- API: private
create function net._session_lives(pid integer, backend_start timestamptz, lease_until timestamptz)
  returns boolean
  language sql
  stable
  parallel unsafe
  set search_path = pg_catalog, pg_temp
as $$
  select case
    when $1 is null then $3 > clock_timestamp()
    else exists (
      select
      from pg_stat_activity a
      where a.pid = $1 and (a.backend_start is null or a.backend_start = $2)
    )
  end
$$;

-- One row while the workers are to stay away from this database, for DROP DATABASE, CREATE DATABASE ... TEMPLATE, pg_upgrade
-- or a migration; else none. Logged: a pause outlasts whatever it was made for.
-- API: private
create table net.pause (
  singleton  boolean     not null default true primary key check (singleton),
  since      timestamptz not null default clock_timestamp(),
  -- The login that asked for it, by OID.
  login_role oid         not null
);

-- Pauses the workers of this database, or lets them go on. A pause takes effect at commit: they claim no more, finish what
-- is in flight, and leave, so that no session of theirs remains. Asking again for what is so already asks those workers
-- again that have not heard; the pause stays that of who asked first.
-- API: public
create function net.set_paused(paused boolean)
  returns void
  language plpgsql
  strict
  volatile
  parallel unsafe
  security definer
  set search_path = pg_catalog, pg_temp
as $$
begin
  if paused then
    insert into net.pause (login_role)
    select r.oid from pg_roles r where r.rolname = session_user
    on conflict do nothing;
    -- They restart, and find the pause when they come back.
    perform nextval('net.worker_restart_seq');
    perform pg_notify('net_restart', '');
  else
    delete from net.pause;
  end if;
end
$$;

-- API: public
create function net.check_worker_is_up()
  returns void
  language plpgsql
  stable
  parallel unsafe
  security definer
  set search_path = pg_catalog, pg_temp
as $$
begin
  if exists (select from net.worker w where net._session_lives(w.pid, w.backend_start, w.lease_until)) then
    return;
  end if;
  if exists (select from net.pause) then
    raise exception 'the pg_net background worker is not up'
      using detail = format('The workers of this database are paused since %s.', (select p.since from net.pause p)),
            hint   = 'Let them go on with: pgfetch resume, or select net.set_paused(false). Requests are kept until then.';
  else
    raise exception 'the pg_net background worker is not up'
      using detail = 'The pg_net background worker is down: no pgfetch worker is connected to this database.',
            hint   = 'Start one with: pgfetch worker --database-url <connection string>. Requests are kept until it is up.';
  end if;
end
$$;

-- Reloads the configuration and restarts the workers: they read their settings again and reconnect. Any role may call
-- it. Restarts are asked for at commit, and workers answer a flood of them with one.
-- API: public
create function net.worker_restart()
  returns boolean
  language plpgsql
  volatile
  parallel unsafe
  security definer
  set search_path = pg_catalog, pg_temp
as $$
begin
  -- Reloading the server's files takes a right that the schema's owner may lack (a managed server).
  begin
    perform pg_reload_conf();
  exception
    when insufficient_privilege or feature_not_supported then
      null;
  end;
  -- For net.wait_until_running: the workers hear of it when this transaction commits.
  perform set_config('pg_net.restart_asked', 'on', true);
  perform nextval('net.worker_restart_seq');
  perform pg_notify('net_restart', '');
  return true;
end
$$;

-- API: public
create function net.wait_until_running()
  returns void
  language plpgsql
  volatile
  parallel unsafe
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  asked bigint := (select last_value from net.worker_restart_seq);
begin
  perform net._refuse_endless_wait();
  if current_setting('pg_net.restart_asked', true) = 'on' then
    raise exception 'waiting for the restart in the transaction that asked for it could only last for ever'
      using errcode = 'object_not_in_prerequisite_state',
            detail  = 'The workers are told to restart when the transaction commits.',
            hint    = 'Commit first, then wait. (psql -c "a; b" is one transaction.)';
  end if;
  while not exists (
    select
    from net.worker w
    where w.restart_seen >= asked and net._session_lives(w.pid, w.backend_start, w.lease_until)
  ) loop
    perform pg_sleep(0.02);
    perform pg_stat_clear_snapshot();
  end loop;
end
$$;

-- Raises where waiting for another session could only last for ever.
-- API: private
create function net._refuse_endless_wait()
  returns void
  language plpgsql
  stable
  parallel unsafe
  security definer
  set search_path = pg_catalog, pg_temp
as $$
begin
  if current_setting('transaction_isolation') in ('repeatable read', 'serializable') then
    raise exception 'waiting for the worker in a % transaction could only last for ever', upper(current_setting('transaction_isolation'))
      using errcode = 'object_not_in_prerequisite_state',
            detail  = 'Such a transaction sees the database as it was when it began, so what the worker writes never appears in it.',
            hint    = 'Wait in READ COMMITTED, or read net._http_response in a later transaction.';
  end if;
  if version() ~* '(emscripten|emcc|wasm)' or exists (select from net.worker w where w.pid = pg_backend_pid()) then
    raise exception 'waiting for the worker inside a statement could only last for ever: this server has one session'
      using errcode = 'object_not_in_prerequisite_state',
            detail  = 'The worker shares the session of PGlite with you and can write only between your statements.',
            hint    = 'Await the response in your program, for example by asking net._http_response until the row is there.';
  end if;
end
$$;

-- API: public
create view net.settings as
  select s.name, s.setting, s.source, s.boot_val, s.description
  from net._settings_for(coalesce(
    (select w.role from net.worker w order by w.started desc limit 1),
    (select n.nspowner from pg_catalog.pg_namespace n where n.nspname = 'net')
  )) s;
comment on view net.settings is 'The settings in force for the worker, and where each was found';
