import type { Database, Row, Session, Statement } from '../postgres/database.ts';
import { findDependents } from './dependents.ts';
import { findDrift } from './drift.ts';
import { ownersError, SchemaError } from './errors.ts';
import { dropRoles } from './roles.ts';
import { sqlFile } from './scripts.ts';
import { foreignSchema, inspect, lesserOwner, lockInstallation, noRights, settingsView, standby } from './state.ts';

export type UninstallOptions = {
  /** Also drop what depends on the schema (views, columns, triggers of yours). Default false: refuse, and list it. */
  readonly cascade?: boolean;
};

export type UninstallReport = {
  readonly kind: 'uninstalled' | 'not_installed';
  readonly database: string;
  /** What was dropped, and what was kept and why: plain sentences. */
  readonly lines: readonly string[];
};

const countsStatement: Statement = {
  name: 'pgfetch_uninstall_counts',
  text: `
    select
      (select pg_catalog.count(*)::text from net.http_request_queue) as waiting,
      exists (select from pg_catalog.pg_extension e where e.extname = 'pg_net') as is_extension`,
};

/** The report says what was dropped; PostgreSQL's notice of "39 other objects" would only stand before it. */
const quietStatement: Statement = {
  name: 'pgfetch_uninstall_quiet',
  text: `select pg_catalog.set_config('client_min_messages', 'warning', true)`,
};

/**
 * Removes all that was installed, in one transaction: the schema (or the extension), our rule of `pg_settings`, and the
 * roles, unless another database uses them. After DROP EXTENSION it removes what that had to leave.
 *
 * @throws {@link SchemaError} `foreign_schema` for a schema `net` that is not ours; `dependent_objects` where objects of
 *   the user's would be dropped along and `cascade` was not given; `insufficient_privilege`.
 */
export async function uninstall(db: Database, options: UninstallOptions = {}): Promise<UninstallReport> {
  return await db.transaction(async (session) => {
    await lockInstallation(session);
    await session.query(quietStatement);
    const found = await inspect(session);
    const lines: string[] = [];
    switch (found.kind) {
      case 'foreign':
        throw foreignSchema();
      case 'standby':
        throw standby(found.database);
      case 'lesser_owner':
        throw lesserOwner(found);
      case 'no_rights':
        throw noRights(found.database, found.role, found.message);
      case 'missing':
        break;
      default:
        lines.push(...(await dropSchema(session, found.database, options.cascade === true)));
    }
    lines.push(...(await restoreSettingsView(session)), ...(await dropRoles(session)));
    if (lines.length === 0) {
      lines.push(`There is nothing of pgfetch's in database ${JSON.stringify(found.database)}.`);
    }
    return { kind: found.kind === 'missing' ? 'not_installed' : 'uninstalled', database: found.database, lines };
  });
}

async function dropSchema(session: Session, database: string, cascade: boolean): Promise<readonly string[]> {
  const users = [...(await findDependents(session)), ...(await addedObjects(session))];
  if (users.length > 0 && !cascade) {
    throw new SchemaError(
      'dependent_objects',
      `${users.length === 1 ? 'an object' : `${users.length} objects`} that pgfetch did not create would be dropped along with the schema "net"`,
      {
        detail: `${users.slice(0, 20).join('; ')}${users.length > 20 ? '; ...' : ''}.`,
        hint: 'Drop or change them, or uninstall with --cascade.',
      },
    );
  }
  try {
    const [counts] = await session.query<Row & { waiting: string; is_extension: boolean }>(countsStatement);
    const isExtension = counts?.is_extension === true;
    await session.execute(isExtension ? 'drop extension pg_net cascade' : 'drop schema net cascade');
    const what = isExtension ? 'the extension pg_net and its schema "net"' : 'the schema "net"';
    const waiting = counts?.waiting ?? '0';
    return [
      `Dropped ${what} from database ${JSON.stringify(database)}.`,
      ...(waiting === '0' ? [] : [`With it went ${waiting} request${waiting === '1' ? '' : 's'} still in the queue.`]),
      ...users.map((object) => `Dropped along with it: ${object}.`),
    ];
  } catch (error) {
    throw ownersError(error);
  }
}

/** What users created inside the schema. Columns, rights and the like are part of an object; they go with it. */
async function addedObjects(session: Session): Promise<readonly string[]> {
  const drifts = await findDrift(session);
  return drifts
    .filter(
      (drift) => drift.kind === 'added' && /^(function|table|view|materialized view|sequence|type) /.test(drift.object),
    )
    .map((drift) => drift.object);
}

async function restoreSettingsView(session: Session): Promise<readonly string[]> {
  const view = await settingsView(session);
  if (!view.shown) {
    return [];
  }
  if (!view.isSuperuser) {
    return [
      'Left the rule of pg_settings as it is, because only a superuser may change it; it shows nothing of pgfetch any more. To put it back, a superuser runs: pgfetch uninstall.',
    ];
  }
  await session.execute(await sqlFile('optional/hide_settings.sql'));
  return ['Put the rule of pg_settings back as PostgreSQL made it.'];
}
