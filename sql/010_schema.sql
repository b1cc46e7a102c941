-- The schema, its roles, its types and its two documented tables.

-- A schema `net` that is already there is somebody else's: it is never taken over.
do $$
begin
  if exists (select from pg_catalog.pg_namespace where nspname = 'net') then
    raise exception 'schema "net" already exists and is not pgfetch''s'
      using errcode = 'duplicate_schema',
            detail  = 'pgfetch installs into a schema of its own and takes over no object that it did not create.',
            hint    = case
                        when exists (select from pg_catalog.pg_extension where extname = 'pg_net')
                          then 'It is the extension pg_net''s. Move its settings and pending requests if you need them, run DROP EXTENSION pg_net, and install again.'
                        else 'Rename that schema (ALTER SCHEMA net RENAME TO ...), or drop it if it is a leftover, and install again.'
                      end;
  end if;
end
$$;

create schema net;
comment on schema net is 'pgfetch: asynchronous HTTP from SQL, with the API of pg_net';

-- Roles belong to the whole server, so another database's installation may have created them. One that merely has the
-- same name is not used: it could belong to anybody. Without CREATEROLE the installation does without them, and the
-- worker connects as the schema's owner.
do $$
declare
  role_name text;
begin
  foreach role_name in array array['net_admin', 'net_worker', 'net_callback'] loop
    if exists (select from pg_catalog.pg_roles where rolname = role_name) then
      if not exists (
        select
        from pg_catalog.pg_roles r
        where r.rolname = role_name
          and not r.rolsuper and not r.rolcanlogin and not r.rolcreaterole and not r.rolbypassrls
          and pg_catalog.shobj_description(r.oid, 'pg_authid') like 'pgfetch:%'
      ) then
        raise exception 'role "%" already exists and is not pgfetch''s', role_name
          using errcode = 'duplicate_object',
                detail  = 'pgfetch''s own role cannot log in, has no special rights, and carries a comment that starts with "pgfetch:".',
                hint    = pg_catalog.format('Rename or drop that role (ALTER ROLE %I RENAME TO ...) and install again.', role_name);
      end if;
    elsif (select rolsuper or rolcreaterole from pg_catalog.pg_roles where rolname = current_user) then
      if role_name = 'net_admin' then
        create role net_admin nologin;
        comment on role net_admin is 'pgfetch: reads every request and response, headers and bodies included';
      elsif role_name = 'net_worker' then
        create role net_worker nologin;
        comment on role net_worker is 'pgfetch: what the worker needs and nothing else; grant it to the worker''s login';
      else
        create role net_callback nologin;
        comment on role net_callback is 'pgfetch: calls on_success and on_error; grant it to a login that has no other rights';
      end if;
    else
      raise notice 'role "%" was not created: % may not create roles', role_name, current_user
        using hint = 'Let a role with CREATEROLE install, or have the worker connect as the owner of the schema net.';
    end if;
  end loop;
end
$$;

-- API: public
create domain net.http_method as text
  check (value ~* '^(get|post|delete)$');
comment on domain net.http_method is 'The methods of the documented functions, in any case';

-- API: public
create type net.request_status as enum ('PENDING', 'SUCCESS', 'ERROR');

-- API: public
create type net.http_response as (
  status_code integer,
  headers     jsonb,
  body        text
);

-- API: public
create type net.http_response_result as (
  status   net.request_status,
  message  text,
  response net.http_response
);

-- Logged even where the tables are not, and owned by no column: ids are not used twice, neither after a crash nor after
-- TRUNCATE ... RESTART IDENTITY.
-- API: private
create sequence net.http_request_queue_id_seq as bigint;

