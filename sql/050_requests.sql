-- The documented functions, and what they share.

-- Raises for headers that cannot be sent; returns them with every value a string. What it accepts, the HTTP client accepts
-- (src/http/hop.ts), and what that refuses, it refuses.
-- API: private
create function net._checked_headers(headers jsonb)
  returns jsonb
  language plpgsql
  immutable
  parallel safe
  set search_path = pg_catalog, pg_temp
as $$
declare
  checked   jsonb;
  header    record;
  has_host  boolean := false;
begin
  -- The usual ones at once: visible ASCII without anything that JSON escapes, under tokens that begin like none of the names
  -- that are special. Short expressions without captures, because every transaction that gives headers pays for them: the
  -- second passes Content-Type and most others, the third what shares only its first letters with such a name. What has a
  -- brace may refer to a secret.
  if headers::text collate "C" ~ '^\{(?:(?:"[!#$%&''*+.^_`|~0-9A-Za-z-]+": "[] !#-[^-z|}~]*"(?:, )?)+)?\}$'
    and (
      headers::text collate "C" !~ '(?:\{|, )"(?:[EeHhKkPpTtUu]|[Cc](?:[^o]|o(?:[^no]|n(?:[^t]|t(?:[^e]|e(?:[^n]|n(?:[^t]|t(?:[^-]|-[^T]))))))))'
      or headers::text collate "C" !~ '(?:\{|, )"(?:[Hh][OoTt]|[Tt][Ee]|[Tt][Rr][Aa][^Cc]|[Cc][Oo][Nn][Nn]|[Cc][Oo][Nn][Tt][Ee][Nn][Tt]-[Ll]|[Ee][Xx]|[Kk][Ee]|[Pp][Rr][Oo]|[Uu][Pp])'
    )
    and octet_length(headers::text) <= 65536
  then
    return headers;
  end if;
  if jsonb_typeof(headers) <> 'object' then
    raise exception 'headers must be a JSON object, not %', jsonb_typeof(headers)
      using errcode = 'invalid_parameter_value',
            hint    = 'Pass name/value pairs: headers := ''{"Authorization": "Bearer ..."}''::jsonb.';
  end if;
  checked := coalesce((select jsonb_object_agg(h.key, h.value) from jsonb_each_text(headers) h), '{}');
  -- The worker reads them in UTF-8, so what cannot be converted is refused here, too.
  if octet_length(convert_to(checked::text, 'UTF8')) > 65536 then
    raise exception 'headers are too large: % bytes', octet_length(convert_to(checked::text, 'UTF8'))
      using errcode = 'invalid_parameter_value',
            hint    = 'Keep them below 65536 bytes; send what is larger in the body.';
  end if;
  for header in
    select h.key, h.value, lower(h.key collate "C") as lower_key from jsonb_each_text(checked) h
  loop
    if header.key collate "C" !~ '^[!#$%&''*+.^_`|~0-9A-Za-z-]+$' then
      raise exception 'invalid header name %', to_json(left(header.key, 200))
        using errcode = 'invalid_parameter_value',
              detail  = 'A header name is made of letters, digits and !#$%&''*+-.^_`|~ (RFC 9110, token).',
              hint    = 'Remove blanks, colons and line breaks from the name.';
    elsif header.lower_key in (
      'connection', 'content-length', 'expect', 'http2-settings', 'keep-alive', 'proxy-connection', 'te', 'trailer',
      'transfer-encoding', 'upgrade'
    ) then
      raise exception 'header "%" is not allowed', header.key
        using errcode = 'invalid_parameter_value',
              detail  = 'It says where the message ends or concerns the connection, and is set by the HTTP client.',
              hint    = 'Leave it out.';
    elsif header.value is null then
      raise exception 'the value of header "%" is null', header.key
        using errcode = 'invalid_parameter_value',
              hint    = 'Leave the header out, or use an empty string. Concatenating with a NULL gives NULL: look at where the value comes from.';
    elsif header.value collate "C" ~ '[\r\n]' then
      -- The value may be a secret, so no message shows it.
      raise exception 'the value of header "%" contains a line break', header.key
        using errcode = 'invalid_parameter_value',
              hint    = 'Line breaks would let a value forge further headers. Remove them, for example with translate(value, E''\r\n'', '''').';
    elsif header.value collate "C" ~ '[\x01-\x08\x0b\x0c\x0e-\x1f\x7f]' then
      raise exception 'the value of header "%" contains a control character', header.key
        using errcode = 'invalid_parameter_value',
              hint    = 'Remove it, or encode the value.';
    elsif strpos(header.value, '{{') > 0
      -- What is left when the references are taken away holds none.
      and regexp_replace(
        header.value collate "C", '\{\{[ \t]*secret\.[a-z][a-z0-9_-]{0,62}[ \t]*\}\}', 'x', 'g'
      ) ~* '\{\{[ \t]*secret'
    then
      raise exception 'the value of header "%" refers to a secret wrongly', header.key
        using errcode = 'invalid_parameter_value',
              hint    = 'Write {{secret.name}}; a name has at most 63 of a-z, 0-9, _ and -, and begins with a letter.';
    elsif header.lower_key = 'host' then
      if has_host then
        raise exception 'header "Host" is given twice'
          using errcode = 'invalid_parameter_value',
                hint    = 'The case of a name does not count: leave one of them out.';
      elsif header.value collate "C" !~ '^[ \t]*(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._~%!$&''()*+,;=-]+)(:[0-9]{1,5})?[ \t]*$' then
        raise exception 'the value of header "%" is not a host', header.key
          using errcode = 'invalid_parameter_value',
                hint    = 'Give a name or an address, and a port where it is needed: api.example.com:8443.';
      end if;
      has_host := true;
    end if;
  end loop;
  return checked;
end
$$;

-- The headers of a JSON body: with its Content-Type, where there is none. NULL is as good as none.
-- API: private
create function net._json_headers(headers jsonb)
  returns jsonb
  language plpgsql
  immutable
  parallel safe
  set search_path = pg_catalog, pg_temp
as $$
declare
  content_type text;
begin
  if headers is null then
    return '{"Content-Type": "application/json"}';
  elsif jsonb_typeof(headers) = 'object' then
    select h.value into content_type from jsonb_each_text(headers) h where lower(h.key) = 'content-type';
    if not found then
      return headers || '{"Content-Type": "application/json"}';
    elsif content_type !~* '^application/json[[:blank:]]*(;|$)' then
      raise exception 'Content-Type header must be "application/json"'
        using errcode = 'invalid_parameter_value',
              detail  = format('It is "%s".', left(content_type, 200)),
              hint    = 'The body is sent as JSON. Leave the Content-Type out, or set it to application/json.';
    end if;
  end if;
  return headers;
end
$$;

-- The URL as it is to be requested, and the headers as they are to be stored; raises for what cannot be sent. For what is
-- not plain.
-- API: private
create function net._checked_request(
  inout url text, params jsonb, inout headers jsonb, timeout_milliseconds integer
)
  language plpgsql
  immutable
  parallel safe
  set search_path = pg_catalog, pg_temp
as $$
begin
  url := net._url_with_params(url, params);
  if url is null or timeout_milliseconds is null then
    -- As the column's constraint would, but without its DETAIL, which shows the whole row, Authorization header included.
    raise exception 'null value in column "%" of relation "http_request_queue" violates not-null constraint',
        case when url is null then 'url' else 'timeout_milliseconds' end
      using errcode = 'not_null_violation',
            schema  = 'net',
            table   = 'http_request_queue',
            column  = case when url is null then 'url' else 'timeout_milliseconds' end,
            hint    = 'Concatenating with a NULL gives NULL: look at where the value comes from.';
  elsif not net._is_url(url) then
    perform net._refuse_url(url);
  elsif url collate "C" ~ '(\{|%7[Bb]){2}' and url ~* '(\{|%7b){2}(\+|%20|%09)*secret' then
    raise exception 'a URL cannot refer to a secret'
      using errcode = 'invalid_parameter_value',
            detail  = 'URLs are seen by whoever sees the request, and stand in logs and responses.',
            hint    = 'Pass it in a header: headers := ''{"Authorization": "Bearer {{secret.name}}"}''::jsonb.';
  elsif timeout_milliseconds not between 1 and 86400000 then
    raise exception 'timeout_milliseconds is out of range: %', timeout_milliseconds
      using errcode = 'invalid_parameter_value',
            hint    = 'Give between 1 and 86400000 milliseconds (one day); the default is 2000.';
  end if;
  headers := net._checked_headers(headers);
end
$$;

-- What follows is written for speed, because every transaction that enqueues pays for it: the documented functions hold one
-- test that the usual request passes whole, one INSERT, and one look at the promise, and call no function that the planner
-- does not inline (LANGUAGE sql, no SET). PostgreSQL sets up each expression of a function anew in each transaction, so
-- there are few, and rare cases are in functions of their own.

-- Whether there is nothing to check or to encode: the usual request.
-- API: private
create function net._is_plain(url text, params jsonb, headers jsonb, timeout_milliseconds integer)
  returns boolean
  language sql
  immutable
  parallel safe
as $$
  select url collate "C" ~ '^https?://[A-Za-z0-9.-]+(?::[0-9]{1,5})?/[]!$-;=?-Z_a-z~[]*$'
    and params = '{}'
    and (headers = '{}' or headers = '{"Content-Type": "application/json"}')
    and timeout_milliseconds between 1 and 86400000
    and pg_catalog.octet_length(url) <= 65536
$$;

-- Who asks: the login, and the role that it has SET.
-- API: private
create function net._login_role()
  returns oid
  language sql
  stable
  parallel safe
as $$
  select pg_catalog.to_regrole(pg_catalog.quote_ident(session_user))
$$;

-- The setting keeps the name that the role had when it was SET. If another has that name by now, that one does not ask.
-- API: private
create function net._role_that_was_set()
  returns oid
  language plpgsql
  stable
  parallel safe
  set search_path = pg_catalog, pg_temp
as $$
declare
  role oid := to_regrole(quote_ident(current_setting('role')));
begin
  return case when pg_has_role(session_user, role, 'MEMBER') then role end;
end
$$;

-- API: private
create function net._set_role()
  returns oid
  language sql
  stable
  parallel safe
as $$
  select case when pg_catalog.current_setting('role') <> 'none' then net._role_that_was_set() end
$$;

-- Of the two, whom net.policy and net.queue_limit are about (src/core/request.ts, requesterOf).
-- API: private
create function net._requester()
  returns oid
  language sql
  stable
  parallel safe
as $$
  select coalesce(net._set_role(), net._login_role())
$$;

-- Raises where it matters who asks (rules of net.policy and net.queue_limit, roles that secrets are bound to) and the login does
-- not tell: REFRESH MATERIALIZED VIEW, ANALYZE, CREATE INDEX and the like, and autovacuum, run functions of a table's owner as
-- that owner, whoever's session it is. Who owns a table with such a function would ask as a superuser.
-- API: private
create function net._check_login(method text, url text)
  returns void
  language plpgsql
  volatile
  parallel unsafe
  set search_path = pg_catalog, pg_temp
as $$
begin
  -- PostgreSQL tells of such an operation only by what it refuses in one, before it looks for the cursor.
  begin
    execute 'close "net._check_login"';
  exception
    when invalid_cursor_name then
      null;
    when insufficient_privilege then
      raise exception 'net.http_% cannot tell for whom the request is within a security-restricted operation', lower(method)
        using errcode = 'insufficient_privilege',
              detail  = 'A materialized view, an index or maintenance runs this as another role than the login.',
              hint    = 'Call net.request, which asks as current_user.';
  end;
  if not net._is_open() then
    perform net._check_standing(net._requester(), method, url);
  end if;
end
$$;

-- Whether a worker has promised to look by itself, so that nobody need be notified; NULL where the sequence says nothing. To
-- be asked after the INSERT.
-- API: private
create function net._is_promised()
  returns boolean
  language sql
  volatile
  parallel unsafe
as $$
  select pg_catalog.to_timestamp(
    pg_catalog.pg_sequence_last_value('net.wake_promise'::pg_catalog.regclass) / 1000.0::double precision
  ) > pg_catalog.clock_timestamp()
$$;

-- The transaction's id (pg_current_xact_id, which is never null) comes before the request's: the workers' low-water mark
-- passes a request id only when every transaction that had an id before it was given out has ended.

-- API: public
create function net.http_get(
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
declare
  request_id bigint;
begin
  if (pg_current_xact_id() is not null
    and net._is_open()
    and net._is_plain(url, params, headers, timeout_milliseconds)) is not true
  then
    select r.url, r.headers into url, headers
    from net._checked_request(url, params, headers, timeout_milliseconds) r;
    if not net._is_open() or headers::text like '%{{%' then
      perform net._check_login('GET', url);
    end if;
  end if;
  request_id := nextval('net.http_request_queue_id_seq');
  insert into net.http_request_queue (id, method, url, headers, body, timeout_milliseconds, login_role, set_role)
  values (request_id, 'GET', url, headers, null, timeout_milliseconds, net._login_role(), net._set_role());
  if net._is_promised() is not true then
    perform net._wake();
  end if;
  return request_id;
end
$$;

-- API: public
create function net.http_post(
  -- url for the request
  url text,
  -- body of the POST request
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
declare
  request_id bigint;
begin
  if (pg_current_xact_id() is not null
    and net._is_open()
    and headers = '{"Content-Type": "application/json"}'
    and net._is_plain(url, params, headers, timeout_milliseconds)) is not true
  then
    select r.url, r.headers into url, headers
    from net._checked_request(url, params, net._json_headers(headers), timeout_milliseconds) r;
    if not net._is_open() or headers::text like '%{{%' then
      perform net._check_login('POST', url);
    end if;
  end if;
  request_id := nextval('net.http_request_queue_id_seq');
  insert into net.http_request_queue (id, method, url, headers, body, timeout_milliseconds, login_role, set_role)
  values (
    request_id, 'POST', url, headers, convert_to(body::text, current_setting('server_encoding')), timeout_milliseconds,
    net._login_role(), net._set_role()
  );
  if net._is_promised() is not true then
    perform net._wake();
  end if;
  return request_id;
end
$$;

-- API: public
create function net.http_delete(
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
declare
  request_id bigint;
begin
  if (pg_current_xact_id() is not null
    and net._is_open()
    and net._is_plain(url, params, headers, timeout_milliseconds)) is not true
  then
    select r.url, r.headers into url, headers
    from net._checked_request(url, params, headers, timeout_milliseconds) r;
    if not net._is_open() or headers::text like '%{{%' then
      perform net._check_login('DELETE', url);
    end if;
  end if;
  request_id := nextval('net.http_request_queue_id_seq');
  insert into net.http_request_queue (id, method, url, headers, body, timeout_milliseconds, login_role, set_role)
  values (request_id, 'DELETE', url, headers, null, timeout_milliseconds, net._login_role(), net._set_role());
  if net._is_promised() is not true then
    perform net._wake();
  end if;
  return request_id;
end
$$;
