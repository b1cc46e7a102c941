-- Requests that are kept when they are done, and sending them again.

-- Which are kept is a setting: pg_net.keep_requests (none, failed, all), for pg_net.keep_requests_ttl.
-- API: public
create unlogged table net.kept_requests (
  id                   bigint      not null primary key,
  method               text        not null,
  url                  text        not null,
  -- As they were given: secrets are references.
  headers              jsonb       not null,
  body                 bytea       null,
  timeout_milliseconds integer     not null,
  created              timestamptz null,
  login_role           oid         null,
  set_role             oid         null,
  sign_with            text        null,
  retry                jsonb       null,
  attempts             integer     not null,
  ordering_key         text        null,
  blocks_key           boolean     null,
  priority             smallint    null,
  limit_key            text        null,
  on_success           oid         null,
  on_error             oid         null,
  keep                 text        null,
  label                text        null,
  redelivery_of        bigint      null,
  -- The key that every attempt carried where the headers have none.
  idempotency_key      text        null,
  -- succeeded, failed, dead or cancelled
  state                text        not null,
  status_code          integer     null,
  error_code           text        null,
  host                 text        null,
  finished             timestamptz not null default clock_timestamp(),
  -- The request that sent it again, the last of several; null: none has.
  redelivered_as       bigint      null
);

create index kept_requests_finished_idx on net.kept_requests (finished);

-- A kept request that net.redeliver_where has chosen.
-- API: public
create type net.redelivery as (
  -- The kept request, and the request that sends it again; null in a dry run.
  id          bigint,
  new_id      bigint,
  method      text,
  host        text,
  -- Why it was to be sent again.
  status_code integer,
  error_code  text,
  label       text,
  finished    timestamptz,
  -- When it is sent.
  run_at      timestamptz
);

-- Enqueues a kept request that the caller has locked as a new one, for whom it was first made; returns the new id.
-- API: private
create function net._send_again(kept_id bigint, due_at timestamptz)
  returns bigint
  language plpgsql
  volatile
  parallel unsafe
  set search_path = pg_catalog, pg_temp
as $$
declare
  new_id bigint;
begin
  if not net._is_open() then
    perform net._check_standing(coalesce(k.set_role, k.login_role), k.method, k.url)
    from net.kept_requests k
    -- A row that was inserted by hand is nobody's, and was not checked then.
    where k.id = kept_id and coalesce(k.set_role, k.login_role) is not null;
  end if;
  new_id := nextval('net.http_request_queue_id_seq');
  -- The headers as they were, so that the receiver knows it again: Idempotency-Key, webhook-id. Attempts count from nothing.
  insert into net.http_request_queue (
    id, method, url, headers, body, timeout_milliseconds, login_role, set_role, sign_with, due_at, retry, ordering_key,
    blocks_key, priority, limit_key, on_success, on_error, keep, label, redelivery_of
  )
  select
    new_id, k.method, k.url,
    case
      when k.idempotency_key is null or jsonb_typeof(k.headers) <> 'object' then k.headers
      when exists (select from jsonb_object_keys(k.headers) h where lower(h collate "C") = 'idempotency-key') then k.headers
      else k.headers || jsonb_build_object('Idempotency-Key', k.idempotency_key)
    end,
    k.body, k.timeout_milliseconds, k.login_role, k.set_role, k.sign_with, due_at, k.retry, k.ordering_key,
    k.blocks_key, k.priority, k.limit_key, k.on_success, k.on_error, k.keep, k.label, k.id
  from net.kept_requests k
  where k.id = kept_id;
  update net.kept_requests k set redelivered_as = new_id where k.id = kept_id;
  if net._is_promised() is not true then
    perform net._wake();
  end if;
  return new_id;
end
$$;

-- Raises for a request that is not kept, and says why as far as the role may know.
-- API: private
create function net._refuse_redelivery(role oid, request_id bigint)
  returns void
  language plpgsql
  stable
  parallel unsafe
  set search_path = pg_catalog, pg_temp
as $$
declare
  for_all  boolean := net._acts_for_all(role);
  response net._http_response;
  why      text := 'There is no such request, it was made by another role, or the time for which it was kept has passed (pg_net.keep_requests_ttl).';
  advice   text := 'What you can send again is in net.kept_requests.';
