/** What a request that has landed says of the host that it went to; undefined: nothing. */
export type Verdict = 'success' | 'failure';

/** What became of requests in one stretch of the window, which its number names: [slot, failures, all]. */
export type Tally = readonly [slot: number, failures: number, total: number];

/** The state of a breaker, in milliseconds since 1970 by the database's clock. */
export type Breaker = {
  /** `half_open`: one request is sent as a probe, and the others wait for what becomes of it. */
  readonly state: 'closed' | 'open' | 'half_open';
  /** Undefined: it has always been closed. */
  readonly sinceMs: number | undefined;
  /** When a probe may be sent; undefined where it is closed. */
  readonly retryAtMs: number | undefined;
  /** How often it has opened since it was last closed. */
  readonly openings: number;
  /** Those of the window, while it is closed; those that opened it, else. */
  readonly tallies: readonly Tally[];
};

export const closedBreaker: Breaker = Object.freeze({
  state: 'closed',
  sinceMs: undefined,
  retryAtMs: undefined,
  openings: 0,
  tallies: Object.freeze([]),
});

/** The window that outcomes are counted in, and the stretches that it moves by. */
const windowMs = 60_000;
const slotMs = 10_000;
/** It opens when so many requests of the window have failed, ... */
const failedShare = 0.7;
/** ... of so many at least. */
const requestsMin = 10;
/** The first pause; each that follows a failed probe is twice as long, up to the last. */
const firstPauseMs = 10_000;
const lastPauseMs = 600_000;
/** By so much of itself a pause is longer by chance, so that not all breakers of a failed network end theirs at once. */
const jitter = 0.1;
/** A probe of which nothing is heard for so long is taken for lost, and another one may be sent. */
const probeMs = 60_000;

/** The errors by which it is the host, or the way to it, that has failed. */
const hostFailures: ReadonlySet<string> = new Set([
  'unresolvable',
  'connect_failed',
  'proxy_failed',
  'certificate_expired',
  'certificate_not_yet_valid',
  'certificate_untrusted',
  'certificate_wrong_host',
  'tls_failed',
  'empty_reply',
  'bad_reply',
  'receive_failed',
  'send_failed',
  'timed_out',
]);

/**
 * What a response says of its host: a status from 500 on and errors of the network are failures. Any other status is a success,
 * 429 too: who says that it is too much is well, and Retry-After and limits are for that. What we refused ourselves says nothing.
 */
export function verdictOf(status: number | null, errorCode: string | null): Verdict | undefined {
  if (status !== null) return status >= 500 ? 'failure' : 'success';
  return errorCode !== null && hostFailures.has(errorCode) ? 'failure' : undefined;
}

/** Whether so many failures among so many requests open a breaker. */
export function opensAt(failures: number, total: number): boolean {
  return total >= requestsMin && failures >= total * failedShare;
}

/** How many of the requests of the window have failed, and how many there were. */
export function tallied(tallies: readonly Tally[]): { readonly failures: number; readonly total: number } {
  return {
    failures: tallies.reduce((sum, [, failures]) => sum + failures, 0),
    total: tallies.reduce((sum, [, , total]) => sum + total, 0),
  };
}

/** After so many requests have landed. What lands while it is not closed was sent before, and changes nothing. */
export function afterOutcomes(
  breaker: Breaker,
  { failures, total }: { readonly failures: number; readonly total: number },
  nowMs: number,
  random: () => number,
): Breaker {
  if (breaker.state !== 'closed') return breaker;
  const slot = Math.floor(nowMs / slotMs);
  const recent = breaker.tallies.filter(([its]) => its > slot - windowMs / slotMs && its <= slot);
  const now = recent.find(([its]) => its === slot) ?? [slot, 0, 0];
  const tallies: Tally[] = [...recent.filter(([its]) => its !== slot), [slot, now[1] + failures, now[2] + total]];
  const sum = tallied(tallies);
  const counted = { ...breaker, tallies };
  return opensAt(sum.failures, sum.total) ? opened(counted, nowMs, random) : counted;
}

function opened(breaker: Breaker, nowMs: number, random: () => number): Breaker {
  const pauseMs = Math.min(firstPauseMs * 2 ** Math.min(breaker.openings, 30), lastPauseMs);
  return {
    ...breaker,
    state: 'open',
    sinceMs: nowMs,
    retryAtMs: nowMs + pauseMs * (1 + jitter * random()),
    openings: breaker.openings + 1,
  };
}

/** Half open, for whoever asks to send the probe; undefined where it may not be sent now. */
export function takeProbe(breaker: Breaker, nowMs: number): Breaker | undefined {
  return breaker.state !== 'closed' && nowMs >= (breaker.retryAtMs ?? 0)
    ? { ...breaker, state: 'half_open', sinceMs: nowMs, retryAtMs: nowMs + probeMs }
    : undefined;
}

/** After a probe; where that says nothing (it was never sent, or we refused it) another one may be sent at once. */
export function afterProbe(
  breaker: Breaker,
  verdict: Verdict | undefined,
  nowMs: number,
  random: () => number,
): Breaker {
  if (breaker.state !== 'half_open') return breaker;
  if (verdict === 'success') return { ...closedBreaker, sinceMs: nowMs };
  return verdict === 'failure' ? opened(breaker, nowMs, random) : { ...breaker, state: 'open', retryAtMs: nowMs };
}
