import { admit } from '../core/admit.ts';
import { aftermathOf, type Terms } from '../core/aftermath.ts';
import type { Cancellation } from '../core/cancellation.ts';
import type { Outcome } from '../core/outcome.ts';
import type { Standing } from '../core/policy.ts';
import type { ClaimedRequest, QueueRow, SendableRequest } from '../core/request.ts';
import { withoutSecrets } from '../core/secret-redaction.ts';
import type { SendRules } from '../core/send-rules.ts';
import { type Settlement, settlementOf } from '../core/settlement.ts';
import type { Furnish } from '../secrets/secrets.ts';
import { madeKeyOf, withKey } from './idempotency-key.ts';

/** Sends a request and returns what became of it, by its deadline or when it is cancelled. Failures are data; it never rejects. */
export type Send = (request: SendableRequest, rules: SendRules, cancellation: Cancellation) => Promise<Outcome>;

/** What the way of a request needs of others. */
export type Stages = {
  readonly furnish: Furnish;
  readonly send: Send;
  /** Milliseconds since 1970. */
  readonly clock: () => number;
  /** Gives numbers in [0, 1). */
  readonly random: () => number;
};

/**
 * The whole way of a claimed request: `QueueRow → SendableRequest → Outcome → Settlement`. Each stage takes what only the
 * stage before can make, so nothing that was not tried is recorded as done. The guard stands inside `send`, where the
 * address is dialled.
 */
export async function carryOut(
  row: QueueRow,
  standing: Standing,
  stages: Stages,
  rules: SendRules,
  terms: Terms,
  cancellation: Cancellation,
): Promise<Settlement> {
  const startedAtMs = stages.clock();
  const admitted = admit(row, standing.hostRules);
  const idempotencyKey = admitted.kind === 'failure' ? undefined : madeKeyOf(admitted, terms);
  const request =
    admitted.kind === 'failure' || idempotencyKey === undefined ? admitted : withKey(admitted, idempotencyKey);
  const outcome =
    request.kind === 'sendable'
      ? await stages.send(request, rules, cancellation)
      : request.kind === 'claimed'
        ? await sendWithSecrets(request, standing, stages, rules, cancellation)
        : request;
  const attempt = { startedAtMs, endedAtMs: stages.clock(), random: stages.random, idempotencyKey };
  return settlementOf(row, outcome, aftermathOf(row, outcome, attempt, terms));
}

/** The longer way: `ClaimedRequest → SendableRequest → Outcome`, with the secrets in the middle only. */
async function sendWithSecrets(
  request: ClaimedRequest,
  standing: Standing,
  { furnish, send }: Stages,
  rules: SendRules,
  cancellation: Cancellation,
): Promise<Outcome> {
  const furnished = await furnish(request, standing);
  if (furnished.kind === 'failure') return furnished;
  return withoutSecrets(await send(furnished.request, rules, cancellation), furnished.secrets, rules.responseBytesMax);
}
