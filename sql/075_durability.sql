-- Unlogged tables, as documented, are fast and come back empty after a crash of the server. Durable ones do not.

-- Makes the queue and the responses survive a crash of the server, or no longer. Rewrites both tables under an exclusive
-- lock; for the owner of the schema. Where everything is published (CREATE PUBLICATION ... FOR ALL TABLES) a table without a
-- primary key could not be deleted from: its rows are then identified by all of their columns.
-- API: public
create function net.set_durable(durable boolean)
  returns void
  language plpgsql
  strict
  volatile
  parallel unsafe
  set search_path = pg_catalog, pg_temp
as $$
begin
  if durable then
    alter table net.http_request_queue set logged;
    alter table net._http_response set logged;
    alter table net.attempts set logged;
    alter table net.kept_requests set logged;
    alter table net.idempotency_keys set logged;
    alter table net.callbacks set logged;
    alter table net._http_response replica identity full;
  else
    alter table net.http_request_queue set unlogged;
    alter table net._http_response set unlogged;
    alter table net.attempts set unlogged;
    alter table net.kept_requests set unlogged;
    alter table net.idempotency_keys set unlogged;
    alter table net.callbacks set unlogged;
    alter table net._http_response replica identity default;
  end if;
end
$$;
