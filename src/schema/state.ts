import { PostgresError, type Row, type Session, type Statement } from '../postgres/database.ts';
import { type Installation, inspectInstallation, schemaVersion } from '../store/installation.ts';
import { SchemaError } from './errors.ts';

/**
 * Serialises what changes the installation of one database, say an adoption beside an uninstall. A lock that only the owner
 * may take: an advisory one could be held by anybody, for ever. Two installs at once meet at the schema's name. A superuser
 * does not wait for what belongs to a lesser role, which is refused anyway, and could make it wait for ever.
 */
const lockScript = `
  do $$
  begin
    if exists (
      select
      from pg_catalog.pg_class c
      join pg_catalog.pg_namespace n on n.oid = c.relnamespace
      join pg_catalog.pg_roles o on o.oid = c.relowner
      join pg_catalog.pg_roles r on r.rolname = current_user
      where n.nspname = 'net' and c.relname = 'installation' and c.relkind = 'r'
        and pg_catalog.pg_has_role(o.oid, 'USAGE')
        and (o.rolsuper or not r.rolsuper)
    ) then
      lock table net.installation in share row exclusive mode;
    end if;
  exception
    -- Uninstalled while we waited.
    when undefined_table or invalid_schema_name then
      null;
  end
  $$`;

/** Waits for others that change this installation, and keeps them out until the transaction ends. */
export async function lockInstallation(session: Session): Promise<void> {
  await session.execute(lockScript);
}

const shownStatement: Statement = {
  name: 'pgfetch_settings_shown',
  text: `
    select
      pg_catalog.strpos(pg_catalog.pg_get_viewdef('pg_catalog.pg_settings'::pg_catalog.regclass), 'pg_net.batch_size') > 0 as shown,
      r.rolsuper as is_superuser
    from pg_catalog.pg_roles r
    where r.rolname = current_user`,
};

/** Whether our rule of `pg_settings` is in force here, and whether the session's role may change it. */
export async function settingsView(session: Session): Promise<{ shown: boolean; isSuperuser: boolean }> {
  const [row] = await session.query<Row & { shown: boolean; is_superuser: boolean }>(shownStatement);
  return { shown: row?.shown === true, isSuperuser: row?.is_superuser === true };
}

const rolesStatement: Statement = {
  name: 'pgfetch_roles',
  text: `
    select r.rolname::text as name
    from pg_catalog.pg_roles r
    where r.rolname in ('net_admin', 'net_callback', 'net_worker', 'net_user')
      and pg_catalog.shobj_description(r.oid, 'pg_authid') like 'pgfetch:%'
    order by 1`,
};

/** Which of our roles the server has; a role that merely has the name is not ours. */
export async function ownRoles(session: Session): Promise<readonly string[]> {
  return (await session.query<Row & { name: string }>(rolesStatement)).map((row) => row.name);
}

/** {@link inspectInstallation}, where a table `net.installation` with other columns is somebody else's. */
export async function inspect(session: Session): Promise<Installation> {
  try {
    return await inspectInstallation(session);
  } catch (error) {
    // Undefined column, undefined function, no table at all.
    if (error instanceof PostgresError && ['42703', '42883', '42809'].includes(error.code)) {
      throw foreignSchema(error);
    }
    throw error;
  }
}

export function foreignSchema(cause?: unknown): SchemaError {
  return new SchemaError('foreign_schema', 'the schema "net" in this database is not pgfetch\'s', {
    detail: 'pgfetch changes no object that it did not create.',
    hint: 'If it is a leftover that nobody needs, drop it yourself: DROP SCHEMA net CASCADE.',
    cause,
  });
}

export function notInstalled(database: string): SchemaError {
  return new SchemaError('not_installed', `pgfetch is not installed in database ${JSON.stringify(database)}`, {
    hint: 'Run: pgfetch install (or CREATE EXTENSION pg_net where its files are on the server).',
  });
}

export function standby(database: string): SchemaError {
  return new SchemaError(
    'standby',
    `the server of database ${JSON.stringify(database)} is a standby: it is read-only`,
    {
      hint: 'Connect to the primary.',
    },
  );
}

export function lesserOwner(found: Extract<Installation, { kind: 'lesser_owner' }>): SchemaError {
  return new SchemaError(
    'insufficient_privilege',
    `the schema "net" in database ${JSON.stringify(found.database)} is (in part) the property of ${JSON.stringify(found.owner)}, whose functions and triggers would run with the rights of the superuser ${JSON.stringify(found.role)}`,
    {
      detail: 'Whoever may create in a database can make a schema of that name, with anything in it.',
      hint: `Connect as ${JSON.stringify(found.owner)}. If that role should have no such schema, drop it: DROP SCHEMA net CASCADE.`,
    },
  );
}

export function noRights(database: string, role: string, cause: string): SchemaError {
  return new SchemaError(
    'insufficient_privilege',
    `role ${JSON.stringify(role)} lacks rights in database ${JSON.stringify(database)}: ${cause}`,
    {
      hint: 'Connect as the owner of the schema net, or as a superuser.',
    },
  );
}

export function otherVersion(installed: Extract<Installation, { kind: 'other_version' }>): SchemaError {
  const isNewer = installed.schemaVersion > schemaVersion;
  return new SchemaError(
    'other_version',
    `database ${JSON.stringify(installed.database)} has pgfetch's schema in version ${installed.version} (${installed.schemaVersion}), and this program works with ${schemaVersion}`,
    {
      hint: isNewer
        ? `Use pgfetch ${installed.version} or newer.`
        : 'Let the worker drain the queue, run pgfetch uninstall, and install again: this version has no upgrade script.',
    },
  );
}
