-- Where requests of which roles may go. Looked at when a request is made, and by the worker before each hop.

-- The gate. It is closed (has a last value) where net.policy or net.queue_limit may have a row; who enqueues then looks into
-- them. While it is open nobody pays for what is not used. A sequence, because reading one is not subject to the
-- transaction's snapshot, and closing it is not undone by a rollback: it is closed before anybody can see the first row.
-- Opened by net._has_policies() only, in a transaction that changed nothing: one that deletes the last row could still
-- roll back.
-- API: private
create sequence net.gate as bigint;

-- For hints: who may change what binds others.
-- API: private
create function net._owner_name()
  returns text
  language sql
  stable
  parallel safe
  set search_path = pg_catalog, pg_temp
as $$
  select pg_get_userbyid(n.nspowner)::text from pg_namespace n where n.nspname = 'net'
$$;

-- Whether no row of net.policy or net.queue_limit can concern anybody.
-- API: private
create function net._is_open()
  returns boolean
  language sql
  volatile
  parallel unsafe
as $$
  select pg_catalog.pg_sequence_last_value('net.gate'::pg_catalog.regclass) is null
$$;

-- Whoever writes to the tables closes the gate, and the workers are asked to read them anew at commit.
-- API: private
create function net._close_gate()
  returns trigger
  language plpgsql
  volatile
  parallel unsafe
  security definer
  set search_path = pg_catalog, pg_temp
as $$
begin
  perform setval('net.gate', 1);
  perform nextval('net.worker_restart_seq');
  perform pg_notify('net_restart', '');
  return null;
end
$$;

-- One spelling for each host, as the worker has it (src/core/hosts.ts): lower case, a name without the dot that may end it,
-- an IPv6 address without brackets and as RFC 5952 writes it. Null for what is none, and for what the URL standard reads as
-- something else: 127.1, 0x7f000001, percent-encoding, names beyond ASCII.
-- API: private
create function net._canonical_host(host text)
  returns text
  language plpgsql
  immutable
  parallel unsafe
  set search_path = pg_catalog, pg_temp
as $$
declare
  name   text := lower(host collate "C");
  octets integer[];
begin
  if name like '[%]' then
    name := substr(name, 2, length(name) - 2);
    if strpos(name, ':') = 0 then
      return null;
    end if;
  end if;
  if name collate "C" ~ '^[0-9a-f:.]*:[0-9a-f:.]*$' then
    begin
      name := pg_catalog.host(name::inet);
    exception
      when invalid_text_representation then
        return null;
    end;
    if strpos(name, '.') > 0 then
      -- PostgreSQL writes the last 32 bits of some as an IPv4 address.
      octets := string_to_array(substring(name from '[^:]+$'), '.');
      name := substring(name from '^.*:')
        || case when name not like '::ffff:%' and octets[1] = 0 and octets[2] = 0 then ''
                else to_hex(octets[1] * 256 + octets[2]) || ':' end
        || to_hex(octets[3] * 256 + octets[4]);
    end if;
    return name;
  end if;
  name := regexp_replace(name, '\.$', '');
  if length(name) > 253
    or name collate "C" !~ '^[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?)*$'
  then
    return null;
  elsif name collate "C" ~ '(^|\.)([0-9]+|0x[0-9a-f]*)$'
    and name collate "C" !~ '^((25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])(\.|$)){4}$'
  then
    return null;
  end if;
  return name;
end
$$;

-- The host of a URL that net._is_url accepts, in its canonical spelling; null where it has none.
-- API: private
create function net._host_of(url text)
  returns text
  language sql
  immutable
  parallel unsafe
  set search_path = pg_catalog, pg_temp
as $$
  select net._canonical_host(
    substring(url collate "C" from '^[^:]+://(?:[^][/?#@\\]*@)?(\[[^]]*\]|[^][/?#:@\\]+)(?::[0-9]*)?(?:$|[/?#])')
  )
$$;

-- Whether the text says which hosts are meant: one, all names below one, or * for every host.
-- API: private
create function net._is_host_pattern(host text)
  returns boolean
  language sql
  immutable
  parallel unsafe
  set search_path = pg_catalog, pg_temp
as $$
  select host = '*'
    or coalesce(host = net._canonical_host(host), false)
    or (
      host like '*.%'
      and coalesce(substr(host, 3) = net._canonical_host(substr(host, 3)), false)
      and substr(host, 3) collate "C" !~ '^[0-9.]+$|:'
    )
$$;

-- Whether a row of net.policy may have this host. Raises, because a check constraint alone says nothing of what to write.
-- API: private
create function net._is_policy_host(host text)
  returns boolean
  language plpgsql
  immutable
  parallel unsafe
  set search_path = pg_catalog, pg_temp
