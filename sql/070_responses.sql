-- Reading answers.

-- Waits until each of the requests has a response; a NULL deadline is none. Raises at once where it could only wait for ever.
-- API: private
create function net._await_all(ids bigint[], deadline timestamptz)
  returns void
  volatile
  parallel unsafe
  language plpgsql
  set search_path = pg_catalog, pg_temp
as $$
declare
  place       integer := 1;
  nap_seconds double precision := 0.001;
  last_xid    bigint;
  all_ended   boolean := false;
  had_ended   boolean;
begin
  loop
    had_ended := all_ended;
    -- In this order: what had committed by then is seen by the look that follows.
    all_ended := last_xid is not null and net._others_have_ended(last_xid);
    -- One after another, and no further than the first that has none: waiting for many costs no more than for one.
    while place <= cardinality(ids) and exists (select from net._http_response r where r.id = ids[place]) loop
      place := place + 1;
    end loop;
    if place > cardinality(ids) then
      return;
    end if;
    if last_xid is null then
      -- Only now: where the responses are already there, nothing need be refused.
      perform net._refuse_endless_wait();
      last_xid := net._last_running_xid();
      perform net._check_awaited(ids[place:], deadline, false);
      continue;
    end if;
    -- Whoever might still commit a request had its transaction id before we looked first. All are looked at when that is over,
    -- and then each when it is its turn.
    perform net._check_awaited(
      case when all_ended and not had_ended then ids[place:] else ids[place:place] end, deadline, all_ended
    );
    if clock_timestamp() >= deadline then
      perform net._refuse_to_wait_on(ids[place:]);
    end if;
    perform pg_sleep(least(nap_seconds, extract(epoch from deadline - clock_timestamp())));
    nap_seconds := least(nap_seconds * 2, 0.05);
  end loop;
end
$$;

-- Raises for the first of the requests that gets no response, or none before the deadline.
-- API: private
create function net._check_awaited(ids bigint[], deadline timestamptz, are_committed boolean)
  returns void
  volatile
  parallel unsafe
  language plpgsql
  set search_path = pg_catalog, pg_temp
as $$
declare
  request_id bigint;
  state      text;
  due_at     timestamptz;
begin
  foreach request_id in array ids loop
    state := net._request_state(request_id);
    if state = 'own transaction' then
      raise exception 'waiting for request % in the transaction that made it could only last for ever', request_id
        using errcode = 'object_not_in_prerequisite_state',
              detail  = 'A request is sent when its transaction commits.',
              hint    = 'Commit first, then wait.';
    elsif state = 'not kept' then
      raise exception 'waiting for request %, whose response is not kept, could only last for ever', request_id
        using errcode = 'object_not_in_prerequisite_state',
              detail  = 'It was made with keep := ''none''.',
              hint    = 'Make it with keep := ''status'' to hear how it ended.';
    elsif state = 'unknown' and are_committed then
      raise exception 'there is no request %, and no response to it', request_id
        using errcode = 'no_data_found',
              detail  = 'No such id was enqueued, its transaction was rolled back, its row was deleted, or its response has expired or was not kept.',
              hint    = 'Responses are kept for pg_net.ttl (select * from net.settings).';
    elsif state = 'waiting' and deadline is not null then
      select q.due_at into due_at from net.http_request_queue q where q.id = request_id and q.claimed_by is null;
      if due_at > deadline then
        raise exception 'request % is not sent before %, and the time-out ends before', request_id, due_at
          using errcode = 'NET01',
                detail  = 'It was made with run_at or delay, or waits to be tried again.',
                hint    = 'Wait for it when it is due, or give a longer timeout.';
      end if;
    end if;
  end loop;
end
$$;

-- Raises because the time is up; says which responses are missing, and whether anybody is at work on them.
-- API: private
create function net._refuse_to_wait_on(ids bigint[])
  returns void
  volatile
  parallel unsafe
  language plpgsql
  set search_path = pg_catalog, pg_temp
