import { type Database, PostgresError, type Session, type Statement } from '../postgres/database.ts';
import type { Installation } from '../store/installation.ts';
import { areGrants, readGrants, setGrants } from './grants.ts';
import { ownRoleMembers } from './roles.ts';
import { type Grants, installScript, packageVersion, type ScriptOptions, sqlFile } from './scripts.ts';
import {
  inspect,
  lesserOwner,
  lockInstallation,
  noRights,
  otherVersion,
  ownRoles,
  settingsView,
  standby,
} from './state.ts';

export type InstallReport = {
  readonly kind: 'installed' | 'already_installed';
  /** The version that is installed now. */
  readonly version: string;
  readonly database: string;
  /** Whether it is there as the extension `pg_net` (CREATE EXTENSION) and not as plain SQL. */
  readonly isExtension: boolean;
  /** Whether `pg_settings` shows pg_net's settings. */
  readonly showsSettings: boolean;
  /** Who may enqueue. */
  readonly grants: Grants;
  /** What was done, and what was not and why: plain sentences. */
  readonly lines: readonly string[];
};

export type InstallOptions = ScriptOptions & {
  /**
   * Make the queue and the responses survive a crash of the server (`net.set_durable(true)`). Default false: as it is, which
   * is unlogged, as documented, for a new installation. Costs WAL and a flush per commit; see docs/performance.md.
   */
  readonly durable?: boolean;
  /**
   * Who may enqueue: see {@link Grants}. Default: as it is, which is `public`, as documented, for a new installation.
   * Changing it sets every right in the schema anew, and takes away what was granted besides.
   */
  readonly grants?: Grants;
};

const durableStatement: Statement = {
  name: 'pgfetch_install_durable',
  text: 'select net.set_durable(true)',
};

/** Two that install at once may both create the schema, or (for two databases of a server) the roles, and one loses. */
const attemptsMax = 3;
const raceLost: readonly string[] = Object.freeze(['23505', '42P06', '42710']);

/**
 * Installs the schema `net` as plain SQL, in one transaction: all of it or nothing. Where it is installed already nothing
 * changes, except that `showSettings`, `durable` and `grants` are done if they were not.
 *
 * @throws `PostgresError` with detail and hint for what the script refuses (a schema or a role of that name that is not
 *   ours, no right to create), {@link SchemaError} for an installation that this version does not work with.
 */
export async function install(db: Database, options: InstallOptions = {}): Promise<InstallReport> {
  for (let attempt = 1; ; attempt += 1) {
    try {
      return await db.transaction((session) => installWithin(session, options));
    } catch (error) {
      const lostRace = error instanceof PostgresError && raceLost.includes(error.code);
      if (!lostRace || attempt === attemptsMax) {
        throw error;
      }
    }
  }
}

async function installWithin(session: Session, options: InstallOptions): Promise<InstallReport> {
  await lockInstallation(session);
  const found = await inspect(session);
  switch (found.kind) {
    case 'other_version':
      throw otherVersion(found);
    case 'standby':
      throw standby(found.database);
    case 'lesser_owner':
      throw lesserOwner(found);
    case 'no_rights':
      throw noRights(found.database, found.role, found.message);
    case 'ready':
    case 'copy':
      return await report(session, 'already_installed', [await describeFound(session, found)], options);
    // The script itself refuses a foreign schema, as it does for those who paste it.
    case 'foreign':
    case 'missing': {
      const rolesBefore = await ownRoles(session);
      await session.execute(await installScript());
      const lines = [
        `Created the schema "net" (version ${await packageVersion()}) in database ${JSON.stringify(found.database)}.`,
        ...roleLines(rolesBefore, await ownRoles(session)),
        ...(await memberLines(
          session,
          rolesBefore.filter((role) => role !== 'net_user'),
        )),
      ];
      return await report(session, 'installed', lines, options);
    }
  }
}

