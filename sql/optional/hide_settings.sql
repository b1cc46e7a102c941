-- Puts the rule of pg_settings back as PostgreSQL made it (see show_settings.sql): by CREATE VIEW, because CREATE RULE
-- writes the same query down differently. Rights and the view's other rules stay.
do $hide$
begin
  set local allow_system_table_mods = on;
  create or replace view pg_catalog.pg_settings as
    select * from pg_catalog.pg_show_all_settings() as a;
end
$hide$;
