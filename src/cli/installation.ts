import type { Session } from '../postgres/database.ts';
import { type Installation, inspectInstallation } from '../store/installation.ts';
import { explain } from '../worker/explain.ts';
import { CliError } from './errors.ts';

/** Throws unless our tables are there to be read, in the version that this code knows. */
export async function requireReadable(session: Session): Promise<Installation> {
  const installation = await inspectInstallation(session);
  if (
    installation.kind === 'missing' ||
    installation.kind === 'foreign' ||
    installation.kind === 'other_version' ||
    installation.kind === 'lesser_owner'
  ) {
    throw new CliError(explain(installation));
  }
  return installation;
}
