-- How fast requests go to a host or under a key, how many at a time, and whether they pause while it fails: in sum over all
-- workers. Who is over a limit waits in the queue.

-- Whether a row of net.limits says what can be obeyed. Raises, because a check constraint alone says nothing of what to write.
-- API: private
create function net._is_limit(host text, key text, requests_per_second double precision, concurrency integer)
  returns boolean
  language plpgsql
  immutable
  parallel unsafe
  set search_path = pg_catalog, pg_temp
as $$
begin
  if num_nonnulls(host, key) <> 1 then
    raise exception 'a row of net.limits has a host or a key, and not both'
      using errcode    = 'check_violation',
            schema     = 'net',
            table      = 'limits',
            constraint = 'limits_can_be_obeyed',
            hint       = 'Give the host that requests go to, or the limit_key that they are made with.';
  elsif host is not null and not net._is_host_pattern(host) then
    raise exception 'invalid host in net.limits: "%"', host
      using errcode    = 'check_violation',
            schema     = 'net',
            table      = 'limits',
            constraint = 'limits_can_be_obeyed',
            detail     = 'It is no host, or not in the one spelling in which hosts are compared.',
            hint       = 'Give a name (api.example.com), all names below one (*.example.com), one address (10.1.2.3, 2001:db8::1) '
                         'or * for every host; in lower case, without scheme, port and path, beyond ASCII in Punycode.';
  elsif key = '' or length(key) > 255 or strpos(left(key, -1), '*') > 0 then
    raise exception 'invalid key in net.limits: "%"', left(key, 255)
      using errcode    = 'check_violation',
            schema     = 'net',
            table      = 'limits',
            constraint = 'limits_can_be_obeyed',
            hint       = 'Give one key (tenant-42), or what keys begin with and a * (tenant-*); at most 255 characters.';
  elsif not coalesce(requests_per_second between 0.00001 and 1000000, true) then
    raise exception 'invalid requests_per_second in net.limits: %', requests_per_second
      using errcode    = 'check_violation',
            schema     = 'net',
            table      = 'limits',
            constraint = 'limits_can_be_obeyed',
            hint       = 'Give a number from 0.00001 (about one a day) to 1000000, or NULL for no such limit.';
  elsif not coalesce(concurrency between 1 and 1000000, true) then
    raise exception 'invalid concurrency in net.limits: %', concurrency
      using errcode    = 'check_violation',
            schema     = 'net',
            table      = 'limits',
            constraint = 'limits_can_be_obeyed',
            hint       = 'Give a number from 1 to 1000000, or NULL for no such limit.';
  end if;
  return true;
end
$$;

-- Each host obeys the row that matches it most closely, and is counted by itself; so does each limit_key. A request with a
-- limit_key obeys both. A row that limits nothing exempts those that it matches.
-- API: public
create table net.limits (
  -- A name (api.example.com), all names below one (*.example.com), an address, or * for all; in its canonical spelling.
  host                text             null,
  -- A limit_key of net.request, or what such keys begin with and a *.
  key                 text             null,
  requests_per_second double precision null,
  -- Requests at a time.
  concurrency         integer          null,
  -- Whether requests pause while most of them fail; see net.breakers.
  breaker             boolean          not null default false,
  constraint limits_can_be_obeyed check (net._is_limit(host, key, requests_per_second, concurrency))
);

create unique index limits_host_key on net.limits (host) where host is not null;
create unique index limits_key_key on net.limits (key) where key is not null;
-- Where every table is published, one without a key could not be deleted from.
alter table net.limits replica identity full;

-- The workers are asked to read the limits anew at commit.
-- API: private
create function net._limits_changed()
  returns trigger
  language plpgsql
  volatile
  parallel unsafe
  security definer
  set search_path = pg_catalog, pg_temp
as $$
begin
  perform nextval('net.worker_restart_seq');
  perform pg_notify('net_restart', '');
  return null;
end
$$;

create trigger tell_workers
  after insert or update or delete or truncate on net.limits
  for each statement execute function net._limits_changed();
alter table net.limits enable always trigger tell_workers;

-- What the worker is told: JSON, or null where there are no limits.
-- API: private
create function net._limits()
  returns text
  language sql
  stable
  parallel safe
  set search_path = pg_catalog, pg_temp
as $$
  select jsonb_agg(l order by l.host, l.key)::text from net.limits l
$$;

