import type { Row, Session, Statement } from '../postgres/database.ts';
import type { Grants } from './scripts.ts';

const grantsStatement: Statement = {
  name: 'pgfetch_grants',
  text: `select i.fingerprint ->> 'profile' as grants from net.installation i`,
};

const setGrantsStatement: Statement = {
  name: 'pgfetch_set_grants',
  text: 'select net.set_grants($1)',
};

/** Who may enqueue here, as it was installed or last set. What was granted by hand since is a drift. */
export async function readGrants(session: Session): Promise<Grants> {
  const [row] = await session.query<Row & { grants: Grants | null }>(grantsStatement);
  return row?.grants ?? 'public';
}

/** Sets every right in the schema to those of that profile. For the owner of the schema. */
export async function setGrants(session: Session, grants: Grants): Promise<void> {
  await session.query(setGrantsStatement, [grants]);
}
