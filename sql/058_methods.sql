-- The methods that pg_net lacks, in the shape of its functions and attributed as those are. Whoever needs more takes net.request.

-- Checks and stores a request for the login and the role that it has SET. For functions that say in their own rights which.
-- API: private
create function net._enqueue_as_login(
  method text, url text, params jsonb, headers jsonb, body bytea, timeout_milliseconds integer
)
  returns bigint
  language plpgsql
  volatile
  parallel unsafe
  set search_path = pg_catalog, pg_temp
as $$
declare
  request_id bigint;
begin
  -- First: the workers' low-water mark depends on the transaction's id being older than the request's.
  perform pg_current_xact_id();
  select r.url, r.headers into url, headers
  from net._checked_request(url, params, headers, timeout_milliseconds) r;
  if not net._is_open() or headers::text like '%{{%' then
    perform net._check_login(method, url);
  end if;
  request_id := nextval('net.http_request_queue_id_seq');
  insert into net.http_request_queue (id, method, url, headers, body, timeout_milliseconds, login_role, set_role)
  values (request_id, method, url, headers, body, timeout_milliseconds, net._login_role(), net._set_role());
  if net._is_promised() is not true then
    perform net._wake();
  end if;
  return request_id;
end
$$;

-- API: public
create function net.http_put(
  -- url for the request
  url text,
  -- body of the PUT request
  body jsonb default '{}'::jsonb,
  -- key/value pairs to be url encoded and appended to the `url`
  params jsonb default '{}'::jsonb,
  -- key/values to be included in request headers
  headers jsonb default '{"Content-Type": "application/json"}'::jsonb,
  -- the maximum number of milliseconds the request may take before being canceled
  timeout_milliseconds int default 2000
)
  -- request_id reference
  returns bigint
  volatile
  parallel unsafe
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
begin
  return net._enqueue_as_login(
    'PUT', url, params, net._json_headers(headers), convert_to(body::text, current_setting('server_encoding')),
    timeout_milliseconds
  );
end
$$;

-- API: public
create function net.http_patch(
  -- url for the request
  url text,
  -- body of the PATCH request
  body jsonb default '{}'::jsonb,
  -- key/value pairs to be url encoded and appended to the `url`
  params jsonb default '{}'::jsonb,
  -- key/values to be included in request headers
  headers jsonb default '{"Content-Type": "application/json"}'::jsonb,
  -- the maximum number of milliseconds the request may take before being canceled
  timeout_milliseconds int default 2000
)
  -- request_id reference
  returns bigint
  volatile
  parallel unsafe
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
begin
  return net._enqueue_as_login(
    'PATCH', url, params, net._json_headers(headers), convert_to(body::text, current_setting('server_encoding')),
    timeout_milliseconds
  );
end
$$;

-- API: public
create function net.http_head(
  -- url for the request
  url text,
  -- key/value pairs to be url encoded and appended to the `url`
  params jsonb default '{}'::jsonb,
  -- key/values to be included in request headers
  headers jsonb default '{}'::jsonb,
  -- the maximum number of milliseconds the request may take before being canceled
  timeout_milliseconds int default 2000
)
  -- request_id reference
  returns bigint
  strict
  volatile
  parallel unsafe
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
begin
  return net._enqueue_as_login('HEAD', url, params, headers, null, timeout_milliseconds);
end
$$;
