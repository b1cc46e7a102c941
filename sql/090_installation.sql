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

-- What is in the schema, by the name of each object: what it is and who may use it. Nothing here depends on OIDs, and
-- what PostgreSQL writes differently in another major version says which one wrote it. Left out is what users may change:
-- owners (as long as it is one for all), the owner's own rights, LOGGED or UNLOGGED, storage parameters, triggers.
-- API: private
create function net._fingerprint()
  returns jsonb
  language sql
  stable
  parallel unsafe
  set search_path = pg_catalog, pg_temp
as $$
  with schema as (
    select n.oid, n.nspowner as owner, n.nspacl from pg_namespace n where n.nspname = 'net'
  ),
  relation as (
    select
      c.*,
      case c.relkind
        when 'S' then 'sequence'
        when 'v' then 'view'
        when 'm' then 'materialized view'
        when 'c' then 'type'
        when 'i' then 'index'
        else 'table'
      end as kind,
      c.relowner <> s.owner and c.relkind <> 'i' as is_strangers
    from pg_class c
    join schema s on s.oid = c.relnamespace
  ),
  item (object, detail) as (
    -- Which of net.set_grants' profiles is in force, by who may call one of the functions.
    select
      'profile',
      case
        when min(x.grantee) = 0 then 'public'
        when bool_or(pg_get_userbyid(x.grantee) = 'net_user') then 'members'
        else 'none'
      end
    from schema s
    left join pg_proc p on p.pronamespace = s.oid and p.proname = 'http_get'
    left join lateral aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) x on true
    union all
    select
      format('function %s', p.oid::regprocedure),
      concat_ws(
        ', ',
        format('(%s) returns %s', pg_get_function_arguments(p.oid), pg_get_function_result(p.oid)),
        l.lanname,
        case p.provolatile when 'i' then 'immutable' when 's' then 'stable' else 'volatile' end,
        case p.proparallel when 's' then 'parallel safe' when 'r' then 'parallel restricted' else 'parallel unsafe' end,
        case when p.proisstrict then 'strict' end,
        case when p.prosecdef then 'security definer' end,
        array_to_string(p.proconfig, ' '),
        case when p.proowner <> s.owner then 'owned by another role than the schema' end,
        'source ' || md5(p.prosrc)
      )
    from pg_proc p
    join schema s on s.oid = p.pronamespace
    join pg_language l on l.oid = p.prolang
    union all
    select
      format('%s %s', r.kind, r.oid::regclass),
      concat_ws(
        ', ',
        r.kind,
        case when r.relkind = 'i' then pg_get_indexdef(r.oid) end,
        case when r.relrowsecurity then 'row security' end,
        case when r.relforcerowsecurity then 'forced on the owner' end,
        case when r.is_strangers then 'owned by another role than the schema' end,
        case
          when r.relkind = 'v'
            then format('definition %s (PostgreSQL %s)', md5(pg_get_viewdef(r.oid)), current_setting('server_version_num')::integer / 10000)
        end
      )
    from relation r
    union all
    select
      format('column %s.%I', r.oid::regclass, a.attname),
      concat_ws(
        ' ',
        format_type(a.atttypid, a.atttypmod),
        case when a.attnotnull then 'not null' end,
        'default ' || pg_get_expr(d.adbin, d.adrelid)
      )
    from relation r
    join pg_attribute a on a.attrelid = r.oid and a.attnum > 0 and not a.attisdropped
    left join pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
    where r.relkind not in ('i', 'S')
    union all
    -- NOT NULL is a constraint of its own from PostgreSQL 18 on; the column says it everywhere.
    select
      format('constraint %I on %s', k.conname, coalesce(nullif(k.conrelid, 0)::regclass::text, k.contypid::regtype::text)),
      pg_get_constraintdef(k.oid)
    from pg_constraint k
    join schema s on s.oid = k.connamespace
    where k.contype <> 'n'
    union all
    select
      format('policy %I on %s', p.polname, r.oid::regclass),
      concat_ws(
        ', ',
        case when p.polpermissive then 'permissive' else 'restrictive' end,
        case p.polcmd when 'r' then 'select' when 'a' then 'insert' when 'w' then 'update' when 'd' then 'delete' else 'all' end,
        'to ' || (
          select string_agg(case when m = 0 then 'public' else quote_ident(pg_get_userbyid(m)) end, ' ' order by m = 0, pg_get_userbyid(m))
          from unnest(p.polroles) m
        ),
        'using ' || pg_get_expr(p.polqual, p.polrelid),
        'with check ' || pg_get_expr(p.polwithcheck, p.polrelid)
      )
    from relation r
    join pg_policy p on p.polrelid = r.oid
    union all
    select
      format('type %s', t.oid::regtype),
      case t.typtype
        when 'd' then 'domain over ' || format_type(t.typbasetype, t.typtypmod)
        when 'e' then 'enum ' || (select string_agg(quote_literal(e.enumlabel), ' ' order by e.enumsortorder) from pg_enum e where e.enumtypid = t.oid)
        else t.typtype::text
      end
    from pg_type t
    join schema s on s.oid = t.typnamespace
    where t.typtype in ('d', 'e', 'r', 'b') and t.typelem = 0
    union all
    select format('rights on %s', a.object), string_agg(
      format(
        '%s to %s%s',
        lower(x.privilege_type),
        case when x.grantee = 0 then 'public' else quote_ident(pg_get_userbyid(x.grantee)) end,
        case when x.is_grantable then ' with grant option' end
      ),
      ', ' order by x.grantee = 0, pg_get_userbyid(x.grantee), x.privilege_type
    )
    from (
      select 'schema net', s.owner, s.nspacl from schema s
      union all
      select format('function %s', p.oid::regprocedure), p.proowner, coalesce(p.proacl, acldefault('f', p.proowner))
      from pg_proc p
      join schema s on s.oid = p.pronamespace
      union all
      select format('%s %s', r.kind, r.oid::regclass), r.relowner, r.relacl from relation r
      union all
      select format('column %s.%I', r.oid::regclass, c.attname), r.relowner, c.attacl
      from relation r
      join pg_attribute c on c.attrelid = r.oid and c.attacl is not null
      union all
      select format('type %s', t.oid::regtype), t.typowner, t.typacl
      from pg_type t
      join schema s on s.oid = t.typnamespace
    ) a (object, owner, acl)
    cross join lateral aclexplode(a.acl) x
    where x.grantee <> a.owner
      -- PUBLIC's USAGE on a type is PostgreSQL's default, recorded or not.
      and not (a.object like 'type %' and x.grantee = 0)
    group by a.object
  )
  select jsonb_object_agg(i.object, i.detail) from item i
$$;

do $$
begin
  perform net.set_grants('public');
end
$$;

insert into net.installation (schema_version, version, system_identifier, database_oid, fingerprint)
select 1, '0.1.0', net._system_identifier(), d.oid, net._fingerprint()
from pg_catalog.pg_database d
where d.datname = pg_catalog.current_database();
