-- Requests that are kept when they are done, and sending them again.

-- Which are kept is a setting: pg_net.keep_requests (none, failed, all), for pg_net.keep_requests_ttl.
-- API: public
create unlogged table net.kept_requests (
  id                   bigint      not null primary key,
  method               text        not null,
  url                  text        not null,
  -- As they were given: secrets are references.
  headers              jsonb       not null,
  body                 bytea       null,
  timeout_milliseconds integer     not null,
  created              timestamptz null,
  login_role           oid         null,
  set_role             oid         null,
  sign_with            text        null,
  retry                jsonb       null,
  attempts             integer     not null,
  ordering_key         text        null,
  blocks_key           boolean     null,
  priority             smallint    null,
  limit_key            text        null,
  on_success           oid         null,
  on_error             oid         null,
  keep                 text        null,
  label                text        null,
  redelivery_of        bigint      null,
  -- The key that every attempt carried where the headers have none.
  idempotency_key      text        null,
  -- succeeded, failed, dead or cancelled
  state                text        not null,
  status_code          integer     null,
  error_code           text        null,
  host                 text        null,
  finished             timestamptz not null default clock_timestamp()
);

create index kept_requests_finished_idx on net.kept_requests (finished);
