import type { Row, Session, Statement } from '../postgres/database.ts';
import { notInstalled } from './state.ts';

/** One thing that is not as it was installed. */
export type Drift = {
  readonly kind: 'missing' | 'changed' | 'added';
  /** Which object: `function net.http_get(text,jsonb,jsonb,integer)`, `column net._http_response.id`, ... */
  readonly object: string;
  /** As installed, and as it is now; absent where there is none. */
  readonly installed?: string;
  readonly found?: string;
  /** All of this in a sentence. */
  readonly message: string;
};

const fingerprintsStatement: Statement = {
  name: 'pgfetch_fingerprints',
  text: 'select i.fingerprint::text as installed, net._fingerprint()::text as found from net.installation i',
};

const whereStatement: Statement = {
  name: 'pgfetch_drift_where',
  text: `
    select
      pg_catalog.to_regclass('net.installation') is not null as has_installation,
      pg_catalog.to_regprocedure('net._fingerprint()') is not null as has_fingerprint,
      pg_catalog.current_database()::text as database`,
};

/**
 * Compares the schema with what was recorded when it was installed: functions, tables, columns, constraints, indexes,
 * policies, rights. Changes that are the user's to make (LOGGED tables, triggers, further indexes, another owner) are none.
 *
 * @throws {@link SchemaError} where pgfetch is not installed.
 */
export async function findDrift(session: Session): Promise<readonly Drift[]> {
  const [where] = await session.query<Row & { has_installation: boolean; has_fingerprint: boolean; database: string }>(
    whereStatement,
  );
  if (where?.has_installation !== true) {
    throw notInstalled(where?.database ?? '');
  }
  if (!where.has_fingerprint) {
    return [missing('function net._fingerprint()', '')];
  }
  const [row] = await session.query<Row & { installed: string; found: string }>(fingerprintsStatement);
  if (row === undefined) {
    return [missing('the row of table net.installation', '')];
  }
  return compare(parse(row.installed), parse(row.found));
}

/** Whether setting the profile of grants anew undoes it. */
export function isOfRights({ object }: Drift): boolean {
  return object === 'profile' || object.startsWith(rightsPrefix);
}

function compare(installed: ReadonlyMap<string, string>, found: ReadonlyMap<string, string>): readonly Drift[] {
  const drifts: Drift[] = [];
  // Under that profile it is for the owner to grant.
  const grantsAreUsers = installed.get('profile') === 'none';
  for (const object of new Set([...installed.keys(), ...found.keys()])) {
    if (object === 'profile' && grantsAreUsers) continue;
    const drift = object.startsWith(rightsPrefix)
      ? compareRights(object, installed, found, grantsAreUsers)
      : compareObject(object, installed.get(object), found.get(object));
    if (drift !== undefined) {
      drifts.push(drift);
    }
  }
  return drifts.sort((a, b) => (a.object < b.object ? -1 : 1));
}

function compareObject(object: string, was: string | undefined, is: string | undefined): Drift | undefined {
  if (was === undefined) {
    // An index more is a user's own business.
    return is === undefined || object.startsWith('index ')
      ? undefined
      : { kind: 'added', object, found: is, message: `${object} was not installed by pgfetch: ${is}.` };
  }
  if (is === undefined) {
    return missing(object, was);
  }
  return was === is || writtenByOtherMajors(was, is) ? undefined : changed(object, was, is);
}

const rightsPrefix = 'rights on ';

/** Nobody but the owner having rights is told by no entry. Rights on what is itself missing or new say nothing more. */
function compareRights(
  object: string,
  installed: ReadonlyMap<string, string>,
  found: ReadonlyMap<string, string>,
  grantsAreUsers: boolean,
): Drift | undefined {
  const subject = object.slice(rightsPrefix.length);
  if (subject !== 'schema net' && !(installed.has(subject) && found.has(subject))) {
    return undefined;
  }
  const was = installed.get(object) ?? 'none';
  const is = found.get(object) ?? 'none';
  if (was === is || (grantsAreUsers && isUsersGrant(was, is))) return undefined;
  return changed(object, was, is);
}

/** All that was is there, and what came is what a role may be given: to call and to read, not to write. */
function isUsersGrant(was: string, is: string): boolean {
  const before = was === 'none' ? [] : was.split(', ');
  const now = is === 'none' ? [] : is.split(', ');
  return (
    before.every((right) => now.includes(right)) &&
    now.every((right) => before.includes(right) || /^(?:execute|usage|select) to /.test(right))
  );
}

function changed(object: string, was: string, is: string): Drift {
  const message = `${object}: not as installed. It was (${was}) and is (${is}).`;
  return { kind: 'changed', object, installed: was, found: is, message };
}

function missing(object: string, was: string): Drift {
  return { kind: 'missing', object, installed: was, message: `${object} is missing.` };
}

/** PostgreSQL writes some definitions back differently in another major version: after pg_upgrade they compare as nothing. */
function writtenByOtherMajors(was: string, is: string): boolean {
  const major = (text: string): string | undefined => /\(PostgreSQL (\d+)\)$/.exec(text)?.[1];
  return major(was) !== major(is);
}

function parse(json: string): ReadonlyMap<string, string> {
  const parsed: unknown = JSON.parse(json);
  const entries = typeof parsed === 'object' && parsed !== null ? Object.entries(parsed) : [];
  return new Map(entries.map(([object, detail]) => [object, String(detail)]));
}
