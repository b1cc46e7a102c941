import type { Database } from '../postgres/database.ts';
import { type Installation, inspectInstallation } from '../store/installation.ts';
import { type Asked, readAsked } from '../store/register.ts';
import { readMissingRights } from '../store/rights.ts';
import { readSettings, readTarget, type Settings } from '../store/settings.ts';
import { readHasPolicies, readMissingRoles } from '../store/standing.ts';
import { explain } from './explain.ts';
import { explainFailure, NotReady } from './problems.ts';

/** Where a session goes; what is missing is as in the connection string. */
export type Target = { readonly database?: string; readonly user?: string };

export type Ready = Extract<Installation, { kind: 'ready' }>;

export type OpeningParts = {
  readonly connect: (target: Target) => Promise<Database>;
  /** `pg_net.database_name` does not lead it elsewhere. */
  readonly staysInDatabase: boolean;
  /** The roles that secrets are bound to. */
  readonly secretRoles: readonly string[];
  readonly warn: (message: string) => void;
  /** What is wrong, though it goes on without. */
  readonly report: (error: Error) => void;
};

/** A session in a database that may be served, and what to serve it by. */
export type Opened = {
  readonly db: Database;
  readonly settings: Settings;
  readonly installation: Ready;
  /** What was asked of the workers before the settings were read. */
  readonly asked: Asked;
  /** Some roles' requests are bound to hosts. */
  readonly hasPolicies: boolean;
};

/** Connects, and once more to where the server's settings say; rejects for what is not to be served. */
export async function openServed(parts: OpeningParts): Promise<Opened> {
  let db = await parts.connect({});
  try {
    let found = await examine(db);
    const target = await targetOf(db, found.settings, parts.staysInDatabase);
    const other = target === null ? null : await connectTo(target, parts);
    if (other !== null) {
      await db.close();
      db = other;
      found = await examine(db);
    }
    if (found.settings === null) {
      throw new NotReady(explain(found.installation));
    }
    for (const problem of found.settings.problems) {
      parts.warn(problem);
    }
    for (const name of await readMissingRoles(db, parts.secretRoles)) {
      parts.warn(
        `there is no role ${JSON.stringify(name)} here: the secrets that are bound to it are for nobody by that`,
      );
    }
    return { db, ...found, hasPolicies: await readHasPolicies(db) };
  } catch (error) {
    await db.close();
    throw error;
  }
}

async function targetOf(db: Database, settings: Settings | null, staysInDatabase: boolean): Promise<Target | null> {
  const target = await readTarget(db, settings);
  if (target === null || !staysInDatabase) {
    return target;
  }
  return target.user === undefined ? null : { user: target.user };
}

/** The session that the server's settings ask for; null, and a word about it, where that fails. */
async function connectTo(target: Target, { connect, report }: OpeningParts): Promise<Database | null> {
  try {
    return await connect(target);
  } catch (error) {
    report(
      new NotReady(
        `pg_net.database_name and pg_net.username name ${JSON.stringify(target)}, where connecting failed (${explainFailure(error)}); keeping the connection string's. Correct or reset those settings, then call net.worker_restart().`,
      ),
    );
    return null;
  }
}

/** What a database has to serve, and the settings to do it by; null where it is not to be served, or not by this role. */
export type Found =
  | { readonly installation: Ready; readonly asked: Asked; readonly settings: Settings }
  | { readonly installation: Exclude<Installation, { kind: 'ready' }>; readonly settings: null };

/** Looks whether this session's database may be served by its role. */
export async function examine(db: Database): Promise<Found> {
  const installation = await inspectInstallation(db);
  if (installation.kind !== 'ready') {
    return { installation, settings: null };
  }
  const missing = await readMissingRights(db);
  if (missing.length > 0) {
    const { database, role } = installation;
    return { installation: { kind: 'no_rights', database, role, message: lacks(missing) }, settings: null };
  }
  const asked = await readAsked(db);
  return { installation, asked, settings: await readSettings(db) };
}

const missingShownMax = 10;

/** What is missing, one to a line, since each has to be granted. */
export function lacks(missing: readonly string[]): string {
  const [only, ...others] = missing;
  if (others.length === 0) {
    return `it lacks ${only}`;
  }
  const shown = missing.slice(0, missingShownMax);
  const more = missing.length - shown.length;
  return `it lacks\n${shown.map((need) => `  - ${need}`).join('\n')}${more > 0 ? `\n  and ${more} more` : ''}`;
}
