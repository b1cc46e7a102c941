import { type Installation, schemaVersion } from '../store/installation.ts';
import type { Pause } from '../store/pause.ts';

/** What keeps a database from being served, and what to do about it. */
export function explain(installation: Exclude<Installation, { kind: 'ready' }>): string {
  const database = JSON.stringify(installation.database);
  switch (installation.kind) {
    case 'missing':
      return `pgfetch is not installed in database ${database}. Run: pgfetch install (or CREATE EXTENSION pg_net where its files are on the server).`;
    case 'foreign':
      return `the schema "net" in database ${database} is not pgfetch's, so there is nothing to serve. Serve another database, or rename that schema and run: pgfetch install.`;
    case 'other_version':
      return `database ${database} has pgfetch's schema in version ${installation.version} (${installation.schemaVersion}), and this worker works with ${schemaVersion}. ${
        installation.schemaVersion > schemaVersion ? 'Update the worker.' : 'Run the worker of that version.'
      }`;
    case 'copy':
      return `database ${database} is a copy: pgfetch was installed on another server or database, and what that had queued is not sent from here. If this is the database that should send now, run: pgfetch adopt --queue keep (or --queue discard).`;
    case 'standby':
      return `the server of database ${database} is a standby (read-only). Waiting until it is promoted; connect to the primary to serve now.`;
    case 'lesser_owner':
      return `the schema "net" in database ${database} is (in part) the property of ${JSON.stringify(installation.owner)}, whose functions and triggers would run with the rights of the superuser ${JSON.stringify(installation.role)}. Connect as ${JSON.stringify(installation.owner)}, or as a login that holds net_worker and nothing else.`;
    case 'no_rights':
      return `role ${JSON.stringify(installation.role)} may not serve database ${database}: ${installation.message}${installation.message.includes('\n') ? '\n' : '. '}Run as the schema's owner: GRANT net_worker TO ${JSON.stringify(installation.role)}.`;
  }
}

/** `paused since 2026-11-21 12:00:00 UTC by alice` */
export function describePause({ since, by }: Pause): string {
  const instant = since.toISOString().slice(0, 19).replace('T', ' ');
  return `paused since ${instant} UTC by ${by ?? 'a role that is gone'}`;
}