as $$
declare
  missing bigint[];
  shown   text;
  trouble text := '';
  advice  text := 'They are not given up: wait again, or read net._http_response later.';
begin
  missing := array(
    select distinct i.id
    from unnest(ids) i (id)
    where (select true from net._http_response r where r.id = i.id) is null
    order by i.id
  );
  if cardinality(missing) = 0 then
    -- They have come meanwhile.
    return;
  end if;
  shown := array_to_string(missing[:10], ', ') || case when cardinality(missing) > 10 then ' and more' else '' end;
  begin
    perform net.check_worker_is_up();
  exception
    when raise_exception then
      get stacked diagnostics trouble = pg_exception_detail, advice = pg_exception_hint;
  end;
  raise exception 'the time-out ended before every request had its response'
    using errcode = 'NET01',
          detail  = rtrim(format('No response yet to %s: %s. %s', cardinality(missing), shown, trouble)),
          hint    = advice;
end
$$;

-- Waits until each of the requests has a response, and returns these in the order of the ids, for an id that is given twice
-- twice. No ids, or NULL: none. A time-out of NULL is the default.
-- API: public
create function net.await(ids bigint[], timeout interval default '00:01:00')
  returns setof net._http_response
  volatile
  parallel unsafe
  language plpgsql
  set search_path = pg_catalog, pg_temp
as $$
declare
  deadline timestamptz := clock_timestamp() + coalesce(timeout, '1 minute');
begin
  -- Of one dimension.
  ids := array(select i.id from unnest(ids) i (id));
  if array_position(ids, null) is not null then
    raise exception 'ids must not contain NULL'
      using errcode = 'null_value_not_allowed',
            detail  = format('Number %s is NULL.', array_position(ids, null)),
            hint    = 'net.http_get and net.http_delete return NULL, and make no request, where an argument is NULL.';
  elsif timeout < '0' then
    raise exception 'timeout must not be negative: %', timeout
      using errcode = 'invalid_parameter_value',
            hint    = 'Give ''0'' to look only once.';
  end if;
  loop
    perform net._await_all(ids, deadline);
    -- One may have expired meanwhile: then that raises, as for any that is no more.
    exit when (
      select count(*) from unnest(ids) i (id)
      where (select true from net._http_response r where r.id = i.id)
    ) = cardinality(ids);
  end loop;
  return query
    select r.*
    from unnest(ids) with ordinality i (id, place)
    cross join lateral (select * from net._http_response w where w.id = i.id limit 1) r
    order by i.place;
end
$$;

-- API: private
create function net._await_response(request_id bigint)
  returns boolean
  strict
  volatile
  parallel unsafe
  language plpgsql
  set search_path = pg_catalog, pg_temp
as $$
begin
  perform net._await_all(array[request_id], null);
  return true;
end
$$;

-- The last transaction id of those that run now, our own left out. A snapshot does not tell: it knows of no transaction
-- from its xmax on, and one that runs may be there. Each holds a lock on its id, which has 32 bits: the full number is
-- the one nearest to the snapshot's that ends in them.
-- API: private
create function net._last_running_xid()
  returns bigint
  language sql
  volatile
  parallel unsafe
  set search_path = pg_catalog, pg_temp
as $$
  select greatest(
    s.xmax - 1,
    (
      select max(s.xmax + ((l.transactionid::text::bigint - s.xmax + 2147483648) & 4294967295) - 2147483648)
      from pg_locks l
      where l.locktype = 'transactionid' and l.mode = 'ExclusiveLock' and l.pid is distinct from pg_backend_pid()
    )
  )
  from (select pg_snapshot_xmax(pg_current_snapshot())::text::bigint) s (xmax)
$$;

-- Whether every transaction up to that id has ended, but for our own.
-- API: private
create function net._others_have_ended(last_xid bigint)
  returns boolean
  language sql
  volatile
  parallel unsafe
  set search_path = pg_catalog, pg_temp