-- A request waits here until it is done: claimed rows stay, marked, and are deleted when their response is recorded.
-- The first six columns are the documented ones. `fillfactor` leaves room on the page for the mark, so that a claim
-- touches no index.
-- API: public
create unlogged table net.http_request_queue (
  id                   bigint      not null default nextval('net.http_request_queue_id_seq'::regclass),
  method               text        not null,
  url                  text        not null,
  headers              jsonb       not null,
  body                 bytea       null,
  timeout_milliseconds integer     not null,
  -- The worker that is sending it (net.worker.id); null: waiting.
  claimed_by           bigint      null,
  -- Null for a request that has only waited, found by its id; set for one that came back (released, or its worker
  -- died), found through the index below whatever low-water mark the workers have reached.
  due_at               timestamptz null,
  created              timestamptz null default now(),
  -- Who asked: the login, and the role it had SET, by OID. Null for a direct INSERT.
  login_role           oid         null,
  set_role             oid         null,
  -- The worker's secret that the request is signed with (Standard Webhooks); null: it is not signed.
  sign_with            text        null,
  -- What follows is null for a request that uses none of it, and then costs nothing: net._extras tells the worker the rest.
  -- How it is tried again (net._checked_retry); null: as the settings say.
  retry                jsonb       null,
  -- The attempts that have ended, and when the first of them began; null: none has.
  attempts             integer     null,
  first_sent_at        timestamptz null,
  -- Requests of one role with the same key are sent one after another; whether one that failed holds up the rest.
  ordering_key         text        null,
  blocks_key           boolean     null,
  -- 1 to 9: goes before others that wait.
  priority             smallint    null,
  -- The key of net.limits that it is counted under.
  limit_key            text        null,
  -- Functions to be called with the response, by OID.
  on_success           oid         null,
  on_error             oid         null,
  -- 'status' or 'none': what is kept of the response; null: all of it.
  keep                 text        null,
  label                text        null,
  -- Set by net.cancel while it is being sent.
  cancel_asked         boolean     null,
  -- The request that this one sends again.
  redelivery_of        bigint      null,
  constraint http_request_queue_pkey primary key (id)
) with (fillfactor = 60);

-- By the id, too: a million requests may be due at the same instant, and a walk over them goes on where it stopped.
create index http_request_queue_due_at_idx on net.http_request_queue (due_at, id) where due_at is not null;
create index http_request_queue_priority_idx on net.http_request_queue (priority desc, id)
  where priority is not null and due_at is null;

-- What the worker is told of a request beyond its columns: JSON, or null where there is nothing. Written so that it is inlined.
-- API: private
create function net._extras(q net.http_request_queue)
  returns text
  language sql
  stable
  parallel safe
as $$
  select case
    -- What most of those that use any of it have, at a third of the price; null where that is null.
    when pg_catalog.num_nonnulls(
      q.attempts, q.ordering_key, q.priority, q.limit_key, q.on_success, q.on_error, q.keep, q.label, q.cancel_asked
    ) = 0
    then '{"retry": ' || q.retry::text || '}'
    else pg_catalog.json_build_object(
      'retry', q.retry,
      'attempts', q.attempts,
      'firstSentAtMs', pg_catalog.floor(extract(epoch from q.first_sent_at) * 1000),
      'orderingKey', q.ordering_key,
      'blocksKey', q.blocks_key,
      'priority', q.priority,
      'limitKey', q.limit_key,
      'onSuccess', q.on_success::bigint,
      'onError', q.on_error::bigint,
      'keep', q.keep,
      'label', q.label,
      'cancelAsked', q.cancel_asked
    )::text
  end
$$;

-- One row a finished request. The first eight columns are the documented ones.
-- API: public
create unlogged table net._http_response (
  id            bigint      null,
  status_code   integer     null,
  content_type  text        null,
  headers       jsonb       null,
  content       text        null,
  timed_out     boolean     null,
  error_msg     text        null,
  created       timestamptz not null default now(),
  -- Why there is no answer, for machines: 'timed_out', 'connect_failed', ... Null where there is one.
  error_code    text        null,
  -- The exact bytes of the body, only where `content` cannot hold them (NUL, invalid in its charset, a character that
  -- the database's encoding lacks).
  content_bytes bytea       null,
  -- True where the body was longer than the limit: what is here is its beginning.
  truncated     boolean     null,
  login_role    oid         null,
  set_role      oid         null,
  -- Where the request ended and after how many redirects. Null where none was followed.
  final_url     text        null,
  redirects     integer     null,
  -- Every header of the reply as [name, value], in its order. Only where a name repeats, of which `headers` has the last.
  header_list   jsonb       null,
  -- The host and port that were asked.
  host          text        null,
  label         text        null,
  -- How often it was tried, where that is more than once, and whether that was given up (net.requests calls it dead).
  attempts      integer     null,
  is_dead       boolean     null
);

create unique index _http_response_id_idx on net._http_response (id);
create index _http_response_created_idx on net._http_response (created);

-- What was installed, and on which server: a restored copy must not send what the original had queued.
-- API: private
create table net.installation (
  singleton         boolean     not null default true primary key check (singleton),
  schema_version    integer     not null,
  version           text        not null,
  system_identifier text        null,
  database_oid      oid         not null,
  installed_at      timestamptz not null default now(),
  -- What net._fingerprint() said then: the standard that `pgfetch doctor` compares with.
  fingerprint       jsonb       not null
);
