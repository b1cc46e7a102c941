-- net.request: any method, any body, attributed to exactly the role as which it is called.

-- Who calls: the transaction's id, and current_user by OID. A SECURITY DEFINER function sees its owner as current_user, so
-- net.request, which is none, says who it is for, in a type that nobody can make say another: a value is compared with
-- current_user where it is made, which is before the definer function begins. One that was made as another role in the same
-- transaction was made by code that ran with that role's rights; the transaction's id makes all others worthless.
-- API: private
create domain net._caller as text
  constraint caller_is_current_user check (value = pg_current_xact_id()::text || ' ' || to_regrole(quote_ident(current_user))::oid::text);

-- The caller's OID; raises for NULL, which no check of a domain refuses, and for what was kept from another transaction.
-- API: private
create function net._caller_role(caller net._caller)
  returns oid
  language plpgsql
  volatile
  parallel unsafe
  set search_path = pg_catalog, pg_temp
as $$
begin
  if split_part(caller, ' ', 1) is distinct from pg_current_xact_id()::text then
    raise exception 'who calls is said by net.request, net.cancel and net.redeliver alone'
      using errcode = 'insufficient_privilege',
            hint    = 'Call one of them.';
  end if;
  return split_part(caller, ' ', 2)::oid;
end
$$;

-- Whether the role may send again, or cancel, what any role had requested: it has the rights of the schema's owner or of net_admin.
-- API: private
create function net._acts_for_all(role oid)
  returns boolean
  language sql
  stable
  parallel safe
  set search_path = pg_catalog, pg_temp
as $$
  select exists (
    select
    from pg_roles a
    where (
        a.rolname = net._owner_name()
        -- One that net.set_grants knows, and that did not come to its name since.
        or (a.rolname = 'net_admin' and has_table_privilege(a.oid, 'net.kept_requests', 'SELECT'))
      )
      and pg_has_role(role, a.oid, 'USAGE')
  )
$$;

-- Raises for what is no method that can be requested; returns it as it is to be stored.
-- API: private
create function net._checked_method(method text)
  returns text
  language plpgsql
  immutable
  parallel safe
  set search_path = pg_catalog, pg_temp
as $$
begin
  if method is null then
    raise exception 'null value in column "method" of relation "http_request_queue" violates not-null constraint'
      using errcode = 'not_null_violation',
            schema  = 'net',
            table   = 'http_request_queue',
            column  = 'method',
            hint    = 'Concatenating with a NULL gives NULL: look at where the value comes from.';
  elsif method collate "C" !~ '^[!#$%&''*+.^_`|~0-9A-Za-z-]{1,64}$' then
    raise exception 'invalid method %', to_json(left(method, 200))
      using errcode = 'invalid_parameter_value',
            detail  = 'A method is made of at most 64 letters, digits and !#$%&''*+-.^_`|~ (RFC 9110, token).',
            hint    = 'Give GET, POST, PUT, PATCH, DELETE, HEAD, OPTIONS, or an extension method.';
  elsif upper(method collate "C") in ('CONNECT', 'TRACE') then
    raise exception 'method % is not allowed', upper(method collate "C")
      using errcode = 'invalid_parameter_value',
            detail  = 'CONNECT asks for a tunnel, and TRACE sends back what the request carries, credentials included.',
            hint    = 'Give GET, POST, PUT, PATCH, DELETE, HEAD, OPTIONS, or an extension method.';
  elsif upper(method collate "C") in ('GET', 'POST', 'PUT', 'PATCH', 'DELETE', 'HEAD', 'OPTIONS') then
    return upper(method collate "C");
  end if;
  -- Servers compare methods byte by byte, so the case of others is the caller's.
  return method;
end
$$;

-- The pairs of a JSON object for a query or a form: of an array one for each element, of NULL none; other values as their
-- text.
-- API: private
create function net._pairs(argument text, given jsonb)
  returns table (name text, value text)
  language plpgsql
  immutable
  parallel safe
  set search_path = pg_catalog, pg_temp
as $$
begin
  if jsonb_typeof(given) <> 'object' then
    raise exception '% must be a JSON object, not %', argument, jsonb_typeof(given)
      using errcode = 'invalid_parameter_value',
            hint    = format('Pass key/value pairs: %s := ''{"page": 1, "tag": ["a", "b"]}''::jsonb.', argument);
  end if;
  return query
    select p.key, e.value
    from jsonb_each(given) with ordinality p (key, value, place)
    cross join lateral jsonb_array_elements_text(
      case jsonb_typeof(p.value) when 'array' then p.value else jsonb_build_array(p.value) end
    ) with ordinality e (value, place)
    where e.value is not null
    order by p.place, e.place;
end
$$;

-- The pairs as the URL standard serialises a form (application/x-www-form-urlencoded): all but A-Z a-z 0-9 * - . _
-- percent-encoded in UTF-8, a space as +.
-- API: private
create function net._form_encoded(form jsonb)
  returns text
  language sql
  immutable
  parallel safe
  set search_path = pg_catalog, pg_temp