as $$
  select pg_snapshot_xmax(s)::text::bigint > last_xid
    and not exists (select from pg_snapshot_xip(s) x where x::text::bigint <= last_xid)
  from pg_current_snapshot() s
$$;

-- Whether the open transaction made the request. Reads what the caller may not (a system column) and tells nothing about
-- anybody else's requests.
-- API: private
create function net._is_own_transactions(request_id bigint)
  returns boolean
  volatile
  parallel unsafe
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  horizon  bigint := pg_snapshot_xmax(pg_current_snapshot())::text::bigint;
  distance bigint;
begin
  -- A row that is seen though its transaction has not ended is the own transaction's (or a subtransaction's of it, whose
  -- id may lie beyond the snapshot's). The system column has 32 bits: it is the number nearest to the snapshot's that
  -- ends in them.
  select ((q.xmin::text::bigint - horizon + 2147483648) & 4294967295) - 2147483648
  into distance
  from net.http_request_queue q
  where q.id = request_id;
  return found and pg_xact_status((horizon + distance)::text::xid8) is not distinct from 'in progress';
exception
  when invalid_parameter_value then
    return false;
end
$$;

-- 'done', 'waiting', 'own transaction', 'not kept' or 'unknown'; somebody else's request is unknown to the caller.
-- API: private
create function net._request_state(request_id bigint)
  returns text
  volatile
  parallel unsafe
  language sql
  set search_path = pg_catalog, pg_temp
as $$
  select case
    when exists (select from net._http_response r where r.id = request_id) then 'done'
    when not exists (select from net.http_request_queue q where q.id = request_id) then 'unknown'
    when net._is_own_transactions(request_id) then 'own transaction'
    when exists (select from net.http_request_queue q where q.id = request_id and q.keep = 'none') then 'not kept'
    else 'waiting'
  end
$$;

-- API: private
create function net._http_collect_response(request_id bigint, async bool default true)
  returns net.http_response_result
  strict
  volatile
  parallel unsafe
  language plpgsql
  set search_path = pg_catalog, pg_temp
as $$
declare
  response net._http_response;
begin
  if not async then
    perform net._await_response(request_id);
  end if;
  select * into response from net._http_response r where r.id = request_id;
  if not found or response.error_msg is not null then
    return ('ERROR', coalesce(response.error_msg, 'request matching request_id not found'), null)::net.http_response_result;
  end if;
  return (
    'SUCCESS', 'ok', (response.status_code, response.headers, response.content)::net.http_response
  )::net.http_response_result;
end
$$;

-- API: public
create function net.http_collect_response(request_id bigint, async bool default true)
  returns net.http_response_result
  strict
  volatile
  parallel unsafe
  language plpgsql
  set search_path = pg_catalog, pg_temp
as $$
begin
  raise notice 'The net.http_collect_response function is deprecated.';
  return net._http_collect_response(request_id, async);
end
$$;

-- Whether a request can be told to a worker, whose session is in UTF-8.
-- API: private
create function net._is_readable(method text, url text, headers jsonb, sign_with text)
  returns boolean
  language plpgsql
  stable
  parallel unsafe
  set search_path = pg_catalog, pg_temp
as $$
begin
  return convert_to(concat(method, url, headers, sign_with), 'UTF8') is not null;
exception
  when untranslatable_character or character_not_in_repertoire then
    return false;
end
$$;

-- Of characters given in UTF-8, the positions (from 1) of those that the database's encoding lacks.
-- API: private
create function net._unstorable(characters bytea[])
  returns integer[]
  language plpgsql
  stable
  parallel unsafe
  set search_path = pg_catalog, pg_temp
as $$
declare
  lacking integer[] := '{}';
begin
  for i in 1 .. cardinality(characters) loop
    begin
      perform convert_from(characters[i], 'UTF8');
    exception
      when untranslatable_character or character_not_in_repertoire then
        lacking := lacking || i;
    end;
  end loop;
  return lacking;
end
$$;
