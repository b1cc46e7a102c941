-- How many requests a role may have in the queue: an approximate limit, which makes nobody wait for anybody.

-- A role's own row counts, else the largest of the rows of roles whose rights it has, else the row for every role, else
-- there is no limit.
-- API: public
create table net.queue_limit (
  -- Null: every role, each for itself.
  role     regrole null,
  -- Requests that wait or are being sent.
  requests bigint  not null,
  constraint queue_limit_requests_is_not_negative check (requests >= 0)
);

create unique index queue_limit_role_key on net.queue_limit ((coalesce(role::oid, 0)));
alter table net.queue_limit replica identity full;

create trigger close_gate
  before insert or update or delete or truncate on net.queue_limit
  for each statement execute function net._close_gate();
alter table net.queue_limit enable always trigger close_gate;

-- What was counted: for whoever enqueues next, so that not everybody has to count. Never updated, and without a unique key,
-- so that no transaction waits for another; what others have not committed is not seen, and then counted once more.
-- API: private
create unlogged table net.queue_count (
  role       oid         not null,
  -- The limit that it was compared with.
  requests   bigint      not null,
  counted_at timestamptz not null,
  -- The role may enqueue without being counted while ids are below this, ...
  below_id   bigint      not null,
  -- ... and until then.
  until      timestamptz not null
);

create index queue_count_newest_idx on net.queue_count (role, counted_at);

-- Raises where the role has as many requests in the queue as it may have. Counts now and then: since a count the queue
-- has grown by no more than ids were given out. So a limit is exceeded by a hundredth, and by what others enqueue who have
-- not committed. Where the queue is large, whosesoever, a count also holds for 3 ms for each MiB, which is several times what
-- it took.
-- API: private
create function net._check_queue_limit(requester oid)
  returns void
  language plpgsql
  volatile
  parallel unsafe
  set search_path = pg_catalog, pg_temp
  -- Whoever enqueues takes no other processes for it.
  set max_parallel_workers_per_gather = 0
as $$
declare
  allowed  bigint;
  queued   bigint;
  last_id  bigint;
  newest   net.queue_count;
begin
  select l.requests into allowed
  from net.queue_limit l
  where net._concerns(l.role, requester)
  order by coalesce(l.role = requester, false) desc, l.role is null, l.requests desc
  limit 1;
  if not found then
    return;
  end if;
  last_id := coalesce(pg_sequence_last_value('net.http_request_queue_id_seq'), 0);
  select * into newest from net.queue_count c where c.role = requester order by c.counted_at desc limit 1;
  if newest.requests = allowed and (last_id < newest.below_id or clock_timestamp() < newest.until) then
    return;
  end if;

  select count(*) into queued
  from (
    select from net.http_request_queue q where coalesce(q.set_role, q.login_role) = requester limit allowed
  ) counted;
  if queued >= allowed then
    raise exception 'role "%" has too many requests in the queue', pg_get_userbyid(requester)
      using errcode = 'configuration_limit_exceeded',
            detail  = format('At most %s may wait or be sent at a time (net.queue_limit).', allowed),
            hint    = format(
                        'Try again when some are done, or ask "%s", who owns the schema net, for a higher limit.',
                        net._owner_name()
                      );
  end if;
  insert into net.queue_count (role, requests, counted_at, below_id, until)
  select
    requester, allowed, t.now, last_id + greatest(allowed - queued, allowed / 100),
    t.now + interval '3 milliseconds' * greatest(pg_relation_size('net.http_request_queue') / 1048576 - 4, 0)
  from clock_timestamp() t (now);
  -- What this replaces, and what was counted beside it; no more, because rows that cannot be vacuumed yet are gone over each
  -- time. In other isolation levels deleting what somebody else has deleted is an error.
  if newest.role is not null and current_setting('transaction_isolation') = 'read committed' then
    delete from net.queue_count d
    where d.ctid = any (array(
      select c.ctid
      from net.queue_count c
      where c.role = requester and c.counted_at between newest.counted_at - interval '1 second' and newest.counted_at
      for update skip locked
    ));
  end if;
end
$$;

-- Raises for what the role may not send, or not now. To be asked where the gate is closed.
-- API: private
create function net._check_standing(requester oid, method text, url text)
  returns void
  language plpgsql
  volatile
  parallel unsafe
  set search_path = pg_catalog, pg_temp
as $$
begin
  perform net._check_policy(requester, method, url);
  perform net._check_queue_limit(requester);
end
$$;

-- Whether any role's requests are bound to hosts; the workers ask when they start, also after each change. Opens the gate
-- where both tables are empty for everybody: nobody is writing to them (the lock), and this transaction has written nothing
-- that could be rolled back. Closes it where rows came past the triggers.
-- API: private
create function net._has_policies()
  returns boolean
  language plpgsql
  volatile
  parallel unsafe
  security definer
  set search_path = pg_catalog, pg_temp
as $$
begin
  if exists (select from net.policy) or exists (select from net.queue_limit) then
    if net._is_open() then
      perform setval('net.gate', 1);
    end if;
  elsif not net._is_open()
    and pg_current_xact_id_if_assigned() is null
    and current_setting('transaction_isolation') = 'read committed'
  then
    begin
      lock table net.policy, net.queue_limit in share mode nowait;
      if not exists (select from net.policy) and not exists (select from net.queue_limit) then
        perform setval('net.gate', 1, false);
      end if;
    exception
      when lock_not_available then
        null;
    end;
  end if;
  return exists (select from net.policy);
end
$$;
