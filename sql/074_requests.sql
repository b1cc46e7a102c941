-- One view over everything: what waits, what is being sent, what became of the rest.

-- One row for each request, as long as any of it is there: in the queue, its response (pg_net.ttl), or the copy that is kept for
-- redelivery (pg_net.keep_requests_ttl). It shows what the policies of these tables show: a role its own requests, net_admin and
-- the owner of the schema all.
--
-- The queue is read once for each of the states that its rows may have, so that each has its state as a constant: where others
-- are asked for, the planner leaves the queue out. One that failed and holds up its ordering key stays in the queue, due at
-- infinity, and has a response, too; while it is sent again, that response is the old one.
-- API: public
create view net.requests with (security_barrier) as
  select
    a.id,
    -- scheduled, waiting, sending, retrying, succeeded, failed, dead or cancelled
    a.state,
    a.method,
    a.url,
    -- The host and port that it asks.
    a.host,
    a.label,
    -- Who asked: the role that was SET, or the login. Null where that role is no more, and for a direct INSERT.
    (select r.rolname from pg_catalog.pg_roles r where r.oid = coalesce(a.set_role, a.login_role)) as role,
    -- Those that have ended.
    a.attempts,
    a.status_code,
    a.error_code,
    -- When it was made. Null where only the response is left.
    a.created,
    -- When it is to be sent (again).
    a.due_at,
    -- When its response was recorded.
    a.finished,
    a.ordering_key,
    -- The request that it sends again (net.redeliver).
    a.redelivery_of
  from (
    select
      q.id, 'waiting', q.method, q.url,
      pg_catalog.substring(q.url, '^[^/]*//(?:[^/?#]*@)?([^/?#]*)'),
      q.label, q.login_role, q.set_role, 0, null::integer, null::text, q.created, null::timestamptz, null::timestamptz,
      q.ordering_key, q.redelivery_of
    from net.http_request_queue q
    where q.claimed_by is null and q.attempts is null
      and (q.due_at is null or q.due_at <= pg_catalog.statement_timestamp())
    union all
    select
      q.id, 'scheduled', q.method, q.url,
      pg_catalog.substring(q.url, '^[^/]*//(?:[^/?#]*@)?([^/?#]*)'),
      q.label, q.login_role, q.set_role, 0, null, null, q.created, q.due_at, null, q.ordering_key, q.redelivery_of
    from net.http_request_queue q
    where q.claimed_by is null and q.attempts is null
      and q.due_at > pg_catalog.statement_timestamp() and q.due_at < 'infinity'
    union all
    select
      q.id, 'retrying', q.method, q.url,
      pg_catalog.substring(q.url, '^[^/]*//(?:[^/?#]*@)?([^/?#]*)'),
      q.label, q.login_role, q.set_role, q.attempts, null, null, q.created, q.due_at, null, q.ordering_key, q.redelivery_of
    from net.http_request_queue q
    where q.claimed_by is null and q.attempts is not null and q.due_at < 'infinity'
    union all
    select
      q.id, 'sending', q.method, q.url,
      pg_catalog.substring(q.url, '^[^/]*//(?:[^/?#]*@)?([^/?#]*)'),
      q.label, q.login_role, q.set_role, coalesce(q.attempts, 0), null, null, q.created, null, null,
      q.ordering_key, q.redelivery_of
    from net.http_request_queue q
    where q.claimed_by is not null
    union all
    -- Those that hold up their ordering key.
    select
      q.id,
      case when r.is_dead or k.state = 'dead' then 'dead' else 'failed' end,
      q.method, q.url, coalesce(r.host, k.host), q.label, q.login_role, q.set_role,
      coalesce(r.attempts, k.attempts, 1), coalesce(r.status_code, k.status_code), coalesce(r.error_code, k.error_code),
      q.created, null, coalesce(r.created, k.finished), q.ordering_key, q.redelivery_of
    from net.http_request_queue q
    left join net._http_response r on r.id = q.id
    left join net.kept_requests k on k.id = q.id
    where q.claimed_by is null and q.due_at = 'infinity'
    union all
    select
      r.id,
      case
        when r.is_dead then 'dead'
        when r.status_code < 400 then 'succeeded'
        when r.error_code = 'cancelled' then 'cancelled'
        else 'failed'
      end,
      k.method, k.url, r.host, r.label, r.login_role, r.set_role,
      coalesce(r.attempts, case when r.error_code = 'cancelled' then k.attempts else 1 end),
      r.status_code, r.error_code, k.created, null, r.created, k.ordering_key, k.redelivery_of
    from net._http_response r
    left join net.kept_requests k on k.id = r.id
    where not exists (select from net.http_request_queue q where q.id = r.id and q.ordering_key is not null)
    union all
    select
      k.id, k.state, k.method, k.url, k.host, k.label, k.login_role, k.set_role, k.attempts, k.status_code, k.error_code,
      k.created, null, k.finished, k.ordering_key, k.redelivery_of
    from net.kept_requests k
    where not exists (select from net._http_response r where r.id = k.id)
      and not exists (select from net.http_request_queue q where q.id = k.id and q.ordering_key is not null)
  ) a (
    id, state, method, url, host, label, login_role, set_role, attempts, status_code, error_code, created, due_at, finished,
    ordering_key, redelivery_of
  )
  where not (select pg_catalog.row_security_active('net._http_response'::pg_catalog.regclass))
    or pg_catalog.pg_has_role(a.login_role, 'USAGE')
    or pg_catalog.pg_has_role(a.set_role, 'USAGE')
    -- Exactly whom the policy names: a role of that name may be another.
    or (
      select exists (
        select
        from pg_catalog.pg_policy p
        cross join pg_catalog.unnest(p.polroles) m (oid)
        where p.polrelid = 'net._http_response'::pg_catalog.regclass and p.polname = 'every_response'
          and pg_catalog.pg_has_role(m.oid, 'USAGE')
      )
    );
comment on view net.requests is 'Every request that is still known, in whatever state';
