import type { Session, Statement } from '../postgres/database.ts';

/**
 * Marks requests that are to stay in the queue when their responses are recorded. One that was cancelled meanwhile, and has failed
 * before we heard of that, is given up already. The fence is in the statement that records.
 */
const holdStatement: Statement = {
  name: 'pgfetch_hold_keys',
  text: `
    update net.http_request_queue q
    set due_at = 'infinity'
    where q.id = any ($2::bigint[]) and q.claimed_by = $1 and q.cancel_asked is not true`,
};

const leaveStatement: Statement = {
  name: 'pgfetch_leave_blocking',
  text: `
    update net.http_request_queue q
    set claimed_by = null
    where q.id = any ($2::bigint[]) and q.claimed_by = $1`,
};

/**
 * Before the responses of failed requests are recorded that block their ordering keys: they will not be deleted from the queue.
 * In the transaction that records the responses, which {@link leaveBlocking} ends.
 */
export async function holdKeys(session: Session, workerId: bigint, ids: readonly bigint[]): Promise<void> {
  if (ids.length > 0) {
    await session.query(holdStatement, [workerId, ids]);
  }
}

/**
 * Their responses are recorded; they are nobody's any more, and due at no time: those of their keys wait until `net._retry_blocked`,
 * or until they are deleted.
 */
export async function leaveBlocking(session: Session, workerId: bigint, ids: readonly bigint[]): Promise<void> {
  if (ids.length > 0) {
    await session.query(leaveStatement, [workerId, ids]);
  }
}
