-- Puts the rule of pg_settings back as PostgreSQL made it (see show_settings.sql).
do $hide$
begin
  set local allow_system_table_mods = on;
  create or replace rule "_RETURN" as on select to pg_catalog.pg_settings do instead
    select a.* from pg_catalog.pg_show_all_settings() a;
end
$hide$;
