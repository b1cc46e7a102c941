-- Who may do what. The functions are enough to use pgfetch: nobody else needs rights on the tables.
--
-- The documented functions are SECURITY DEFINER, and in one PostgreSQL tells the login and the role that was SET, not a
-- function that called it: those two are recorded, and a role with the rights of either sees the request, without its
-- headers and body. The owner of the schema and net_admin see everything.

revoke all on schema net from public;
revoke execute on all functions in schema net from public;

grant usage on schema net to public;

grant execute on function
  net.http_get(text, jsonb, jsonb, integer),
  net.http_post(text, jsonb, jsonb, jsonb, integer),
  net.http_delete(text, jsonb, jsonb, integer),
  net.wake(),
  net.worker_restart(),
  net.wait_until_running(),
  net.check_worker_is_up(),
  net._refuse_endless_wait(),
  net._urlencode_string(varchar),
  net._encode_url_with_params_array(text, text[]),
  net._settings_for(oid),
  net._is_own_transactions(bigint),
  net._request_state(bigint),
  net._await_response(bigint),
  net._last_running_xid(),
  net._others_have_ended(bigint),
  net._http_collect_response(bigint, boolean),
  net.http_collect_response(bigint, boolean)
to public;

grant select on net.settings to public;
grant select on net.installation, net.pause to public;
grant select on net._http_response to public;
grant select (id, method, url, timeout_milliseconds, claimed_by, due_at, created, login_role, set_role)
  on net.http_request_queue to public;

alter table net.http_request_queue enable row level security;
alter table net._http_response enable row level security;

create policy own_requests on net.http_request_queue for select to public
  using (pg_catalog.pg_has_role(login_role, 'USAGE') or pg_catalog.pg_has_role(set_role, 'USAGE'));
create policy own_responses on net._http_response for select to public
  using (pg_catalog.pg_has_role(login_role, 'USAGE') or pg_catalog.pg_has_role(set_role, 'USAGE'));

-- The roles are missing where the installer may not create them; everything then belongs to the schema's owner alone.
do $$
begin
  if exists (select from pg_catalog.pg_roles where rolname = 'net_admin') then
    grant select on net.http_request_queue, net._http_response, net.worker to net_admin;
    grant execute on function net.set_paused(boolean) to net_admin;
    create policy every_request on net.http_request_queue for select to net_admin using (true);
    create policy every_response on net._http_response for select to net_admin using (true);
  end if;

  if exists (select from pg_catalog.pg_roles where rolname = 'net_worker') then
    grant select, update (claimed_by, due_at), delete on net.http_request_queue to net_worker;
    -- UPDATE of one column, because expiry locks the rows it is about to delete (FOR UPDATE SKIP LOCKED asks for it).
    grant select, insert, update (created), delete on net._http_response to net_worker;
    grant select, insert, update, delete on net.worker to net_worker;
    grant usage, select on sequence net.worker_id_seq to net_worker;
    grant select, update on sequence net.wake_promise to net_worker;
    grant select on sequence net.worker_restart_seq, net.http_request_queue_id_seq to net_worker;
    grant execute on function net._session_lives(integer, timestamptz, timestamptz), net._interval_or_null(text),
      net._bytes_or_null(text), net._is_readable(text, text, jsonb), net._unstorable(bytea[]) to net_worker;
    create policy worker_requests on net.http_request_queue to net_worker using (true) with check (true);
    create policy worker_responses on net._http_response to net_worker using (true) with check (true);
  end if;
end
$$;
