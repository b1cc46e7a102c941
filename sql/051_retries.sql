-- Trying again: the policies that requests name, and the attempts that were made.

-- Whether net.retry_policy may have these statuses (src/core/statuses.ts reads them). Raises, because a check constraint alone
-- says nothing of what to write.
-- API: private
create function net._are_statuses(statuses text)
  returns boolean
  language plpgsql
  immutable
  parallel safe
  set search_path = pg_catalog, pg_temp
as $$
begin
  if statuses collate "C" ~ '^ *$' or (
    statuses collate "C" ~ '^ *([45]xx|[45][0-9]{2}( *- *[45][0-9]{2})?) *(, *([45]xx|[45][0-9]{2}( *- *[45][0-9]{2})?) *)*$'
    and not exists (
      select from regexp_matches(statuses collate "C", '([0-9]{3}) *- *([0-9]{3})', 'g') r (bounds) where r.bounds[1] > r.bounds[2]
    )
  ) then
    return true;
  end if;
  raise exception 'invalid statuses in net.retry_policy: %', to_json(left(statuses, 100))
    using errcode    = 'check_violation',
          schema     = 'net',
          table      = 'retry_policy',
          constraint = 'retry_policy_statuses_check',
          detail     = 'Statuses are from 400 to 599: what is below is no failure.',
          hint       = 'Give single ones, ranges and classes: 408, 429, 500-504, or 429, 5xx. An empty text means none.';
end
$$;

-- How requests are tried again that name this policy. What is changed here holds for requests that are made afterwards; for those
-- that go by the setting pg_net.retry_policy, as soon as the workers read their settings again.
-- API: public
create table net.retry_policy (
  name            text     not null primary key check (name ~ '^[a-z][a-z0-9_-]{0,62}$'),
  -- The first attempt included.
  max_attempts    integer  not null default 5 check (max_attempts between 1 and 100),
  -- Exponential backoff with full jitter: the bound of the first delay, doubled with each attempt up to the last.
  first_delay     interval not null default '1 second' check (first_delay between '1 millisecond' and '1 day'),
  max_delay       interval not null default '10 minutes' check (max_delay between '1 millisecond' and '30 days'),
  -- No attempt begins later than this after the first one did.
  time_limit      interval not null default '1 day' check (time_limit between '1 second' and '365 days'),
  -- The statuses that are tried again, as single ones, ranges and classes: '408, 429, 500-504' or '429, 5xx'.
  statuses        text     not null default '429, 5xx' check (net._are_statuses(statuses)),
  -- Whether failures of the network count: no connection, no answer, a time-out.
  errors          boolean  not null default true,
  -- The longest delay that a Retry-After header is obeyed for; a longer one is cut to this. 0: none is.
  max_retry_after interval not null default '1 hour' check (max_retry_after between '0' and '30 days'),
  constraint retry_policy_delays_check check (first_delay <= max_delay)
);

-- What a request says of how it is tried again, as the worker reads it; null: nothing. What is not said is as the settings say.
-- `max_attempts` goes before the policy's.
-- API: private
create function net._checked_retry(max_attempts integer, policy_name text)
  returns jsonb
  language plpgsql
  stable
  parallel unsafe
  set search_path = pg_catalog, pg_temp
as $$
declare
  policy net.retry_policy;
begin
  if max_attempts is null and policy_name is null then
    return null;
  elsif max_attempts not between 1 and 100 then
    raise exception 'max_attempts is %: it must be between 1 and 100', max_attempts
      using errcode = 'invalid_parameter_value',
            detail  = 'The first attempt counts: 1 is none but that.',
            hint    = 'Give max_attempts := 5, or a policy of net.retry_policy.';
  end if;
  if policy_name is not null then
    select * into policy from net.retry_policy p where p.name = policy_name;
    if not found then
      raise exception 'there is no retry policy "%"', left(policy_name, 100)
        using errcode = 'undefined_object',
              hint    = 'Policies are the rows of net.retry_policy.';
    end if;
  end if;
  return jsonb_strip_nulls(jsonb_build_object(
    'maxAttempts', coalesce(max_attempts, policy.max_attempts),
    'firstDelayMs', round(extract(epoch from policy.first_delay) * 1000),
    'maxDelayMs', round(extract(epoch from policy.max_delay) * 1000),
    'timeLimitMs', round(extract(epoch from policy.time_limit) * 1000),
    'statuses', policy.statuses,
    'errors', policy.errors,
    'maxRetryAfterMs', round(extract(epoch from policy.max_retry_after) * 1000)
  ));
end
$$;

-- Every attempt of the requests that were tried more than once.
-- API: public
create unlogged table net.attempts (
  request_id  bigint           not null,
  -- From 1.
  attempt     integer          not null,
  started     timestamptz      not null,
  -- When it had ended and was recorded.
  created     timestamptz      not null default clock_timestamp(),
  -- The worker that made it (net.worker.name).
  worker      text             null,
  status_code integer          null,
  error_code  text             null,
  error_msg   text             null,
  -- Where its time went, in milliseconds.
  dns_ms      double precision null,
  connect_ms  double precision null,
  transfer_ms double precision null,
  total_ms    double precision null,
  -- When it was to be tried again; null: this was the last.
  retry_at    timestamptz      null,
  login_role  oid              null,
  set_role    oid              null,
  primary key (request_id, attempt)
);

create index attempts_created_idx on net.attempts (created);