as $$
  -- No escape that is replaced here can begin within another: a given % has become %25.
  select replace(replace(replace(
    coalesce(string_agg(net._urlencode_string(p.name) || '=' || net._urlencode_string(p.value), '&' order by p.place), ''),
    '%20', '+'), '%2A', '*'), '~', '%7E')
  from net._pairs('form', form) with ordinality p (name, value, place)
$$;

-- The bytes of the one body that is given, and what Content-Type they have.
-- API: private
create function net._request_body(
  json_body jsonb, form_body jsonb, text_body text, bytes_body bytea, out body bytea, out content_type text
)
  language plpgsql
  immutable
  parallel safe
  set search_path = pg_catalog, pg_temp
as $$
begin
  if num_nonnulls(json_body, form_body, text_body, bytes_body) > 1 then
    raise exception 'a request has one body at most'
      using errcode = 'invalid_parameter_value',
            detail  = 'More than one of json, form, text and bytes is given.',
            hint    = 'Give one of them.';
  elsif json_body is not null then
    body := convert_to(json_body::text, 'UTF8');
    content_type := 'application/json';
  elsif form_body is not null then
    body := convert_to(net._form_encoded(form_body), 'UTF8');
    content_type := 'application/x-www-form-urlencoded';
  elsif text_body is not null then
    body := convert_to(text_body, 'UTF8');
    content_type := 'text/plain; charset=utf-8';
  elsif bytes_body is not null then
    body := bytes_body;
    content_type := 'application/octet-stream';
  end if;
end
$$;

-- The headers with a Content-Type for the body and an id for the signature, where they have none. They need not be an object
-- yet; net._checked_headers refuses what is none.
-- API: private
create function net._request_headers(headers jsonb, content_type text, sign_with text)
  returns jsonb
  language plpgsql
  volatile
  parallel unsafe
  set search_path = pg_catalog, pg_temp
as $$
declare
  given text[];
  ids   text[];
begin
  if jsonb_typeof(headers) <> 'object' then
    return headers;
  end if;
  given := array(select lower(k collate "C") from jsonb_object_keys(headers) k);
  if content_type is not null and not 'content-type' = any (given) then
    headers := headers || jsonb_build_object('Content-Type', content_type);
  end if;
  if sign_with is null then
    return headers;
  elsif sign_with collate "C" !~ '^[a-z][a-z0-9_-]{0,62}$' then
    -- It may be the secret itself, so no message shows it.
    raise exception 'sign_with is not the name of a secret'
      using errcode = 'invalid_parameter_value',
            detail  = 'A name has at most 63 of a-z, 0-9, _ and -, and begins with a letter.',
            hint    = 'Give the name by which the worker knows the secret, not the secret.';
  elsif given && array['webhook-timestamp', 'webhook-signature'] then
    raise exception 'a request that is signed cannot bring its own webhook-timestamp or webhook-signature'
      using errcode = 'invalid_parameter_value',
            hint    = 'Leave them out: the worker adds them each time it sends. Of the three headers of Standard Webhooks only webhook-id may be given.';
  end if;
  ids := array(select h.value from jsonb_each_text(headers) h where lower(h.key collate "C") = 'webhook-id');
  if cardinality(ids) = 0 then
    -- Stored, so that it is the same however often the request is sent.
    return headers || jsonb_build_object('webhook-id', 'msg_' || replace(gen_random_uuid()::text, '-', ''));
  elsif cardinality(ids) > 1 or coalesce(btrim(ids[1], E' \t') collate "C" !~ '^[!-\-/-~]{1,255}$', true) then
    -- The full stop parts what is signed.
    raise exception 'a request is signed with one header "webhook-id": 1 to 255 visible ASCII characters, no full stop'
      using errcode = 'invalid_parameter_value',
            hint    = 'Leave it out to be given one, or write another character for each full stop.';
  end if;
  return headers;
end
$$;

-- Checks and stores what net.request was given, for whoever called that.
-- API: private
create function net._enqueue(
  caller net._caller, method text, url text, headers jsonb, params jsonb, json_body jsonb, form_body jsonb, text_body text,
  bytes_body bytea, timeout_milliseconds integer, sign_with text, options net._options
)
  returns bigint
  language plpgsql
  volatile
  parallel unsafe
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  -- First: the workers' low-water mark depends on the transaction's id being older than the request's.
  requester    oid := net._caller_role(caller);
  request_id   bigint;
  first_id     bigint;
  body         bytea;
  content_type text;
  due_at       timestamptz;
  retry        jsonb;