begin
  select * into response
  from net._http_response r
  where r.id = request_id and (for_all or pg_has_role(role, coalesce(r.set_role, r.login_role), 'USAGE'));
  if found then
    if response.error_msg is null and response.status_code < 400 then
      why := format('It succeeded (status %s), and such requests are not kept, or no longer.', response.status_code);
      advice := 'Set pg_net.keep_requests to all to keep these, too; this one can be made again with net.request.';
    else
      why := 'It failed, but was not kept then (pg_net.keep_requests), was cancelled, or the time for which it was kept has passed (pg_net.keep_requests_ttl).';
      advice := 'Make it again with net.request.';
    end if;
  elsif exists (
    select
    from net.http_request_queue q
    where q.id = request_id and (for_all or pg_has_role(role, coalesce(q.set_role, q.login_role), 'USAGE'))
  ) then
    why := 'It is not done: it waits, is being sent, or is to be tried again.';
    advice := 'Wait for its response.';
  end if;
  raise exception 'request % is not kept for redelivery', coalesce(request_id::text, 'NULL')
    using errcode = 'no_data_found',
          detail  = why,
          hint    = advice;
end
$$;

-- API: private
create function net._redeliver(caller net._caller, request_id bigint)
  returns bigint
  language plpgsql
  volatile
  parallel unsafe
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  -- First: the workers' low-water mark depends on the transaction's id being older than the request's.
  role    oid := net._caller_role(caller);
  for_all boolean := net._acts_for_all(role);
begin
  perform
  from net.kept_requests k
  where k.id = request_id and (for_all or pg_has_role(role, coalesce(k.set_role, k.login_role), 'USAGE'))
  for no key update;
  if found then
    return net._send_again(request_id, null);
  end if;
  -- One that failed and holds up those of its ordering_key is still in the queue: it is tried again itself.
  if exists (
    select
    from net.http_request_queue q
    where q.id = request_id and (for_all or pg_has_role(role, coalesce(q.set_role, q.login_role), 'USAGE'))
  ) and net._retry_blocked(request_id) then
    return request_id;
  end if;
  perform net._refuse_redelivery(role, request_id);
end
$$;

-- Sends a kept request again, as a new one, for the role that made it. For whoever has the rights of that role, net_admin and
-- the schema's owner.
-- API: public
create function net.redeliver(
  -- the request that failed
  request_id bigint
)
  -- the new request's id
  returns bigint
  volatile
  parallel unsafe
  language plpgsql
  set search_path = pg_catalog, pg_temp
as $$
begin
  return net._redeliver(
    (pg_current_xact_id()::text || ' ' || to_regrole(quote_ident(current_user))::oid::text)::net._caller, request_id
  );
end
$$;

-- The statuses that a text means: '503', '500-599', '5xx', several with commas. 'error' among them means none.
-- API: private
create function net._status_ranges(status text)
  returns int4range[]
  language plpgsql
  immutable
  strict
  parallel safe
  set search_path = pg_catalog, pg_temp
as $$
declare
  ranges int4range[] := '{}';
  part   text;
begin
  foreach part in array regexp_split_to_array(btrim(lower(status collate "C")), '\s*,\s*') loop
    if part ~ '^[1-9]xx$' then
      ranges := ranges || int4range(left(part, 1)::integer * 100, left(part, 1)::integer * 100 + 100);
    elsif part ~ '^[1-9][0-9]{2}$' then
      ranges := ranges || int4range(part::integer, part::integer, '[]');
    elsif part ~ '^[1-9][0-9]{2}\s*-\s*[1-9][0-9]{2}$' and left(part, 3) <= right(part, 3) then
      ranges := ranges || int4range(left(part, 3)::integer, right(part, 3)::integer, '[]');
    elsif part <> 'error' then
      raise exception 'status is %: it must be like 503, 5xx, 500-504, error, or several of them', to_json(left(status, 100))
        using errcode = 'invalid_parameter_value',
              detail  = 'error are the requests that have no status: no connection, no answer, a time-out.',
              hint    = 'For example status := ''429, 5xx, error''.';
    end if;
  end loop;
  return ranges;
end
$$;

-- Raises for a choice of requests that makes no sense.
-- API: private
create function net._check_redelivery(criteria integer, state text, per_second numeric, max_requests integer)
  returns void
  language plpgsql
  immutable
  parallel safe
  set search_path = pg_catalog, pg_temp
