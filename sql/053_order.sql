-- Order by key: the requests of one role with the same key are sent one after another.

-- Of each key the request that was sent last: while that is in the queue it is its turn, and no other's.
-- API: private
create unlogged table net.ordering_keys (
  requester    oid    not null,
  ordering_key text   not null,
  request_id   bigint not null,
  -- No request of the key with an id up to this one waits, or can still come: where to look for the next one, past what the
  -- finished ones have left in the index. Ids are not in commit order, so it follows one request late, see net._claim_ordered.
  after_id     bigint not null,
  -- Every transaction that had been given a request id up to request_id had a transaction id below this one.
  seen_xid     bigint not null,
  primary key (requester, ordering_key)
) with (fillfactor = 70);

create index http_request_queue_ordering_idx
  on net.http_request_queue ((coalesce(set_role, login_role, 0)), ordering_key, id)
  where ordering_key is not null;

-- What workers lock to claim ordered requests, one after another, each seeing what the one before has claimed. A table of its own:
-- advisory locks any login could hold, and vacuuming net.ordering_keys would wait for us, and we for it. Empty for good.
-- API: private
create table net.ordering_lock ();

-- Claims the next request of each of these keys for a worker, where one waits and is due: at most one a key, and none while
-- another of the key is being sent, is to be tried again, or blocks it. A key of which request `first_id` was seen to be the
-- first is looked through from there; null: from where it is known that there is nothing before.
-- API: private
create function net._claim_ordered(worker_id bigint, requesters oid[], keys text[], first_ids bigint[])
  returns setof net.http_request_queue
  language plpgsql
  volatile
  parallel unsafe
  set search_path = pg_catalog, pg_temp
as $$
declare
  ended_xid bigint;
  head_ids  bigint[];
begin
  lock table net.ordering_lock in share row exclusive mode;
  -- From here on each statement sees what every worker before us has claimed. Transactions below this one have ended, and the
  -- next statement sees all that they wrote.
  ended_xid := pg_snapshot_xmin(pg_current_snapshot())::text::bigint;
  select array(
    select coalesce(
      -- Whose turn it is, it keeps, whatever else has come meanwhile.
      (select q.id from net.http_request_queue q where q.id = k.request_id),
      (
        select q.id
        from net.http_request_queue q
        where coalesce(q.set_role, q.login_role, 0) = g.requester
          and q.ordering_key = g.ordering_key
          and q.id > coalesce(least(k.after_id, g.first_id - 1), 0)
        order by q.id
        limit 1
      )
    )
    from unnest(requesters, keys, first_ids) g (requester, ordering_key, first_id)
    left join net.ordering_keys k on k.requester = g.requester and k.ordering_key = g.ordering_key
  ) into head_ids;
  if array_remove(head_ids, null) = '{}' then
    return;
  end if;
  -- One that a user has locked holds up its key: the next one must not go before it.
  select array(
    select q.id
    from net.http_request_queue q
    where q.id = any (head_ids)
      and q.claimed_by is null
      and (q.due_at is null or q.due_at <= statement_timestamp())
    for update skip locked
  ) into head_ids;
  if head_ids = '{}' then
    return;
  end if;
  -- The fence: whoever was declared dead, or goes on over another session, claims nothing.
  perform
  from net.worker w
  where w.id = worker_id
    and w.lease_until > clock_timestamp()
    and (w.pid is null or w.pid = pg_backend_pid())
  for key share;
  if not found then
    return;
  end if;
  return query
    with claimed as (
      update net.http_request_queue q
      set claimed_by = worker_id
      where q.id = any (head_ids)
      returning q.*
    ),
    turns as (
      -- Our transaction's id was taken after these requests were seen. Who has an id below one of theirs had it, and before it
      -- one of a transaction, before that.
      insert into net.ordering_keys as k (requester, ordering_key, request_id, after_id, seen_xid)
      select
        coalesce(c.set_role, c.login_role, 0), c.ordering_key, c.id, 0, pg_current_xact_id()::text::bigint
      from claimed c
      on conflict on constraint ordering_keys_pkey do update
      set
        request_id = excluded.request_id,
        -- The one before is gone, all that could come before it has come, and this is the first that is left.
        after_id = case
          when k.seen_xid <= ended_xid and k.request_id <> excluded.request_id
          then greatest(k.after_id, least(k.request_id, excluded.request_id - 1))
          else k.after_id
        end,
        seen_xid = excluded.seen_xid
    )
    select c.* from claimed c;
end
$$;

-- Forgets which of these keys have nothing in the queue, of the next `keys_max` after the given one. Returns the last one that was
-- looked at; none: that was the end.
-- API: private
create function net._forget_ordering_keys(after_requester oid, after_key text, keys_max integer)
  returns table (requester oid, ordering_key text)
  language plpgsql
  volatile
  parallel unsafe
  set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
begin
  lock table net.ordering_lock in share row exclusive mode;
  return query
    with looked as materialized (
      select k.requester, k.ordering_key, k.after_id, row_number() over (order by k.requester, k.ordering_key) as place
      from net.ordering_keys k
      where (k.requester, k.ordering_key) > (after_requester, after_key)
      order by k.requester, k.ordering_key
      limit keys_max
    ),
    forgotten as (
      delete from net.ordering_keys k
      using looked l
      where k.requester = l.requester
        and k.ordering_key = l.ordering_key
        and not exists (
          select
          from net.http_request_queue q
          where coalesce(q.set_role, q.login_role, 0) = l.requester
            and q.ordering_key = l.ordering_key
            and q.id > l.after_id
        )
    )
    select l.requester, l.ordering_key from looked l where l.place = keys_max;
end
$$;

-- Sends a request again that has failed and blocks its key; false where it is none. Its response makes room for the next, and so do
-- its attempts and a call that is still to be made with that response (or has failed): both go by the request's id. For the owner:
-- whoever calls it checks whose request that is.
-- API: private
create function net._retry_blocked(request_id bigint)
  returns boolean
  language plpgsql
  volatile
  parallel unsafe
  set search_path = pg_catalog, pg_temp
as $$
begin
  update net.http_request_queue q
  set due_at = clock_timestamp(), attempts = null, first_sent_at = null, cancel_asked = null
  where q.id = request_id
    and q.claimed_by is null
    and q.due_at = 'infinity'
    and q.ordering_key is not null;
  if not found then
    return false;
  end if;
  delete from net.callbacks c where c.request_id = $1;
  delete from net.attempts a where a.request_id = $1;
  delete from net._http_response r where r.id = $1;
  perform net._wake();
  return true;
end
$$;
