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
  horizon     xid8;
begin
  loop
    state := net._request_state(request_id);
    if state = 'done' then
      return true;
    end if;
    if horizon is null then
      -- Only now: where the response is already there, nothing need be refused.
      perform net._refuse_endless_wait();
      horizon := pg_snapshot_xmax(pg_current_snapshot());
    end if;
    if state = 'own transaction' then
      raise exception 'waiting for request % in the transaction that made it could only last for ever', request_id
        using errcode = 'object_not_in_prerequisite_state',
              detail  = 'A request is sent when its transaction commits.',
              hint    = 'Commit first, then wait.';
    end if;
    -- Whoever might still commit the request had begun before we looked first.
    if state = 'unknown' and pg_snapshot_xmin(pg_current_snapshot()) >= horizon then
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
  full_xid bigint;
begin
  -- A row that is seen though its transaction has not ended is the own transaction's (or a subtransaction's of it). The
  -- system column has 32 bits; the epoch comes from the snapshot.
  select (((pg_snapshot_xmax(pg_current_snapshot())::text::bigint - q.xmin::text::bigint) >> 32) << 32) + q.xmin::text::bigint
  into full_xid
  from net.http_request_queue q
  where q.id = request_id;
  return found and pg_xact_status(full_xid::text::xid8) is not distinct from 'in progress';
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
