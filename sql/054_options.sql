-- What net.request can be asked for beyond a request: see its arguments.

-- API: private
create type net._options as (
  max_attempts    integer,
  retry_policy    text,
  run_at          timestamptz,
  delay           interval,
  idempotency_key text,
  ordering_key    text,
  if_failed       text,
  priority        integer,
  limit_key       text,
  on_success      regproc,
  on_error        regproc,
  keep            text,
  label           text
);

-- When the request is to be sent; null: now.
-- API: private
create function net._checked_due_at(run_at timestamptz, delay interval)
  returns timestamptz
  language plpgsql
  volatile
  parallel unsafe
  set search_path = pg_catalog, pg_temp
as $$
declare
  due_at timestamptz := coalesce(run_at, clock_timestamp() + delay);
begin
  if num_nonnulls(run_at, delay) > 1 then
    raise exception 'run_at and delay are both given'
      using errcode = 'invalid_parameter_value',
            hint    = 'Give one of them.';
  elsif not isfinite(due_at) then
    raise exception '% must be finite', case when run_at is null then 'delay' else 'run_at' end
      using errcode = 'invalid_parameter_value',
            hint    = 'Give a time, or leave it out to send the request now.';
  end if;
  return case when due_at > clock_timestamp() then due_at end;
end
$$;

-- Raises for options that make no sense by themselves or together.
-- API: private
create function net._check_options(options net._options)
  returns void
  language plpgsql
  stable
  parallel unsafe
  set search_path = pg_catalog, pg_temp
as $$
begin
  if options.ordering_key is not null and num_nonnulls(options.run_at, options.delay) > 0 then
    raise exception 'ordering_key does not go with run_at or delay'
      using errcode = 'invalid_parameter_value',
            detail  = 'Requests with the same key are sent in the order in which they were made.',
            hint    = 'Leave one of the two out.';
  elsif options.ordering_key is not null and options.priority is not null then
    raise exception 'ordering_key does not go with priority'
      using errcode = 'invalid_parameter_value',
            detail  = 'Requests with the same key are sent in the order in which they were made.',
            hint    = 'Leave one of the two out.';
  elsif options.ordering_key is null and options.if_failed is not null then
    raise exception 'if_failed makes no sense without ordering_key'
      using errcode = 'invalid_parameter_value',
            hint    = 'It says what becomes of the requests with the same ordering_key that follow one that failed.';
  elsif options.if_failed not in ('skip', 'block') then
    raise exception 'if_failed is %: it must be skip or block', to_json(left(options.if_failed, 100))
      using errcode = 'invalid_parameter_value',
            hint    = 'skip: those that follow are sent; block: they wait until the one that failed is redelivered or cancelled.';
  elsif options.priority not between 0 and 9 then
    raise exception 'priority is %: it must be between 0 and 9', options.priority
      using errcode = 'invalid_parameter_value',
            hint    = '0 is that of every other request; 9 goes first.';
  elsif options.keep not in ('full', 'status', 'none') then
    raise exception 'keep is %: it must be full, status or none', to_json(left(options.keep, 100))
      using errcode = 'invalid_parameter_value',
            hint    = 'status: the response without headers and body; none: no response at all.';
  elsif options.keep = 'none' and num_nonnulls(options.on_success, options.on_error) > 0 then
    raise exception 'keep = none does not go with on_success or on_error'
      using errcode = 'invalid_parameter_value',
            detail  = 'They are called with the response that is kept.',
            hint    = 'Give keep := ''status'', or leave keep out.';
  elsif options.keep = 'none' and options.if_failed = 'block' then
    raise exception 'keep = none does not go with if_failed = block'
      using errcode = 'invalid_parameter_value',
            detail  = 'Of a request that holds up others the response says why.',
            hint    = 'Give keep := ''status'', or leave keep out.';
  end if;
  perform net._check_name(n.argument, n.value, n.length_max)
  from (
    values
      ('ordering_key', options.ordering_key, 255),
      ('limit_key', options.limit_key, 255),
      ('label', options.label, 255)
  ) n (argument, value, length_max);
end
$$;

-- Raises for what is empty, too long, or holds control characters, which would spoil whatever prints it.
-- API: private
create function net._check_name(argument text, value text, length_max integer)
  returns void
  language plpgsql
  immutable
  parallel safe
  set search_path = pg_catalog, pg_temp
as $$
begin
  if char_length(value) not between 1 and length_max or value collate "C" ~ '[\x01-\x1f\x7f]' then
    raise exception '% must have 1 to % characters and no control characters', argument, length_max
      using errcode = 'invalid_parameter_value',
            hint    = 'Give something short that people can read, or leave it out.';
  end if;
  -- The worker is told in UTF-8: what cannot be converted is refused here.
  perform convert_to(value, 'UTF8');
end
$$;
