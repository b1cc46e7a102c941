import type { Session } from '../postgres/database.ts';
import { type Installation, inspectInstallation } from '../store/installation.ts';
import { explain } from '../worker/worker.ts';
import { CliError } from './errors.ts';

/** What keeps a database from being served, and what to do about it. */
export function describeInstallation(installation: Exclude<Installation, { kind: 'ready' }>): string {
  // The worker's words; a command that ends does not wait.
  return explain(installation).replace(/ Waiting for it\.$/, '');
}

/** Throws unless our tables are there to be read, in the version that this code knows. */
export async function requireReadable(session: Session): Promise<Installation> {
  const installation = await inspectInstallation(session);
  if (installation.kind === 'missing' || installation.kind === 'foreign' || installation.kind === 'other_version') {
    throw new CliError(describeInstallation(installation));
  }
  return installation;
}