-- What is counted of a host or a key. Unlogged: a crash of the server begins anew.
-- API: private
create unlogged table net.limit_state (
  -- 'host api.example.com', 'key tenant-42'.
  meter    text        primary key,
  -- When the next request is due; null: none has been sent.
  next_at  timestamptz null,
  -- Its breaker (src/core/breaker.ts): 'closed', 'open' or 'half_open', since when; when the next probe may be sent; how often it
  -- has opened in a row; and what became of requests lately, as [[slot, failures, total], ...].
  state    text        not null default 'closed',
  since    timestamptz null,
  retry_at timestamptz null,
  openings integer     not null default 0,
  tallies  jsonb       null,
  used_at  timestamptz not null default clock_timestamp()
) with (fillfactor = 50);

-- How many requests of a host or a key each worker may have under way at a time, and how many it would like to.
-- API: private
create unlogged table net.limit_holders (
  meter     text        not null,
  -- net.worker.id
  worker_id bigint      not null,
  held      integer     not null,
  wants     integer     not null,
  asked_at  timestamptz not null,
  primary key (meter, worker_id)
) with (fillfactor = 50);

-- Locks what is counted of these, in an order that all keep, so that nobody waits for each other.
-- API: private
create function net._lock_meters(meters text[])
  returns void
  language plpgsql
  volatile
  parallel unsafe
  set search_path = pg_catalog, pg_temp
as $$
begin
  insert into net.limit_state (meter)
  select distinct m.meter
  from unnest(meters) m (meter)
  where not exists (select from net.limit_state s where s.meter = m.meter)
  order by m.meter
  on conflict do nothing;
  perform from net.limit_state s where s.meter = any (meters) order by s.meter for update;
end
$$;

-- How many of the requests that are wanted may be sent now, of each host, each key, or each pair of them (a null stands for
-- what has no rate), and in how many milliseconds to ask for more. The generic cell rate algorithm: each request moves the time
-- at which the next one is due by 1 / rate. What was due up to 45 ms ago may be sent at once; what was due before has lapsed. So
-- whoever asks more often than that gets all that there is, and no second has more than 4.5 % (and one request) too many.
-- API: private
create function net._take_tokens(hosts text[], host_rates double precision[], keys text[], key_rates double precision[], wanted integer[])
  returns table (place integer, granted integer, wait_ms double precision)
  language plpgsql
  volatile
  parallel unsafe
  set search_path = pg_catalog, pg_temp
as $$
declare
  now       timestamptz;
  tolerance interval := interval '45 milliseconds';
begin
  perform net._lock_meters(array_remove(hosts || keys, null));
  now := clock_timestamp();
  for i in 1 .. cardinality(wanted) loop
    select least(greatest(min(floor(extract(epoch from now - d.due) * d.rate) + 1), 0), wanted[i])
    into granted
    from (
      -- Never further ahead than one request: the rate may have been lower, or the clock put back.
      select r.rate, least(greatest(s.next_at, now - tolerance), now + interval '1 second' / r.rate) as due
      from (values (hosts[i], host_rates[i]), (keys[i], key_rates[i])) r (meter, rate)
      join net.limit_state s on s.meter = r.meter
    ) d;
    granted := coalesce(granted, 0);
    with moved as (
      update net.limit_state s
      set next_at = least(greatest(s.next_at, now - tolerance), now + interval '1 second' / r.rate)
            + interval '1 second' * (granted / r.rate),
          used_at = now
      from (values (hosts[i], host_rates[i]), (keys[i], key_rates[i])) r (meter, rate)
      where s.meter = r.meter
      returning s.next_at
    )
    select coalesce(greatest(extract(epoch from max(m.next_at) - now) * 1000, 0), 0) into wait_ms from moved m;
    place := i;
    return next;
  end loop;
end
$$;

-- How many requests at a time of each of these hosts or keys the worker may have under way (`allowed`), of which it has `in_use`
-- already and would like to have `wants`. In sum no more than the limit are given out, and evenly to those who want more. Where there are
-- more of them than that, it goes round by seconds, so that each has its turns. `contended`: others wait.
-- What a worker holds whose lease is over does not count.
-- API: private
create function net._hold_permits(worker bigint, meters text[], limits integer[], in_use integer[], wants integer[])
  returns table (place integer, allowed integer, contended boolean)
  language plpgsql
  volatile
  parallel unsafe
  set search_path = pg_catalog, pg_temp
as $$
declare
  now timestamptz;
