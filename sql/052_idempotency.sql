-- Enqueuing once: the idempotency keys that have been given.

-- API: private
create unlogged table net.idempotency_keys (
  -- Whose key it is: the same one means nothing between roles.
  requester  oid         not null,
  key        text        not null,
  request_id bigint      not null,
  expires_at timestamptz not null,
  primary key (requester, key)
);

create index idempotency_keys_expires_at_idx on net.idempotency_keys (expires_at);

-- The id of the request that was made first with that key: `request_id`, or an earlier one within its window. Who gives the
-- same key while the transaction of the first runs waits until that has ended; beyond READ COMMITTED PostgreSQL raises then
-- (serialization_failure), and the transaction is to be tried again.
-- API: private
create function net._first_request(requester oid, key text, request_id bigint)
  returns bigint
  language plpgsql
  volatile
  parallel unsafe
  set search_path = pg_catalog, pg_temp
as $$
declare
  time_window interval := least(
    greatest(coalesce(net._interval_or_null(current_setting('pg_net.idempotency_window', true)), '1 day'), '0'), '365 days'
  );
  first_id    bigint;
begin
  loop
    -- Asked first: the INSERT locks the row that is there, and whoever repeats a key need wait for nobody who repeats it, too.
    select k.request_id into first_id
    from net.idempotency_keys k
    where k.requester = $1 and k.key = $2 and k.expires_at > clock_timestamp();
    if found then
      return first_id;
    end if;
    insert into net.idempotency_keys as k (requester, key, request_id, expires_at)
    values ($1, $2, $3, clock_timestamp() + time_window)
    on conflict on constraint idempotency_keys_pkey do update
      set request_id = excluded.request_id, expires_at = excluded.expires_at
      where k.expires_at <= clock_timestamp()
    returning k.request_id into first_id;
    if found then
      return first_id;
    end if;
    -- Another was faster: it has ended by now, and can be seen.
  end loop;
end
$$;

-- The headers with the key that a request carries: the given one, or one of its own where it may be sent more than once.
-- API: private
create function net._with_idempotency_key(headers jsonb, key text, retry jsonb)
  returns jsonb
  language plpgsql
  volatile
  parallel unsafe
  set search_path = pg_catalog, pg_temp
as $$
declare
  has_header boolean;
begin
  if key collate "C" !~ '^[!-~]{1,255}$' then
    raise exception 'an idempotency key is 1 to 255 visible ASCII characters'
      using errcode = 'invalid_parameter_value',
            detail  = 'It is sent as the header Idempotency-Key.',
            hint    = 'Take what names the event, such as ''order-42-paid'', or hash what is longer: md5(...).';
  elsif jsonb_typeof(headers) <> 'object' then
    -- net._checked_headers refuses it.
    return headers;
  end if;
  has_header := exists (select from jsonb_object_keys(headers) h where lower(h collate "C") = 'idempotency-key');
  if has_header and key is not null then
    raise exception 'idempotency_key and a header Idempotency-Key are both given'
      using errcode = 'invalid_parameter_value',
            hint    = 'Leave out the header: idempotency_key is sent as it.';
  elsif not has_header and (key is not null or (retry ->> 'maxAttempts')::integer > 1) then
    -- Stored, so that it is the same at every attempt.
    return headers || jsonb_build_object('Idempotency-Key', coalesce(key, gen_random_uuid()::text));
  end if;
  return headers;
end
$$;
