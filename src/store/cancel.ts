import type { Row, Session, Statement } from '../postgres/database.ts';

/** Channel on which `net.cancel` tells the workers, at its commit, the id of a request that is being sent. */
export const cancelChannel = 'net_cancel';

/** Of the requests `$2`, those that worker `$1` has claimed and somebody has cancelled since. */
const cancelAskedStatement: Statement = {
  name: 'pgfetch_cancel_asked',
  text: `
    select q.id
    from net.http_request_queue q
    where q.id = any ($2::bigint[]) and q.claimed_by = $1 and q.cancel_asked`,
};

const cancelStatement: Statement = {
  name: 'pgfetch_cancel',
  text: 'select net.cancel($1::bigint) as outcome',
};

/** Which of these requests this worker has claimed and is asked to give up. */
export async function readCancelAsked(
  session: Session,
  workerId: bigint,
  ids: readonly bigint[],
): Promise<ReadonlySet<bigint>> {
  const rows = await session.query<Row & { id: bigint }>(cancelAskedStatement, [workerId, ids]);
  return new Set(rows.map(({ id }) => id));
}

/** Cancels a request; returns what became of it: `cancelled`, `cancelling` or `finished`. */
export async function cancel(session: Session, id: bigint): Promise<string> {
  const [row] = await session.query<Row & { outcome: string }>(cancelStatement, [id]);
  if (row === undefined) {
    throw new Error('net.cancel returned no row');
  }
  return row.outcome;
}
