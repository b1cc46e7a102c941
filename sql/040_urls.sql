-- URLs: percent-encoding, parameters, and the check at the door.

-- Percent-encodes as curl_easy_escape does: all but A-Z a-z 0-9 - . _ ~ (RFC 3986, unreserved), byte by byte in UTF-8.
-- Clean strings return at once; otherwise each distinct character that needs it is replaced once, which is an order of
-- magnitude faster than going byte by byte.
-- API: private
create function net._urlencode_string(string varchar)
  returns text
  language plpgsql
  immutable
  strict
  parallel safe
  set search_path = pg_catalog, pg_temp
as $$
declare
  encoded   text := string;
  character text;
  -- There each byte is a character: as it is, like everything else of such a database.
  target    text := case when getdatabaseencoding() = 'SQL_ASCII' then 'SQL_ASCII' else 'UTF8' end;
begin
  if encoded collate "C" !~ '[^A-Za-z0-9._~-]' then
    return encoded;
  end if;
  encoded := replace(encoded, '%', '%25');
  foreach character in array array(
    select distinct c collate "C" from regexp_split_to_table(string, '') as c where c collate "C" ~ '[^A-Za-z0-9._~%-]'
  ) loop
    encoded := replace(
      encoded,
      character,
      regexp_replace(upper(encode(convert_to(character, target), 'hex')), '(..)', '%\1', 'g')
    );
  end loop;
  return encoded;
end
$$;

-- Appends `name=value` pairs, already encoded, to the query that the URL may already have; a fragment stays last.
-- API: private
create function net._encode_url_with_params_array(url text, params_array text[])
  returns text
  language sql
  immutable
  strict
  parallel safe
  set search_path = pg_catalog, pg_temp
as $$
  select case
    when cardinality(params_array) = 0 then url
    else
      before_fragment
      || case
           when strpos(before_fragment, '?') = 0 then '?'
           when before_fragment ~ '[?&]$' then ''
           else '&'
         end
      || array_to_string(params_array, '&')
      || substr(url, length(before_fragment) + 1)
  end
  from (select split_part(url, '#', 1)) as parts (before_fragment)
$$;

-- The URL with `params` appended. NULL params mean none; a parameter whose value is null is left out.
-- API: private
create function net._url_with_params(url text, params jsonb)
  returns text
  language plpgsql
  immutable
  parallel safe
  set search_path = pg_catalog, pg_temp
as $$
begin
  if params is null or params = '{}' or url is null then
    return url;
  end if;
  if jsonb_typeof(params) <> 'object' then
    raise exception 'params must be a JSON object, not %', jsonb_typeof(params)
      using errcode = 'invalid_parameter_value',
            hint    = 'Pass key/value pairs: params := ''{"page": 1, "q": "text"}''::jsonb.';
  end if;
  return net._encode_url_with_params_array(url, array(
    select net._urlencode_string(p.key) || '=' || net._urlencode_string(p.value)
    from jsonb_each_text(params) p
    where p.value is not null
  ));
end
$$;

-- Whether this is an absolute http(s) URL that the worker can send: a host, no white space, no control character, at most
-- 64 KiB. The worker reads it in UTF-8: one that cannot be converted raises.
-- API: private
create function net._is_url(url text)
  returns boolean
  language sql
  immutable
  strict
  parallel safe
  set search_path = pg_catalog, pg_temp
as $$
  select octet_length(convert_to(url, 'UTF8')) <= 65536
    and url collate "C" ~* '^https?://([^][:space:][:cntrl:]/?#@\\[]*@)?(\[[0-9a-f:.]+\]|[^][:space:][:cntrl:]/?#@:\\[]+)(:[0-9]{0,5})?([/?#][^[:space:][:cntrl:]]*)?$'
$$;

-- Raises for a URL that the worker could only refuse. The messages are pg_net's.
-- API: private
create function net._refuse_url(url text)
  returns void
  language plpgsql
  immutable
  parallel safe
  set search_path = pg_catalog, pg_temp
as $$
begin
  if url ~ '^[A-Za-z][A-Za-z0-9+.-]*:' and url !~* '^https?:' and url !~ '^[A-Za-z0-9.-]+:[0-9]{1,5}([/?#]|$)' then
    raise exception 'Unsupported URL scheme'
      using errcode = 'invalid_parameter_value',
            detail  = format('The scheme is "%s".', split_part(url, ':', 1)),
            hint    = 'Only http:// and https:// URLs can be requested.';
  end if;
  -- Whoever reads the message need not be who gave the URL. Also where credentials or a query stand in it wrongly.
  raise exception 'invalid URL "%"',
      left(regexp_replace(regexp_replace(url, '^(https?:/*)?.*@', '\1***@', 'i'), '[?#].*$', '?***'), 2000)
    using errcode = 'invalid_parameter_value',
          detail  = case
                      when octet_length(convert_to(url, 'UTF8')) > 65536
                        then format('It has %s bytes; at most 65536 are accepted.', octet_length(convert_to(url, 'UTF8')))
                      when url ~ '[[:space:][:cntrl:]]' then 'It contains white space or a control character.'
                      else 'It has no scheme, no host, or a host or port that is none.'
                    end,
          hint    = 'Give an absolute URL, such as https://example.com/path; percent-encode what a URL cannot hold, or pass it in params.';
end
$$;
