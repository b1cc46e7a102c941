import { PostgresError, type Row, type Session, type Statement } from '../postgres/database.ts';
import { ownRoles } from './state.ts';

const usesStatement: Statement = {
  name: 'pgfetch_role_uses',
  text: `
    select
      d.datname::text as database,
      case
        when s.dbid = here.oid then pg_catalog.pg_describe_object(s.classid, s.objid, s.objsubid)
        when s.dbid = 0 and s.classid <> 'pg_catalog.pg_auth_members'::pg_catalog.regclass
          then pg_catalog.pg_describe_object(s.classid, s.objid, 0)
      end as object
    from pg_catalog.pg_shdepend s
    join pg_catalog.pg_database here on here.datname = pg_catalog.current_database()
    left join pg_catalog.pg_database d on d.oid = s.dbid and s.dbid <> here.oid
    where s.refclassid = 'pg_catalog.pg_authid'::pg_catalog.regclass
      and s.refobjid = (select r.oid from pg_catalog.pg_roles r where r.rolname = $1)
      and s.classid <> 'pg_catalog.pg_auth_members'::pg_catalog.regclass
    order by 1, 2`,
};

const membersStatement: Statement = {
  name: 'pgfetch_role_members',
  text: `
    select r.rolname::text as role, array(
      select m.rolname::text
      from pg_catalog.pg_auth_members a
      join pg_catalog.pg_roles m on m.oid = a.member
      where a.roleid = r.oid and m.rolname <> current_user
      order by 1
    ) as members
    from pg_catalog.pg_roles r
    where r.rolname = any ($1)
    order by 1`,
};

/** Who is in those roles, oneself left out; roles without members are left out too. */
export async function ownRoleMembers(
  session: Session,
  names: readonly string[],
): Promise<readonly { readonly role: string; readonly members: readonly string[] }[]> {
  const roles = await session.query<Row & { role: string; members: readonly string[] }>(membersStatement, [names]);
  return roles.filter(({ members }) => members.length > 0);
}

/** Constant texts: a role's name cannot be a parameter of DROP ROLE. */
const dropScripts: Readonly<Record<string, string>> = Object.freeze({
  net_admin: 'drop role net_admin',
  net_callback: 'drop role net_callback',
  net_user: 'drop role net_user',
  net_worker: 'drop role net_worker',
});

/** Drops our roles from the server unless something else still uses them; says of each what became of it. */
export async function dropRoles(session: Session): Promise<readonly string[]> {
  const lines: string[] = [];
  for (const role of await ownRoles(session)) {
    lines.push(await dropRole(session, role));
  }
  return lines;
}

async function dropRole(session: Session, role: string): Promise<string> {
  const uses = await session.query<Row & { database: string | null; object: string | null }>(usesStatement, [role]);
  if (uses.length > 0) {
    const databases = [...new Set(uses.map((use) => use.database).filter((name) => name !== null))];
    const objects = [...new Set(uses.map((use) => use.object).filter((object) => object !== null))];
    const users = [
      ...databases.map((name) => `database ${JSON.stringify(name)}`),
      ...(databases.length === 0 && objects.length === 0 ? ['another database'] : objects),
    ];
    return `Kept the role "${role}": it has rights in ${users.slice(0, 10).join(', ')}${users.length > 10 ? ', ...' : ''}.`;
  }
  await session.execute('savepoint pgfetch_role');
  try {
    await session.execute(dropScripts[role] ?? '');
  } catch (error) {
    if (!(error instanceof PostgresError)) {
      throw error;
    }
    await session.execute('rollback to savepoint pgfetch_role');
    const reason = error.detail === undefined ? error.message : `${error.message} (${error.detail})`;
    return `Kept the role "${role}": ${reason}. Whoever may drop it can run: DROP ROLE ${role}.`;
  }
  return `Dropped the role "${role}".`;
}
