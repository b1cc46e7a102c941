import { PostgresError, type Row, type Session, type Statement } from '../postgres/database.ts';
import { type Pause, readPause } from './pause.ts';

/** The version of the schema that this code works with; a worker refuses any other. */
export const schemaVersion = 1;

const probeStatement: Statement = {
  name: 'pgfetch_probe',
  text: `
    select
      exists (select from pg_catalog.pg_namespace n where n.nspname = 'net') as has_schema,
      exists (
        select
        from pg_catalog.pg_class c
        join pg_catalog.pg_namespace n on n.oid = c.relnamespace
        where n.nspname = 'net' and c.relname = 'installation'
      ) as has_installation,
      -- Whoever may create in a database can have made a schema of that name, and what is in it runs with our rights.
      (
        select o.rolname::text
        from pg_catalog.pg_namespace n
        cross join lateral (
          select n.nspowner
          union all
          select c.relowner from pg_catalog.pg_class c where c.relnamespace = n.oid
          union all
          select p.proowner from pg_catalog.pg_proc p where p.pronamespace = n.oid
        ) owned (by)
        join pg_catalog.pg_roles o on o.oid = owned.by
        join pg_catalog.pg_roles r on r.rolname = current_user
        where n.nspname = 'net' and r.rolsuper and not o.rolsuper
        limit 1
      ) as lesser_owner,
      exists (select from pg_catalog.pg_extension e where e.extname = 'pg_net') as is_extension,
      pg_catalog.pg_is_in_recovery() as in_recovery,
      pg_catalog.current_database()::text as database,
      current_user::text as role`,
};

const installationStatement: Statement = {
  name: 'pgfetch_installation',
  text: `
    select
      i.schema_version,
      i.version,
      i.database_oid = d.oid
        and i.system_identifier is not distinct from coalesce(net._system_identifier(), i.system_identifier) as is_original
    from net.installation i, pg_catalog.pg_database d
    where d.datname = pg_catalog.current_database()`,
};

/** What the worker finds in a database that it connects to. */
export type Installation =
  | { readonly kind: 'missing'; readonly database: string }
  | { readonly kind: 'foreign'; readonly database: string }
  | {
      readonly kind: 'other_version';
      readonly database: string;
      readonly version: string;
      readonly schemaVersion: number;
    }
  | { readonly kind: 'copy'; readonly database: string }
  | { readonly kind: 'standby'; readonly database: string }
  /** We are a superuser and the owner of the schema is none: its functions and triggers are not to run with our rights. */
  | { readonly kind: 'lesser_owner'; readonly database: string; readonly role: string; readonly owner: string }
  | { readonly kind: 'no_rights'; readonly database: string; readonly role: string; readonly message: string }
  | {
      readonly kind: 'ready';
      readonly database: string;
      readonly role: string;
      readonly version: string;
      readonly isExtension: boolean;
      /** Null: workers may serve it. */
      readonly paused: Pause | null;
    };

type Probe = Row & {
  has_schema: boolean;
  has_installation: boolean;
  lesser_owner: string | null;
  is_extension: boolean;
  in_recovery: boolean;
  database: string;
  role: string;
};

const insufficientPrivilege = '42501';
const undefinedTable = '42P01';
const undefinedSchema = '3F000';

/** Looks whether pgfetch is installed here, in a version that this code works with, and on the server it was installed on. */
export async function inspectInstallation(session: Session): Promise<Installation> {
  const [probe] = await session.query<Probe>(probeStatement);
  if (probe === undefined) {
    throw new Error('the probe returned no row');
  }
  const { database, role } = probe;
  if (!probe.has_installation) {
    return { kind: probe.has_schema ? 'foreign' : 'missing', database };
  }
  if (probe.lesser_owner !== null) {
    return { kind: 'lesser_owner', database, role, owner: probe.lesser_owner };
  }
  let isThere = false;
  try {
    const [installed] = await session.query<Row & { schema_version: number; version: string; is_original: boolean }>(
      installationStatement,
    );
    isThere = true;
    if (installed === undefined) {
      return { kind: 'missing', database };
    }
    if (installed.schema_version !== schemaVersion) {
      return { kind: 'other_version', database, version: installed.version, schemaVersion: installed.schema_version };
    }
    if (!installed.is_original) {
      return { kind: 'copy', database };
    }
    if (probe.in_recovery) {
      return { kind: 'standby', database };
    }
    const paused = await readPause(session);
    return { kind: 'ready', database, role, version: installed.version, isExtension: probe.is_extension, paused };
  } catch (error) {
    if (error instanceof PostgresError && error.code === insufficientPrivilege) {
      return { kind: 'no_rights', database, role, message: error.message };
    }
    // Dropped since the probe.
    if (
      !isThere &&
      error instanceof PostgresError &&
      (error.code === undefinedTable || error.code === undefinedSchema)
    ) {
      return { kind: 'missing', database };
    }
    throw error;
  }
}
