-- Callbacks: functions of the requester that are called with the response.

-- Raises for a function that cannot be called back: it must take a response, and run as the role that makes the request.
-- API: private
create function net._check_callback(requester oid, argument text, function regproc)
  returns void
  language plpgsql
  stable
  parallel unsafe
  set search_path = pg_catalog, pg_temp
as $$
begin
  if not exists (
    select
    from pg_proc p
    where p.oid = function::oid
      and p.prokind = 'f' and p.prosecdef and p.proowner = requester
      and p.proargtypes = array['net._http_response'::regtype::oid]::oidvector
  ) then
    raise exception '% must be a SECURITY DEFINER function of yours that takes a net._http_response', argument
      using errcode = 'invalid_parameter_value',
            detail  = format(
                        'It runs with the rights of its owner, so it must belong to the role that makes the request: %s.',
                        requester::regrole
                      ),
            hint    = 'create function paid(response net._http_response) returns void language plpgsql security definer set search_path = ... as ...';
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
  -- When it is to be called (again); null: no more.
  due_at     timestamptz null default clock_timestamp(),
  attempts   integer     not null default 0,
  -- What the last call raised.
  error_code text        null,
  error_msg  text        null
);

create index callbacks_due_at_idx on net.callbacks (due_at) where due_at is not null;
