import { admit } from '../core/admit.ts';
import type { Outcome } from '../core/outcome.ts';
import type { Standing } from '../core/policy.ts';
import type { ClaimedRequest, QueueRow } from '../core/request.ts';
import type { SendRules } from '../core/send-rules.ts';
import { type Settlement, settlementOf } from '../core/settlement.ts';

/** Sends a request and returns what became of it, by its deadline. Failures are data; it never rejects. */
export type Send = (request: ClaimedRequest, rules: SendRules) => Promise<Outcome>;

/**
 * The whole way of a claimed request: `QueueRow → ClaimedRequest → Outcome → Settlement`. Each stage takes what only the
 * stage before can make, so nothing that was not tried is recorded as done. The guard stands inside `send`, where the
 * address is dialled.
 */
export async function carryOut(row: QueueRow, standing: Standing, send: Send, rules: SendRules): Promise<Settlement> {
  const request = admit(row, standing.hostRules);
  const outcome = 'kind' in request ? request : await send(request, rules);
  return settlementOf(row, outcome);
}
