import type { Row, Session, Statement } from '../postgres/database.ts';

/**
 * What DROP ... CASCADE would take along: objects outside of the schema `net` that depend on one in it (views, columns,
 * defaults, functions with our types), and triggers on our tables. Bodies of functions are text: PostgreSQL does not
 * know what they call.
 *
 * `ours` begins with what is in the schema and follows the links of what PostgreSQL made along with it (internal and
 * automatic dependencies: rules of our views, default values, indexes). A view's rule and columns stand for the view.
 */
const dependentsStatement: Statement = {
  name: 'pgfetch_dependents',
  text: `
    with recursive schema as (
      select n.oid from pg_catalog.pg_namespace n where n.nspname = 'net'
    ),
    ours (classid, objid) as (
      select 'pg_catalog.pg_namespace'::pg_catalog.regclass::oid, s.oid from schema s
      union
      select 'pg_catalog.pg_extension'::pg_catalog.regclass::oid, e.oid from pg_catalog.pg_extension e, schema
      where e.extname = 'pg_net'
      union
      select d.classid, d.objid
      from pg_catalog.pg_depend d
      join ours o on o.classid = d.refclassid and o.objid = d.refobjid
      where (d.deptype in ('i', 'a', 'P', 'S') and d.classid <> 'pg_catalog.pg_trigger'::pg_catalog.regclass)
        or d.refclassid = 'pg_catalog.pg_namespace'::pg_catalog.regclass
    ),
    dependent as (
      select
        case when w.oid is null then d.classid else 'pg_catalog.pg_class'::pg_catalog.regclass end as classid,
        coalesce(w.ev_class, d.objid) as objid,
        case when w.oid is null and v.oid is null then d.objsubid else 0 end as objsubid
      from pg_catalog.pg_depend d
      join ours o on o.classid = d.refclassid and o.objid = d.refobjid
      left join pg_catalog.pg_rewrite w
        on d.classid = 'pg_catalog.pg_rewrite'::pg_catalog.regclass and w.oid = d.objid
      left join pg_catalog.pg_class v
        on d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass and v.oid = d.objid and v.relkind in ('v', 'm')
      left join pg_catalog.pg_trigger t
        on d.classid = 'pg_catalog.pg_trigger'::pg_catalog.regclass and t.oid = d.objid
      where d.deptype in ('n', 'a')
        and not coalesce(t.tgisinternal, false)
        -- The triggers on our tables that are ours.
        and not exists (
          select
          from pg_catalog.pg_proc p
          join pg_catalog.pg_class c on c.oid = t.tgrelid
          where p.oid = t.tgfoid
            and p.pronamespace = (select s.oid from schema s)
            and c.relnamespace = (select s.oid from schema s)
        )
    )
    select distinct pg_catalog.pg_describe_object(d.classid, d.objid, d.objsubid) as object
    from dependent d
    where not exists (select from ours o where o.classid = d.classid and o.objid = d.objid)
    order by 1`,
};

/** Objects of the user's that would be dropped along with the schema, described as PostgreSQL does. */
export async function findDependents(session: Session): Promise<readonly string[]> {
  return (await session.query<Row & { object: string }>(dependentsStatement)).map((row) => row.object);
}