begin
  perform net._lock_meters(meters);
  now := clock_timestamp();
  for i in 1 .. cardinality(meters) loop
    delete from net.limit_holders h
    where h.meter = meters[i] and not exists (select from net.worker w where w.id = h.worker_id);

    with holder as (
      select h.worker_id, h.held,
        -- One that has not asked for long waits no more.
        case when h.asked_at > now - interval '5 seconds' then h.wants else least(h.wants, h.held) end as wants
      from net.limit_holders h
      join net.worker w on w.id = h.worker_id and w.lease_until > now
      where h.meter = meters[i] and h.worker_id <> worker
      union all
      select worker, in_use[i], wants[i]
    ),
    wanting as (
      select h.worker_id,
        limits[i] / n.count
          + case when (row_number() over (order by h.worker_id) + n.turn) % n.count < limits[i] % n.count then 1 else 0 end as share
      from holder h
      cross join (
        select count(*) as count, case when count(*) > limits[i] then floor(extract(epoch from now))::bigint else 0 end as turn
        from holder w
        where w.wants > 0
      ) n
      where h.wants > 0
    ),
    shared as (
      select h.worker_id, h.held, h.wants, coalesce(w.share, 0) as share
      from holder h
      left join wanting w on w.worker_id = h.worker_id
    )
    select
      greatest(least(
        max(s.wants) filter (where s.worker_id = worker),
        limits[i] - coalesce(sum(s.held) filter (where s.worker_id <> worker), 0),
        greatest(
          max(s.share) filter (where s.worker_id = worker),
          limits[i] - coalesce(sum(greatest(s.held, least(s.wants, s.share))) filter (where s.worker_id <> worker), 0)
        )
      ), 0),
      coalesce(bool_or(s.wants > s.held) filter (where s.worker_id <> worker), false)
    into allowed, contended
    from shared s;

    if greatest(allowed, in_use[i], wants[i]) = 0 then
      delete from net.limit_holders h where h.meter = meters[i] and h.worker_id = worker;
    else
      insert into net.limit_holders as h (meter, worker_id, held, wants, asked_at)
      values (meters[i], worker, greatest(allowed, in_use[i]), wants[i], now)
      on conflict on constraint limit_holders_pkey do update
      set held = excluded.held, wants = excluded.wants, asked_at = excluded.asked_at;
    end if;
    update net.limit_state s set used_at = now where s.meter = meters[i];
    place := i;
    return next;
  end loop;
end
$$;

-- The hosts and keys that have a breaker, once requests went there. `closed`: requests are sent. `open`: they wait until
-- `retry_at`; then one of them is sent as a probe, whose outcome decides (`half_open` meanwhile).
-- API: public
create view net.breakers as
  select
    case when s.meter like 'host %' then pg_catalog.substr(s.meter, 6) end as host,
    case when s.meter like 'key %' then pg_catalog.substr(s.meter, 5) end as key,
    s.state,
    s.since,
    case when s.state <> 'closed' then s.retry_at end as retry_at,
    -- Of the last minute before it opened, or as it was last told.
    coalesce((select pg_catalog.sum((t.value ->> 1)::integer) from pg_catalog.jsonb_array_elements(s.tallies) t), 0)::integer as failures,
    coalesce((select pg_catalog.sum((t.value ->> 2)::integer) from pg_catalog.jsonb_array_elements(s.tallies) t), 0)::integer as total
  from net.limit_state s
  where s.tallies is not null;
comment on view net.breakers is 'The breakers of hosts and keys, and whether requests are sent or wait';

-- Closes the breaker of a host or a key at once, and forgets what has failed. Returns whether it was open.
-- API: public
create function net.reset_breaker(host text default null, key text default null)
  returns boolean
  language plpgsql
  volatile
  parallel unsafe
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  subject  text := case when host is not null then 'host ' || host else 'key ' || key end;
  was_open boolean;
begin
  if num_nonnulls(host, key) <> 1 then
    raise exception 'reset_breaker takes a host or a key'
      using errcode = 'invalid_parameter_value',
            hint    = 'Write net.reset_breaker(''api.example.com'') or net.reset_breaker(key => ''tenant-42'').';
  end if;
  select s.state <> 'closed' into was_open from net.limit_state s where s.meter = subject for update;
  update net.limit_state s
  set state = 'closed', since = clock_timestamp(), retry_at = null, openings = 0, tallies = '[]'
  where s.meter = subject and s.tallies is not null;
  perform pg_notify('net_breakers', '');
  return coalesce(was_open, false);
end
$$;