begin
  method := net._checked_method(method);
  if num_nonnulls(json_body, form_body, text_body, bytes_body) > 0 then
    select b.body, b.content_type into body, content_type
    from net._request_body(json_body, form_body, text_body, bytes_body) b;
  end if;
  if body is not null and method in ('GET', 'HEAD') then
    -- As fetch does: RFC 9110 gives such a body no meaning, and servers and proxies reject it, drop it, or take it for the
    -- next request.
    raise exception 'a % request has no body', method
      using errcode = 'invalid_parameter_value',
            hint    = 'Pass it in params, or use POST (or QUERY, where the server knows it).';
  end if;
  if params is not null and url is not null then
    url := net._encode_url_with_params_array(url, array(
      select net._urlencode_string(p.name) || '=' || net._urlencode_string(p.value) from net._pairs('params', params) p
    ));
  end if;
  headers := coalesce(headers, '{}');
  if num_nonnulls(content_type, sign_with) > 0 then
    headers := net._request_headers(headers, content_type, sign_with);
  end if;
  if not (options is null) then
    perform net._check_options(options);
    perform net._check_callback(requester, c.argument, c.function)
    from (values ('on_success', options.on_success), ('on_error', options.on_error)) c (argument, function)
    where c.function is not null;
    due_at := net._checked_due_at(options.run_at, options.delay);
    retry := net._checked_retry(options.max_attempts, options.retry_policy);
    headers := net._with_idempotency_key(headers, options.idempotency_key, retry);
  end if;
  timeout_milliseconds := coalesce(timeout_milliseconds, 2000);
  -- As the documented functions do: the usual request passes one test whole. (What refers to a secret may be percent-encoded.)
  if (net._is_plain(url, '{}', headers, timeout_milliseconds) and strpos(url, '%7') = 0) is not true then
    select r.url, r.headers into url, headers
    from net._checked_request(url, null, headers, timeout_milliseconds) r;
  end if;
  if options.idempotency_key is not null then
    -- What is there already adds nothing to a queue that is full.
    select k.request_id into first_id
    from net.idempotency_keys k
    where k.requester = (select net._caller_role(caller)) and k.key = options.idempotency_key and k.expires_at > clock_timestamp();
    if found then
      return first_id;
    end if;
  end if;
  -- Before the request's id is taken, by which requests are counted.
  if not net._is_open() then
    perform net._check_standing(requester, method, url);
  end if;
  request_id := nextval('net.http_request_queue_id_seq');
  if options.idempotency_key is not null then
    first_id := net._first_request(requester, options.idempotency_key, request_id);
    if first_id <> request_id then
      return first_id;
    end if;
  end if;
  insert into net.http_request_queue (
    id, method, url, headers, body, timeout_milliseconds, set_role, sign_with,
    due_at, retry, ordering_key, blocks_key, priority, limit_key, on_success, on_error, keep, label
  )
  values (
    request_id, method, url, headers, body, timeout_milliseconds, requester, sign_with,
    due_at, retry, options.ordering_key, nullif(options.if_failed = 'block', false), nullif(options.priority, 0),
    options.limit_key, options.on_success, options.on_error, nullif(options.keep, 'full'), options.label
  );
  if net._is_promised() is not true then
    perform net._wake();
  end if;
  return request_id;
end
$$;

-- A NULL argument is as good as none, but for method and url.
-- API: public
create function net.request(
  -- GET, POST, PUT, PATCH, DELETE, HEAD, OPTIONS or an extension method
  method text,
  -- url for the request
  url text,
  -- key/values to be included in request headers
  headers jsonb default null,
  -- key/value pairs to be url encoded and appended to the `url`; of an array each element
  params jsonb default null,
  -- the body, of which at most one may be given: as JSON,
  "json" jsonb default null,
  -- as an HTML form sends its fields; of an array each element,
  form jsonb default null,
  -- as text, sent in UTF-8,
  text text default null,
  -- or as it is
  bytes bytea default null,
  -- the maximum number of milliseconds the request may take before being canceled
  timeout_milliseconds int default 2000,
  -- the name of the secret to sign it with (Standard Webhooks)
  sign_with text default null,
  -- how often it is tried at most, the first attempt included
  max_attempts int default null,
  -- the policy of net.retry_policy by which it is tried again
  retry_policy text default null,
  -- when to send it,
  run_at timestamptz default null,
  -- or how long from now
  delay interval default null,
  -- sent as the header Idempotency-Key; made again with the same key, a request is the first one
  idempotency_key text default null,
  -- requests with the same key are sent one after another
  ordering_key text default null,
  -- whether those that follow one that failed are sent: skip (the default), or wait: block
  if_failed text default null,
  -- 0 to 9: higher goes first
  priority int default null,
  -- the key of net.limits that it is counted under, beside its host
  limit_key text default null,
  -- functions of yours that are called with the response (net._http_response)
  on_success regproc default null,
  on_error regproc default null,
  -- how much of the response is kept: full, status or none
  keep text default null,
  -- for people: what net.requests shows it under
  label text default null
)
  -- request_id reference
  returns bigint
  volatile
  parallel unsafe
  language plpgsql
  set search_path = pg_catalog, pg_temp
as $$
begin
  return net._enqueue(
    (pg_current_xact_id()::text || ' ' || to_regrole(quote_ident(current_user))::oid::text)::net._caller,
    method, url, headers, params, "json", form, text, bytes, timeout_milliseconds, sign_with,
    case
      when num_nonnulls(
        max_attempts, retry_policy, run_at, delay, idempotency_key, ordering_key, if_failed, priority, limit_key, on_success,
        on_error, keep, label
      ) > 0
      then (
        max_attempts, retry_policy, run_at, delay, idempotency_key, ordering_key, if_failed, priority, limit_key, on_success,
        on_error, keep, label
      )::net._options
    end
  );
end
$$;
