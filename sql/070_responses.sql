-- Reading answers.

-- Waits until the request has a response. Raises at once where it could only wait for ever.
-- API: private
create function net._await_response(request_id bigint)
  returns boolean
  strict
  volatile
  parallel unsafe
  language plpgsql
  set search_path = pg_catalog, pg_temp
as $$
declare
  nap_seconds double precision := 0.001;
  state       text;
  last_xid    bigint;
  all_ended   boolean;
begin
  loop
    -- In this order: what had committed by then is seen by the look that follows.
    all_ended := last_xid is not null and net._others_have_ended(last_xid);
    state := net._request_state(request_id);
    if state = 'done' then
      return true;
    end if;
    if last_xid is null then
      -- Only now: where the response is already there, nothing need be refused.
      perform net._refuse_endless_wait();
      last_xid := net._last_running_xid();
      continue;
    end if;
    if state = 'own transaction' then
      raise exception 'waiting for request % in the transaction that made it could only last for ever', request_id
        using errcode = 'object_not_in_prerequisite_state',
              detail  = 'A request is sent when its transaction commits.',
              hint    = 'Commit first, then wait.';
    end if;
    -- Whoever might still commit the request had its transaction id before we looked first.
    if state = 'unknown' and all_ended then
      raise exception 'there is no request %, and no response to it', request_id
        using errcode = 'no_data_found',
              detail  = 'No such id was enqueued, its transaction was rolled back, its row was deleted, or its response has expired.',
              hint    = 'Responses are kept for pg_net.ttl (select * from net.settings).';
    end if;
    perform pg_sleep(nap_seconds);
    nap_seconds := least(nap_seconds * 2, 0.05);
  end loop;
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

-- 'done', 'waiting', 'own transaction' or 'unknown'; somebody else's request is unknown to the caller.
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