as $$
begin
  if criteria = 0 then
    raise exception 'net.redeliver_where needs a criterion'
      using errcode = 'invalid_parameter_value',
            detail  = 'Without one it would send everything again that failed and is kept.',
            hint    = 'Give host, status, since, until, label or state; since := ''-infinity'' means all.';
  elsif state not in ('failed', 'dead', 'cancelled', 'succeeded') then
    raise exception 'state is %: it must be failed, dead, cancelled or succeeded', to_json(left(state, 100))
      using errcode = 'invalid_parameter_value',
            hint    = 'Leave it out for those that failed: failed and dead (their attempts were used up).';
  elsif per_second not between 0.001 and 10000 then
    raise exception 'per_second is %: it must be between 0.001 and 10000', per_second
      using errcode = 'invalid_parameter_value',
            hint    = 'It says how many of the requests are sent in a second.';
  elsif max_requests not between 1 and 100000 then
    raise exception 'max_requests is %: it must be between 1 and 100000', max_requests
      using errcode = 'invalid_parameter_value',
            hint    = 'Call it again for the rest: what was sent again is not chosen again.';
  end if;
end
$$;

-- API: private
create function net._redeliver_where(
  caller net._caller, host text, status text, since timestamptz, until timestamptz, label text, state text, dry_run boolean,
  per_second numeric, max_requests integer
)
  returns setof net.redelivery
  language plpgsql
  volatile
  parallel unsafe
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  -- First: the workers' low-water mark depends on the transaction's id being older than the request's.
  role     oid := net._caller_role(caller);
  for_all  boolean := net._acts_for_all(role);
  began    timestamptz := clock_timestamp();
  ranges   int4range[] := net._status_ranges(status);
  no_codes boolean := status ~* 'error';
  chosen   bigint[];
  kept_id  bigint;
  kept     net.redelivery;
  place    integer := 0;
begin
  perform net._check_redelivery(num_nonnulls(host, status, since, until, label, state), state, per_second, max_requests);
  chosen := array(
    select k.id
    from net.kept_requests k
    -- One that was sent again and failed again is kept itself, and chosen in its place.
    where k.redelivered_as is null
      and (_redeliver_where.host is null
        or lower(k.host) = lower(_redeliver_where.host)
        or regexp_replace(lower(k.host), ':[0-9]*$', '') = lower(_redeliver_where.host))
      and (status is null or case when k.status_code is null then no_codes else k.status_code <@ any (ranges) end)
      and (since is null or k.finished >= since)
      and (until is null or k.finished < until)
      and (_redeliver_where.label is null or k.label = _redeliver_where.label)
      and case when _redeliver_where.state is null then k.state in ('failed', 'dead') else k.state = _redeliver_where.state end
      and (for_all or pg_has_role(role, coalesce(k.set_role, k.login_role), 'USAGE'))
    -- Requests with the same ordering_key keep their order.
    order by k.id
    limit max_requests
  );
  foreach kept_id in array chosen loop
    if not dry_run then
      -- Who sends them again at the same time has those that are locked.
      perform from net.kept_requests k where k.id = kept_id and k.redelivered_as is null for no key update skip locked;
      continue when not found;
    elsif not net._is_open() then
      perform net._check_policy(coalesce(k.set_role, k.login_role), k.method, k.url)
      from net.kept_requests k
      where k.id = kept_id and coalesce(k.set_role, k.login_role) is not null;
    end if;
    select k.id, null, k.method, k.host, k.status_code, k.error_code, k.label, k.finished into kept
    from net.kept_requests k
    where k.id = kept_id;
    continue when not found;
    kept.run_at := began + interval '1 second' * (place / per_second)::double precision;
    if not dry_run then
      kept.new_id := net._send_again(kept_id, kept.run_at);
    end if;
    place := place + 1;
    return next kept;
  end loop;
end
$$;

-- Sends those of the kept requests again that fit all criteria, spread over time; in a dry run only shows them. Never chooses
-- what was sent again already. A NULL argument is as good as none.
-- API: public
create function net.redeliver_where(
  -- the host, of any port, or host:port
  host text default null,
  -- the status: '503', '5xx', '500-504', 'error' (no answer), or several of them with commas
  status text default null,
  -- when they finished
  since timestamptz default null,
  until timestamptz default null,
  label text default null,
  -- failed, dead, cancelled or succeeded; by default those that failed, dead ones included
  state text default null,
  -- nothing is changed
  dry_run boolean default true,
  -- how many are sent in a second
  per_second numeric default 10,
  -- the first of more
  max_requests integer default 1000
)
  returns setof net.redelivery
  volatile
  parallel unsafe
  language plpgsql
  set search_path = pg_catalog, pg_temp
as $$
begin
  return query
    select *
    from net._redeliver_where(
      (pg_current_xact_id()::text || ' ' || to_regrole(quote_ident(current_user))::oid::text)::net._caller,
      host, status, since, until, label, state, coalesce(dry_run, true), coalesce(per_second, 10),
      coalesce(max_requests, 1000)
    );
end
$$;
