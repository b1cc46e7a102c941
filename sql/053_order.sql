-- Order by key: the requests of one role with the same key are sent one after another.

-- Of each key the request that was sent last: while that is claimed, no other is.
-- API: private
create unlogged table net.ordering_keys (
  requester    oid    not null,
  ordering_key text   not null,
  request_id   bigint not null,
  primary key (requester, ordering_key)
) with (fillfactor = 70);

create index http_request_queue_ordering_idx
  on net.http_request_queue ((coalesce(set_role, login_role, 0)), ordering_key, id)
  where ordering_key is not null;