async function describeFound(
  session: Session,
  found: Extract<Installation, { kind: 'ready' | 'copy' }>,
): Promise<string> {
  const [row] = await session.query({
    name: 'pgfetch_installed_version',
    text: `
      select i.version, pg_catalog.pg_get_userbyid(n.nspowner)::text as owner, n.nspowner = r.oid as is_own
      from net.installation i, pg_catalog.pg_namespace n, pg_catalog.pg_roles r
      where n.nspname = 'net' and r.rolname = current_user`,
  });
  // Whoever may create in the database can have been here first.
  const whose =
    row?.['is_own'] === true
      ? ''
      : ` It belongs to the role ${JSON.stringify(row?.['owner'])}, who sees every request.`;
  const line = `pgfetch ${String(row?.['version'])} is already installed in database ${JSON.stringify(found.database)}`;
  return found.kind === 'copy'
    ? `${line}, which is a copy of the one it was installed in: no worker sends from here until you run pgfetch adopt.${whose}`
    : `${line}${found.isExtension ? ' as the extension pg_net' : ''}; nothing was changed.${whose}`;
}

/** Of each role what it is for, and what its lack means. */
const roles: readonly (readonly [role: string, use: string, lack: string])[] = [
  ['net_admin', 'its members read every request and response.', 'only the owner of the schema reads every request.'],
  [
    'net_worker',
    'grant it to the login that the worker connects as.',
    'the worker must connect as the owner of the schema.',
  ],
  ['net_callback', 'grant it to the login that callbacks are called by.', 'requests cannot have callbacks.'],
];

function roleLines(before: readonly string[], after: readonly string[]): string[] {
  return roles.map(([role, use, lack]) => {
    if (before.includes(role)) {
      return `Used the role "${role}", which another database's installation had created.`;
    }
    return after.includes(role)
      ? `Created the role "${role}": ${use}`
      : `Did not create the role "${role}", because this login may not create roles: ${lack}`;
  });
}

/** Who was in the roles beforehand has their rights here too: said, because somebody else put it there. */
async function memberLines(session: Session, roles: readonly string[]): Promise<string[]> {
  return (await ownRoleMembers(session, roles)).map(
    ({ role, members }) => `Members of "${role}", who have its rights here too: ${members.join(', ')}.`,
  );
}

async function applyGrants(session: Session, wanted: Grants | undefined, isNew: boolean): Promise<string[]> {
  const before = await readGrants(session);
  if (wanted === undefined || (await areGrants(session, wanted))) {
    return isNew || wanted !== undefined ? [grantsLines[before]] : [];
  }
  const rolesBefore = await ownRoles(session);
  await setGrants(session, wanted);
  const line = grantsLines[wanted];
  return [
    isNew ? line : `${line} (${before === wanted ? 'Some rights were others until now.' : `Until now: ${before}.`})`,
    ...(wanted === 'members' && rolesBefore.includes('net_user') ? await memberLines(session, ['net_user']) : []),
  ];
}

const grantsLines: Readonly<Record<Grants, string>> = Object.freeze({
  public: 'Every role may enqueue, and sees its own requests and responses (--grants public).',
  members: 'Members of the role "net_user" may enqueue, and see their own requests and responses (--grants members).',
  none: 'Nobody but the owner of the schema may enqueue until you grant it (--grants none).',
});

async function report(
  session: Session,
  kind: InstallReport['kind'],
  lines: readonly string[],
  options: InstallOptions,
): Promise<InstallReport> {
  const view = await settingsView(session);
  const wanted = options.showSettings === true && !view.shown;
  if (wanted) {
    await session.execute(await sqlFile('optional/show_settings.sql'));
  }
  const settingsLine = wanted
    ? "Made pg_settings show pg_net's settings (this changed the rule of a system view; pgfetch uninstall puts it back)."
    : view.shown
      ? "pg_settings shows pg_net's settings."
      : `The settings are shown by net.settings${
          view.isSuperuser
            ? '; install --show-settings makes pg_settings show them too.'
            : ' (pg_settings can only be made to by a superuser).'
        }`;
  const grantsLine = await applyGrants(session, options.grants, kind === 'installed');
  const durableLines: string[] = [];
  if (options.durable === true) {
    await session.query(durableStatement);
    durableLines.push('The queue and the responses are logged: what was committed survives a crash of the server.');
  }
  const [row] = await session.query({
    name: 'pgfetch_install_report',
    text: `
      select
        i.version,
        pg_catalog.current_database()::text as database,
        exists (select from pg_catalog.pg_extension e where e.extname = 'pg_net') as is_extension
      from net.installation i`,
  });
  return {
    kind,
    version: String(row?.['version']),
    database: String(row?.['database']),
    isExtension: row?.['is_extension'] === true,
    showsSettings: view.shown || wanted,
    grants: await readGrants(session),
    lines: [...lines, ...grantsLine, settingsLine, ...durableLines],
  };
}
