-- Callbacks: functions of the requester that are called with the response.
--
-- They are called over a session whose login may do nothing but call (a member of net_callback), by a function that runs with
-- that login's rights (SECURITY INVOKER). What the user's function leaves behind, and runs when its own rights are over (a
-- deferred trigger, a cursor WITH HOLD), therefore gains nothing; nor does a function that is made SECURITY INVOKER between the
-- check and the call, which no lock could prevent. A call is worth nothing without its ticket, which only a worker hands out:
-- whoever gets hold of the login can neither read responses nor make calls.

-- The call of that function with a response, as SQL; null unless it takes one, and runs as the role that made the request.
-- API: private
create function net._callback_call(requester oid, function oid)
  returns text
  language sql
  stable
  parallel unsafe
  set search_path = pg_catalog, pg_temp
as $$
  select format('select %I.%I($1)', n.nspname, p.proname)
  from pg_proc p
  join pg_namespace n on n.oid = p.pronamespace
  where p.oid = $2
    and p.prokind = 'f' and p.prosecdef and p.proowner = $1
    and p.proargtypes = array['net._http_response'::regtype::oid]::oidvector
$$;

-- Raises for a function that cannot be called back.
-- API: private
create function net._check_callback(requester oid, argument text, function regproc)
  returns void
  language plpgsql
  stable
  parallel unsafe
  set search_path = pg_catalog, pg_temp
as $$
declare
  called record;
begin
  if net._callback_call(requester, function::oid) is null then
    raise exception '% must be a SECURITY DEFINER function of yours that takes a net._http_response', argument
      using errcode = 'invalid_parameter_value',
            detail  = format(
                        'It runs with the rights of its owner, so it must belong to the role that makes the request: %s.',
                        requester::regrole
                      ),
            hint    = 'create function paid(response net._http_response) returns void language plpgsql security definer set search_path = ... as ...';
  elsif not exists (select from pg_roles where rolname = 'net_callback') then
    raise exception '% cannot be called: there is no role "net_callback"', argument
      using errcode = 'object_not_in_prerequisite_state',
            hint    = 'It is created where pgfetch is installed by a role with CREATEROLE.';
  end if;
  select p.oid::regprocedure as signature, quote_ident(n.nspname) as schema
  into called
  from pg_proc p
  join pg_namespace n on n.oid = p.pronamespace
  where p.oid = function::oid
    and not (has_function_privilege('net_callback', p.oid, 'EXECUTE') and has_schema_privilege('net_callback', n.oid, 'USAGE'));
  if found then
    raise exception '% may not be called by the role "net_callback"', called.signature
      using errcode = 'insufficient_privilege',
            detail  = 'Callbacks are called by a login that is a member of it, and of nothing else.',
            hint    = format(
                        'GRANT USAGE ON SCHEMA %s TO net_callback; GRANT EXECUTE ON FUNCTION %s TO net_callback;',
                        called.schema, called.signature
                      );
  end if;
end
$$;

-- The calls that are to be made, and those that failed for good.
-- API: public
create unlogged table net.callbacks (
  request_id bigint      not null primary key,
  -- The function, by OID, and the role that made the request.
  function   oid         not null,
  requester  oid         not null,
  created    timestamptz not null default clock_timestamp(),
  -- When it is to be called (again), or until when it is left to the worker that has it called; null: no more.
  due_at     timestamptz null default clock_timestamp(),
  -- The calls that failed, and what the last one raised.
  attempts   integer     not null default 0,
  error_code text        null,
  error_msg  text        null,
  -- SHA-256 of what whoever calls must know. A new one each time: who was given an old one calls nothing.
  ticket     bytea       null
);

create index callbacks_due_at_idx on net.callbacks (due_at) where due_at is not null;
create index callbacks_failed_idx on net.callbacks (created) where due_at is null;

-- Takes a call off the list, for the transaction that makes it. No row: it is not there, or not to be made with this ticket.
-- API: private
create function net._take_callback(request_id bigint, ticket text)
  returns table (call text, response net._http_response)
  language plpgsql
  volatile
  parallel unsafe
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  taken net.callbacks;
begin
  delete from net.callbacks c
  where c.request_id = $1 and c.ticket = sha256(convert_to($2, 'UTF8'))
  returning c.* into taken;
  if not found then
    return;
  end if;
  call := net._callback_call(taken.requester, taken.function);
  if call is null then
    raise exception 'the function is gone, or not what it was: % of %', taken.function::regproc, taken.requester::regrole
      using errcode = 'object_not_in_prerequisite_state',
            detail  = 'It must be a SECURITY DEFINER function of the role that made the request, and take a net._http_response.';
  end if;
  select r.* into response from net._http_response r where r.id = taken.request_id;
  if not found then
    raise exception 'the response to request % is gone', taken.request_id
      using errcode = 'no_data_found',
            detail  = 'Responses are kept for pg_net.ttl.';
  end if;
  return next;
end
$$;

-- Makes a call, in the transaction that takes it off the list; false where there is none to be made with this ticket. Not
-- SECURITY DEFINER: see above. Nothing follows the call, for that could be made to mean something else.
-- API: private
create function net._call_back(request_id bigint, ticket text)
  returns boolean
  language plpgsql
  volatile
  parallel unsafe
  set search_path = pg_catalog, pg_temp
as $$
declare
  taken record;
begin
  select t.call, t.response into taken from net._take_callback($1, $2) t;
  if not found then
    return false;
  end if;
  execute taken.call using taken.response;
  return true;
end
$$;
