import type { Outcome } from './outcome.ts';

/** How a request is tried again. */
export type RetryPolicy = {
  /** The first attempt included. */
  readonly maxAttempts: number;
  /** Bound of the first delay, in milliseconds; doubled with each attempt up to `maxDelayMs`, with full jitter. */
  readonly firstDelayMs: number;
  readonly maxDelayMs: number;
  /** No attempt begins later than this after the first one did. */
  readonly timeLimitMs: number;
  /** Whether this status is tried again. */
  readonly statuses: (status: number) => boolean;
  /** Whether failures of the network are tried again. */
  readonly errors: boolean;
  /** The longest delay that a Retry-After header is obeyed for; 0: none is. */
  readonly maxRetryAfterMs: number;
};

/** The settings' policy where they say nothing: one attempt, as pg_net. */
export const defaultRetryPolicy: RetryPolicy = Object.freeze({
  maxAttempts: 1,
  firstDelayMs: 1_000,
  maxDelayMs: 600_000,
  timeLimitMs: 86_400_000,
  statuses: (status: number): boolean => status === 429 || status >= 500,
  errors: true,
  maxRetryAfterMs: 3_600_000,
});

/** A policy as `net._checked_retry` writes it; what it leaves out is the default's. Undefined where there is none. */
export function parseRetryPolicy(given: unknown): RetryPolicy | undefined {
  if (typeof given !== 'object' || given === null) {
    return undefined;
  }
  const of: Readonly<Record<string, unknown>> = { ...given };
  const number = (name: string, fallback: number): number => {
    const value = of[name];
    return typeof value === 'number' && value >= 0 ? value : fallback;
  };
  return {
    maxAttempts: number('maxAttempts', 1),
    firstDelayMs: number('firstDelayMs', defaultRetryPolicy.firstDelayMs),
    maxDelayMs: number('maxDelayMs', defaultRetryPolicy.maxDelayMs),
    timeLimitMs: number('timeLimitMs', defaultRetryPolicy.timeLimitMs),
    statuses: defaultRetryPolicy.statuses,
    errors: of['errors'] !== false,
    maxRetryAfterMs: number('maxRetryAfterMs', defaultRetryPolicy.maxRetryAfterMs),
  };
}

/** What is tried again, and when. */
export type Retry = {
  readonly policy: RetryPolicy;
  /** The number of the attempt that has ended, from 1. */
  readonly attempt: number;
  /** How long ago the first attempt began, in milliseconds. */
  readonly sinceFirstMs: number;
};

/** After how many milliseconds to try again; undefined: no more. `isRetryable`: whether more attempts would have made sense. */
export function retryAfterMs(
  _outcome: Outcome,
  _retry: Retry,
  _nowMs: number,
  _random: () => number,
): { readonly delayMs: number | undefined; readonly isRetryable: boolean } {
  return { delayMs: undefined, isRetryable: false };
}
