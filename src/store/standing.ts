import type { HostRule, Standing } from '../core/policy.ts';
import type { Row, Session, Statement } from '../postgres/database.ts';

/**
 * What concerns each of the roles `$1`, null standing for whoever owns the schema: the rows of net.policy for it, for every
 * role, and for roles whose rights it has, as net._concerns tells whoever enqueues; and which of the roles named in `$2`
 * those are.
 */
const standingsStatement: Statement = {
  name: 'pgfetch_standings',
  text: `
    select
      asked.role,
      (
        select pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object('host', p.host, 'methods', p.methods))::text
        from net.policy p
        where net._concerns(p.role, who.role)
      ) as rules,
      array(
        select g.rolname::text
        from pg_catalog.pg_roles g
        where g.rolname = any ($2::text[]) and pg_catalog.pg_has_role(who.role, g.oid, 'USAGE')
      ) as roles
    from unnest($1::oid[]) asked (role)
    cross join lateral (
      select coalesce(asked.role, (select n.nspowner from pg_catalog.pg_namespace n where n.nspname = 'net')) as role
    ) who`,
};

const hasPoliciesStatement: Statement = {
  name: 'pgfetch_has_policies',
  text: 'select net._has_policies() as has_policies',
};

const missingRolesStatement: Statement = {
  name: 'pgfetch_missing_roles',
  text: `
    select asked.name
    from unnest($1::text[]) asked (name)
    where not exists (select from pg_catalog.pg_roles r where r.rolname = asked.name)`,
};

type StandingRow = Row & { role: number | null; rules: string | null; roles: readonly string[] };

/** Whether any role's requests are bound to hosts. */
export async function readHasPolicies(session: Session): Promise<boolean> {
  const [row] = await session.query<Row & { has_policies: boolean }>(hasPoliciesStatement);
  return row?.has_policies === true;
}

/** What concerns each of these roles (by OID; null: a row inserted by hand, which is its owner's). */
export async function readStandings(
  session: Session,
  requesters: readonly (number | null)[],
  roleNames: readonly string[],
): Promise<ReadonlyMap<number | null, Standing>> {
  const rows = await session.query<StandingRow>(standingsStatement, [requesters, roleNames]);
  return new Map(
    rows.map(({ role, rules, roles }) => [
      role,
      { hostRules: rules === null ? undefined : (JSON.parse(rules) as HostRule[]), roles: new Set(roles) },
    ]),
  );
}

/** Of these names, those that are no role's. */
export async function readMissingRoles(session: Session, names: readonly string[]): Promise<readonly string[]> {
  if (names.length === 0) return [];
  const rows = await session.query<Row & { name: string }>(missingRolesStatement, [names]);
  return rows.map(({ name }) => name);
}
