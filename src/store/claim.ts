import type { QueueRow } from '../core/request.ts';
import type { Row, Session, Statement } from '../postgres/database.ts';

/**
 * Takes up to `$2` waiting requests for worker `$1` and marks them as its own; they stay in the queue until they are done.
 *
 * Rows that came back (`due_at` set) are found through a small index of their own; the others in the order of their ids,
 * from the low-water mark `$3` on, so that the dead row versions of finished requests are not read again, however long
 * some other transaction keeps them from being vacuumed. SKIP LOCKED: several workers share the queue without waiting.
 * The lock on the worker's own row fences it: once it has been declared dead it claims nothing. While its registration
 * stands there is a row, of nulls where nothing was claimed; no row at all means that it is gone (declared dead, or DROP
 * EXTENSION), which an idle worker would otherwise not notice.
 */
const claimStatement: Statement = {
  name: 'pgfetch_claim',
  text: `
    with me as materialized (
      select w.id from net.worker w where w.id = $1 for key share
    ),
    due as materialized (
      select q.id
      from net.http_request_queue q
      where q.due_at <= pg_catalog.clock_timestamp() and q.claimed_by is null
      order by q.due_at
      limit $2
      for update skip locked
    ),
    fresh as materialized (
      select q.id
      from net.http_request_queue q
      where q.id > $3 and q.due_at is null and q.claimed_by is null
      order by q.id
      limit $2 - (select pg_catalog.count(*) from due)
      for update skip locked
    ),
    claimed as (
      update net.http_request_queue q
      set claimed_by = me.id
      from me, (select id from due union all select id from fresh) picked
      where q.id = picked.id
      returning q.id, q.method, q.url, q.headers, q.body, q.timeout_milliseconds, q.login_role, q.set_role,
        q.due_at is not null as came_back
    )
    select c.* from me left join claimed c on true`,
};

type ClaimRow = Row & {
  id: bigint;
  method: string;
  url: string;
  headers: string;
  body: Uint8Array | null;
  timeout_milliseconds: number;
  login_role: number | null;
  set_role: number | null;
  came_back: boolean;
};

/** The registration stands and there was nothing to claim. */
type NoClaimRow = Row & { id: null };

function isClaimed(row: ClaimRow | NoClaimRow): row is ClaimRow {
  return row.id !== null;
}

export type Claimed = {
  readonly rows: readonly QueueRow[];
  /** The highest id among those that had only waited; null where there were none. */
  readonly highestFreshId: bigint | null;
};

/**
 * Claims at most `rowsMax` waiting requests with ids above `afterId` (and any that came back). Null where the worker's
 * registration is gone.
 */
export async function claim(
  session: Session,
  workerId: bigint,
  rowsMax: number,
  afterId: bigint,
): Promise<Claimed | null> {
  const answer = await session.query<ClaimRow | NoClaimRow>(claimStatement, [workerId, rowsMax, afterId]);
  if (answer.length === 0) {
    return null;
  }
  let highestFreshId: bigint | null = null;
  const rows = answer.filter(isClaimed).map((row) => {
    if (!row.came_back && (highestFreshId === null || row.id > highestFreshId)) {
      highestFreshId = row.id;
    }
    return {
      id: row.id,
      method: row.method,
      url: row.url,
      headersJson: row.headers,
      body: row.body,
      timeoutMs: row.timeout_milliseconds,
      loginRole: row.login_role,
      setRole: row.set_role,
    };
  });
  return { rows, highestFreshId };
}
