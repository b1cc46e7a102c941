import type { Row, Session, Statement } from '../postgres/database.ts';
import { locked } from './responses.ts';

/** Gives requests back that this worker had claimed and will not finish: any worker may take them at once. */
const releaseStatement: Statement = {
  name: 'pgfetch_release',
  text: `
    with held as materialized (
      -- What somebody has locked stays claimed, and is an orphan when we are gone.
      select q.id
      from net.http_request_queue q
      where q.id = any ($2::bigint[]) and q.claimed_by = $1
      for update skip locked
    ),
    freed as (
      update net.http_request_queue q
      set claimed_by = null, due_at = pg_catalog.clock_timestamp()
      where q.id = any (array(select id from held))
      returning q.id
    )
    select
      exists (
        select
        from net.http_request_queue q
        where q.id = any ($2::bigint[]) and q.claimed_by = $1 and q.id not in (select h.id from held h)
      ) as are_left,
      case when exists (select from freed) then pg_catalog.pg_notify('net_wake', '') end as woken`,
};

/** Releases claimed requests and wakes the workers, this one included. Throws where somebody has locked some: those stay claimed. */
export async function release(session: Session, workerId: bigint, ids: readonly bigint[]): Promise<void> {
  const [row] = await session.query<Row & { are_left: boolean }>(releaseStatement, [
    workerId,
    ids.map((id) => id.toString()),
  ]);
  if (row?.are_left === true) {
    throw locked;
  }
}
