-- Cancelling a request.

-- For whoever called net.cancel.
-- API: private
create function net._cancel(caller net._caller, request_id bigint)
  returns text
  language plpgsql
  volatile
  parallel unsafe
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  canceller oid := net._caller_role(caller);
  sees_all  boolean := net._acts_for_all(canceller);
  -- A row of the queue as far as it matters here.
  request   record;
  outcome   text;
begin
  -- Waits for a worker that is claiming it, or recording its response, for as long as that takes.
  select
    q.claimed_by, q.url, q.login_role, q.set_role, q.ordering_key, q.attempts, q.keep, q.label,
    q.cancel_asked is true as is_asked
  into request
  from net.http_request_queue q
  where q.id = request_id
    and (sees_all or pg_has_role(canceller, q.login_role, 'USAGE') or pg_has_role(canceller, q.set_role, 'USAGE'))
  for update;

  if not found then
    select case r.error_code when 'cancelled' then 'cancelled' else 'finished' end
    into outcome
    from net._http_response r
    where r.id = request_id
      and (sees_all or pg_has_role(canceller, r.login_role, 'USAGE') or pg_has_role(canceller, r.set_role, 'USAGE'));
    if found then
      return outcome;
    end if;
    raise exception 'there is no request %, and no response to it', coalesce(request_id::text, 'NULL')
      using errcode = 'no_data_found',
            hint    = 'It was rolled back, deleted, is finished and has expired, or it is somebody else''s.';
  elsif request.claimed_by is not null then
    if not request.is_asked then
      update net.http_request_queue q set cancel_asked = true where q.id = request_id;
    end if;
    perform pg_notify('net_cancel', request_id::text);
    return 'cancelling';
  end if;

  delete from net.http_request_queue q where q.id = request_id;
  -- Whoever waits for its response gets one. One that blocks its ordering_key has one already.
  insert into net._http_response (id, timed_out, error_msg, error_code, login_role, set_role, host, label, attempts)
  select
    request_id, false, 'The request was cancelled', 'cancelled', request.login_role, request.set_role,
    regexp_replace(split_part(request.url, '/', 3), '^.*@', ''), request.label,
    case when request.attempts > 1 then request.attempts end
  where request.keep is distinct from 'none'
  on conflict (id) do nothing;
  if request.ordering_key is not null and net._is_promised() is not true then
    -- Those behind it may go.
    perform net._wake();
  end if;
  return 'cancelled';
end
$$;

-- Cancels a request, and says what became of it: 'cancelled': it waited, and will not be sent (again); 'cancelling': a worker is
-- sending it, and gives it up, so that whether the server saw it is not known; 'finished': it was too late.
-- API: public
create function net.cancel(
  -- request_id reference
  request_id bigint
)
  returns text
  language plpgsql
  volatile
  parallel unsafe
  set search_path = pg_catalog, pg_temp
as $$
begin
  return net._cancel(
    (pg_current_xact_id()::text || ' ' || to_regrole(quote_ident(current_user))::oid::text)::net._caller, request_id
  );
end
$$;
