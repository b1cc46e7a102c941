import type { Row, Session, Statement } from '../postgres/database.ts';
import { findDrift, isOfRights } from './drift.ts';
import type { Grants } from './scripts.ts';

const grantsStatement: Statement = {
  name: 'pgfetch_grants',
  text: `
    select i.fingerprint ->> 'profile' as recorded, net._fingerprint() ->> 'profile' as in_force
    from net.installation i`,
};

const setGrantsStatement: Statement = {
  name: 'pgfetch_set_grants',
  text: 'select net.set_grants($1)',
};

/**
 * Who may enqueue here now. Mostly what was installed or last set, and recorded; rights granted by hand since, or
 * restored from a dump beside an extension that was created anew, are not.
 */
export async function readGrants(session: Session): Promise<Grants> {
  const [row] = await session.query<Row & { in_force: Grants }>(grantsStatement);
  return row?.in_force ?? 'public';
}

/** Whether that profile was set here, and every right is still as it set them. */
export async function areGrants(session: Session, grants: Grants): Promise<boolean> {
  const [row] = await session.query<Row & { recorded: Grants | null; in_force: Grants }>(grantsStatement);
  return row?.recorded === grants && row.in_force === grants && !(await findDrift(session)).some(isOfRights);
}

/** Sets every right in the schema to those of that profile. For the owner of the schema. */
export async function setGrants(session: Session, grants: Grants): Promise<void> {
  await session.query(setGrantsStatement, [grants]);
}
