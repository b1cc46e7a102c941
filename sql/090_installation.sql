-- What was installed where. Last, so that its row means that all the rest is there.

-- The server's identity; null where the server does not tell it to this role.
-- API: private
create function net._system_identifier()
  returns text
  language plpgsql
  volatile
  parallel unsafe
  set search_path = pg_catalog, pg_temp
as $$
begin
  return (select c.system_identifier::text from pg_control_system() c);
exception
  when insufficient_privilege or feature_not_supported or undefined_function then
    return null;
end
$$;

insert into net.installation (schema_version, version, system_identifier, database_oid)
select 1, '0.1.0', net._system_identifier(), d.oid
from pg_catalog.pg_database d
where d.datname = pg_catalog.current_database();
