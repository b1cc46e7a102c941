-- Objects of an attacker's own, named like PostgreSQL's that our SQL uses and like ours: whoever is led to one of them raises.
create function evil.hijacked() returns pg_catalog.int4 language plpgsql as $$ begin raise exception 'hijacked as %', current_user; end $$;

do $$
declare
  f record;
begin
  -- Every function of pg_catalog that takes plain arguments and that a qualified or pinned statement might mean.
  for f in
    select p.oid, p.proname, pg_get_function_identity_arguments(p.oid) as arguments, pg_get_function_result(p.oid) as result
    from pg_proc p
    where p.pronamespace = 'pg_catalog'::regnamespace
      and p.prokind = 'f'
      and p.provariadic = 0
      and p.proname in (
        'lower', 'upper', 'split_part', 'substr', 'strpos', 'left', 'length', 'octet_length', 'replace', 'format',
        'regexp_replace', 'convert_to', 'convert_from', 'encode', 'to_json', 'quote_ident', 'cardinality', 'array_to_string',
        'current_setting', 'set_config', 'pg_notify', 'nextval', 'setval', 'clock_timestamp', 'statement_timestamp', 'now',
        'pg_current_xact_id', 'pg_snapshot_xmin', 'pg_snapshot_xmax', 'pg_current_snapshot', 'pg_has_role', 'to_regrole',
        'to_regclass', 'to_timestamp', 'pg_backend_pid', 'jsonb_typeof', 'jsonb_each_text', 'jsonb_each', 'unnest',
        'jsonb_array_elements', 'pg_sequence_last_value', 'pg_reload_conf', 'version', 'isfinite', 'row_security_active',
        'has_table_privilege', 'has_function_privilege', 'has_schema_privilege', 'pg_is_in_recovery', 'pg_control_system',
        'current_database', 'shobj_description', 'pg_xact_status', 'pg_sleep', 'right', 'host', 'to_hex', 'gen_random_uuid',
        'jsonb_object_keys', 'jsonb_array_elements_text', 'pg_get_userbyid', 'pg_relation_size', 'string_to_array',
        'pg_current_xact_id_if_assigned', 'array_position', 'substring'
      )
      and pg_get_function_identity_arguments(p.oid) not like '%OUT%'
      and pg_get_function_identity_arguments(p.oid) not like '%any%'
      and pg_get_function_identity_arguments(p.oid) not like '%internal%'
      and pg_get_function_result(p.oid) not like '%any%'
      and pg_get_function_result(p.oid) not like '%internal%'
  loop
    execute format(
      'create function evil.%I(%s) returns %s language plpgsql as %L',
      f.proname, f.arguments, f.result,
      case when f.result ~ '^(SETOF|TABLE|void)' then 'begin perform evil.hijacked(); return; end'
           else 'begin perform evil.hijacked(); return null; end' end
    );
  end loop;

  -- Every operator between the types that our statements compare and join.
  for f in
    select o.oid, o.oprname, format_type(o.oprleft, null) as l, format_type(o.oprright, null) as r, format_type(o.oprresult, null) as result
    from pg_operator o
    where o.oprnamespace = 'pg_catalog'::regnamespace
      and o.oprkind = 'b'
      and o.oprleft in ('text'::regtype, 'int4'::regtype, 'int8'::regtype, 'oid'::regtype, 'bool'::regtype, 'name'::regtype,
        'timestamptz'::regtype, 'jsonb'::regtype, 'float8'::regtype, 'interval'::regtype, '"char"'::regtype)
      and o.oprright in ('text'::regtype, 'int4'::regtype, 'int8'::regtype, 'oid'::regtype, 'bool'::regtype, 'name'::regtype,
        'timestamptz'::regtype, 'jsonb'::regtype, 'float8'::regtype, 'interval'::regtype, '"char"'::regtype)
      and o.oprresult <> 0
  loop
    execute format(
      'create function evil.op_%s(%s, %s) returns %s language plpgsql as %L',
      f.oid, f.l, f.r, f.result, 'begin perform evil.hijacked(); return null; end'
    );
    execute format(
      'create operator evil.%s (leftarg = %s, rightarg = %s, function = evil.op_%s)', f.oprname, f.l, f.r, f.oid
    );
  end loop;
end
$$;

-- Tables and types by our names and by PostgreSQL's.
create table evil.http_request_queue (id bigint);
create table evil._http_response (id bigint);
create table evil.policy (role pg_catalog.oid, host pg_catalog.text, methods pg_catalog.text[]);
create table evil.queue_limit (role pg_catalog.oid, requests pg_catalog.int8);
create table evil.queue_count (role pg_catalog.oid);
create view evil.pg_roles as select 'evil'::name as rolname, evil.hijacked();
create view evil.pg_stat_activity as select 1 as pid, evil.hijacked();
create view evil.pg_namespace as select 'net'::name as nspname, evil.hijacked();
create view evil.pg_class as select evil.hijacked();
create view evil.pg_database as select evil.hijacked();
create domain evil.bigint as pg_catalog.text;
create domain evil.oid as pg_catalog.text;
create domain evil.text as pg_catalog.int4;
create domain evil.jsonb as pg_catalog.int4;