as $$
begin
  if net._is_host_pattern(host) then
    return true;
  end if;
  raise exception 'invalid host in net.policy: "%"', host
    using errcode    = 'check_violation',
          schema     = 'net',
          table      = 'policy',
          constraint = 'policy_host_is_canonical',
          detail     = 'It is no host, or not in the one spelling in which hosts are compared.',
          hint       = 'Give a name (api.example.com), all names below one (*.example.com), one address (10.1.2.3, 2001:db8::1) '
                       'or * for every host; in lower case, without scheme, port and path, beyond ASCII in Punycode.';
end
$$;

-- Likewise for methods.
-- API: private
create function net._are_policy_methods(methods text[])
  returns boolean
  language plpgsql
  immutable
  parallel unsafe
  set search_path = pg_catalog, pg_temp
as $$
begin
  if methods is null
    or (
      methods::text collate "C" ~ '^\{[!#$%&''*+.^_`|~0-9A-Z-]+(,[!#$%&''*+.^_`|~0-9A-Z-]+)*\}$'
      and array_position(methods, null) is null
    )
  then
    return true;
  end if;
  raise exception 'invalid methods in net.policy: %', methods
    using errcode    = 'check_violation',
          schema     = 'net',
          table      = 'policy',
          constraint = 'policy_methods_are_upper_case_tokens',
          hint       = 'List one method or several, in upper case: ''{GET,POST}''; NULL is every method.';
end
$$;

-- A role that no row concerns may send requests anywhere. One that any concerns, only where one of those lets it. Beside the
-- worker's own rules (which networks it reaches), never instead of them.
-- API: public
create table net.policy (
  -- Whom it concerns, with all who have its rights; null: every role.
  role    regrole null,
  -- A name (api.example.com), all names below one (*.example.com), an address, or * for all; in its canonical spelling.
  host    text    not null,
  -- In upper case; null: every method.
  methods text[]  null,
  constraint policy_host_is_canonical check (net._is_policy_host(host)),
  constraint policy_methods_are_upper_case_tokens check (net._are_policy_methods(methods))
);

create unique index policy_role_host_key on net.policy ((coalesce(role::oid, 0)), host);
-- Where every table is published, one without a key could not be deleted from.
alter table net.policy replica identity full;

-- For whoever restores rows with triggers off for replication (session_replication_role), too.
create trigger close_gate
  before insert or update or delete or truncate on net.policy
  for each statement execute function net._close_gate();
alter table net.policy enable always trigger close_gate;

-- Whether a row for `role` concerns who asks: it is that role's, everybody's, or a role's whose rights it has. A superuser has
-- the rights of every role, but is bound by no other role's row. The worker asks it, too (src/store/standing.ts).
-- API: private
create function net._concerns(role oid, requester oid)
  returns boolean
  language sql
  stable
  parallel safe
as $$
  select role is null
    or role operator(pg_catalog.=) requester
    or (
      pg_catalog.pg_has_role(requester, role, 'USAGE')
      and not exists (select from pg_catalog.pg_roles r where r.oid operator(pg_catalog.=) requester and r.rolsuper)
    )
$$;

-- Raises where net.policy does not let the role send this. A host that cannot be read is matched by * alone.
-- API: private
create function net._check_policy(requester oid, method text, url text)
  returns void
  language plpgsql
  stable
  parallel unsafe
  set search_path = pg_catalog, pg_temp
as $$
declare
  target    text;
  is_bound  boolean;
  may_reach boolean;
  may_send  boolean;
begin
  if not exists (select from net.policy) then
    return;
  end if;
  target := net._host_of(url);
  select count(*) > 0, bool_or(m.is_host),
    bool_or(m.is_host and (p.methods is null or upper(method collate "C") = any (p.methods)))
  into is_bound, may_reach, may_send
  from net.policy p
  cross join lateral (
    select p.host = '*'
      or p.host = target
      or (p.host like '*.%' and right(target, length(p.host) - 1) = substr(p.host, 2))
  ) m (is_host)
  where net._concerns(p.role, requester);
  if not is_bound or may_send then
    return;
  end if;
  -- Of the URL nothing but the host is shown: credentials and secrets stand in the rest.
  if may_reach then
    raise exception 'role "%" may not send % to %', pg_get_userbyid(requester), method, coalesce(target, 'this URL')
      using errcode = 'insufficient_privilege',
            detail  = 'The rows of net.policy that concern this role allow other methods for this host.',
            hint    = format('"%s", who owns the schema net, can add the method to a row of net.policy.', net._owner_name());
  elsif target is null then
    raise exception 'role "%" may not send requests to this URL', pg_get_userbyid(requester)
      using errcode = 'insufficient_privilege',
            detail  = 'Rows of net.policy bind this role to certain hosts, and the host of this URL cannot be compared with them.',
            hint    = 'Write the host in ASCII (Punycode) without percent-encoding, an IPv4 address as four decimal numbers.';
  end if;
  raise exception 'role "%" may not send requests to %', pg_get_userbyid(requester), target
    using errcode = 'insufficient_privilege',
          detail  = 'None of the rows of net.policy that concern this role lets it reach this host.',
          hint    = format('"%s", who owns the schema net, can add a row to net.policy.', net._owner_name());
end
$$;
