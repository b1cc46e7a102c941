import type { Session, Statement } from '../postgres/database.ts';

/** Gives requests back that this worker had claimed and will not finish: any worker may take them at once. */
const releaseStatement: Statement = {
  name: 'pgfetch_release',
  text: `
    with freed as (
      update net.http_request_queue q
      set claimed_by = null, due_at = pg_catalog.clock_timestamp()
      where q.id = any ($2::bigint[]) and q.claimed_by = $1
      returning q.id
    )
    select pg_catalog.pg_notify('net_wake', '') where exists (select from freed)`,
};

/** Releases claimed requests and wakes the workers, this one included. */
export async function release(session: Session, workerId: bigint, ids: readonly bigint[]): Promise<void> {
  await session.query(releaseStatement, [workerId, ids.map((id) => id.toString())]);
}
