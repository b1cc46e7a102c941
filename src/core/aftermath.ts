import type { Keep } from './extras.ts';
import type { Outcome, Timings } from './outcome.ts';
import type { QueueRow } from './request.ts';
import { defaultRetryPolicy, type RetryPolicy, retryAfterMs } from './retry.ts';

/** Which requests are kept for redelivery when they are done. */
export type KeepRequests = 'none' | 'failed' | 'all';

/** What a database says of requests that are done. */
export type Terms = {
  /** How requests are tried again that do not say so themselves. */
  readonly retry: RetryPolicy;
  readonly keepRequests: KeepRequests;
  /**
   * What the idempotency keys are made from that requests carry which may be tried again and were given none; undefined: they
   * carry none (`pg_net.idempotency_keys`).
   */
  readonly keysFrom: string | undefined;
};

/** When an attempt began and ended, in milliseconds since 1970, and the chance by which it is tried again. */
export type Attempt = {
  readonly startedAtMs: number;
  readonly endedAtMs: number;
  /** Gives numbers in [0, 1). */
  readonly random: () => number;
  /** The Idempotency-Key that it carried, where the worker made that; the same at every attempt. */
  readonly idempotencyKey?: string | undefined;
};

export const defaultTerms: Terms = Object.freeze({
  retry: defaultRetryPolicy,
  keepRequests: 'failed',
  keysFrom: undefined,
});

/** How a request ended: `failed` for an error or a status from 400 on, `dead` where all of its attempts were used up. */
export type EndState = 'succeeded' | 'failed' | 'dead' | 'cancelled';

/** What follows from an outcome beyond a recorded response. */
export type Aftermath = {
  readonly state: EndState;
  /** It goes back into the queue for so long, and nothing is recorded but the attempt; undefined: it is done. */
  readonly retryInMs: number | undefined;
  /** The number of the attempt that has ended, from 1. */
  readonly attempt: number;
  /** In milliseconds since 1970. */
  readonly startedAtMs: number;
  readonly timings: Timings;
  /** The request is kept for redelivery. */
  readonly isKept: boolean;
  readonly keep: Keep;
  readonly label: string | undefined;
  /** The function to be called with the response, by OID. */
  readonly callback: number | undefined;
  /** Those of its ordering key wait behind it. */
  readonly blocksKey: boolean;
  /** The Idempotency-Key that the worker made for it. */
  readonly idempotencyKey: string | undefined;
};

/** Undefined for most requests: their response is recorded, and that is all. */
export function aftermathOf(
  row: QueueRow,
  outcome: Outcome,
  { startedAtMs, endedAtMs, random, idempotencyKey }: Attempt,
  terms: Terms,
): Aftermath | undefined {
  const { extras } = row;
  const hasFailed = outcome.kind === 'failure' || outcome.status >= 400;
  if (extras === undefined && !hasFailed && terms.keepRequests !== 'all') {
    return undefined;
  }
  const attempt = (extras?.attempts ?? 0) + 1;
  const wasCancelled = isCancelled(outcome);
  const sinceFirstMs = endedAtMs - (extras?.firstSentAtMs ?? startedAtMs);
  const { delayMs, isRetryable } =
    hasFailed && !wasCancelled
      ? retryAfterMs(outcome, { policy: retryPolicyOf(row, terms), attempt, sinceFirstMs }, endedAtMs, random)
      : { delayMs: undefined, isRetryable: false };
  const state = !hasFailed ? 'succeeded' : wasCancelled ? 'cancelled' : isRetryable ? 'dead' : 'failed';
  const blocksKey = hasFailed && delayMs === undefined && !wasCancelled && extras?.blocksKey === true;
  // What blocks its key stays in the queue, and can be sent again from there.
  const isKept =
    !blocksKey && (terms.keepRequests === 'all' || (terms.keepRequests === 'failed' && hasFailed && !wasCancelled));
  const keep = extras?.keep ?? 'full';
  // Whoever cancelled it knows.
  const callback = wasCancelled ? undefined : hasFailed ? extras?.onError : extras?.onSuccess;
  const hasAftermath =
    delayMs !== undefined || isKept || attempt > 1 || keep !== 'full' || callback !== undefined || blocksKey;
  if (!hasAftermath && extras?.label === undefined) {
    return undefined;
  }
  return {
    state,
    retryInMs: delayMs,
    attempt,
    startedAtMs,
    timings: outcome.timings,
    isKept,
    keep,
    label: extras?.label,
    callback,
    blocksKey,
    idempotencyKey,
  };
}

/** How a request is tried again: what it says itself goes before the settings. */
export function retryPolicyOf({ extras }: Pick<QueueRow, 'extras'>, terms: Terms): RetryPolicy {
  return extras?.retry === undefined ? terms.retry : { ...terms.retry, ...extras.retry };
}

function isCancelled(outcome: Outcome): boolean {
  return outcome.kind === 'failure' && outcome.code === 'cancelled';
}
