import { backoffMs } from './backoff.ts';
import type { FailureCode, Outcome } from './outcome.ts';
import type { HeaderList } from './request.ts';
import { parseStatuses, type Statuses } from './statuses.ts';

/** How a request is tried again. */
export type RetryPolicy = {
  /** The first attempt included; 1 to 100. */
  readonly maxAttempts: number;
  /** Bound of the first delay, in milliseconds; doubled with each attempt up to `maxDelayMs`, with full jitter. */
  readonly firstDelayMs: number;
  readonly maxDelayMs: number;
  /** No attempt begins later than this after the first one did, in milliseconds. */
  readonly timeLimitMs: number;
  /** Whether this status is tried again. */
  readonly statuses: Statuses;
  /** Whether failures of the network are tried again. */
  readonly errors: boolean;
  /** The longest delay that a Retry-After header is obeyed for, in milliseconds; 0: none is. */
  readonly maxRetryAfterMs: number;
};

/** The settings' policy where they say nothing: one attempt, as pg_net. */
export const defaultRetryPolicy: RetryPolicy = Object.freeze({
  maxAttempts: 1,
  firstDelayMs: 1_000,
  maxDelayMs: 600_000,
  timeLimitMs: 86_400_000,
  statuses: (status: number): boolean => status === 429 || (status >= 500 && status <= 599),
  errors: true,
  maxRetryAfterMs: 3_600_000,
});

const attemptsMax = 100;

/**
 * What a request says of its policy, as `net._checked_retry` writes it; the rest is as the settings say. Undefined where it says
 * nothing. A row that was inserted by hand may hold anything; what makes no sense is as good as not said.
 */
export function parseRetryPolicy(given: unknown): Partial<RetryPolicy> | undefined {
  if (typeof given !== 'object' || given === null) {
    return undefined;
  }
  const of: Readonly<Record<string, unknown>> = { ...given };
  const policy: { -readonly [name in keyof RetryPolicy]?: RetryPolicy[name] } = {};
  for (const name of ['firstDelayMs', 'maxDelayMs', 'timeLimitMs', 'maxRetryAfterMs'] as const) {
    const value = of[name];
    if (typeof value === 'number' && value >= 0) {
      policy[name] = value;
    }
  }
  const { maxAttempts, statuses, errors } = of;
  if (typeof maxAttempts === 'number' && maxAttempts >= 1) {
    policy.maxAttempts = Math.min(maxAttempts, attemptsMax);
  }
  const parsed = typeof statuses === 'string' ? parseStatuses(statuses) : undefined;
  if (parsed !== undefined) {
    policy.statuses = parsed;
  }
  if (typeof errors === 'boolean') {
    policy.errors = errors;
  }
  return policy;
}

/**
 * Which failures may be gone the next time: the network's, and a secret that could not be read. Those that would only repeat
 * themselves (the request, the policy, the certificate, where a redirect leads) are not tried again. In docs/retries.md.
 */
const passes: Readonly<Record<FailureCode, boolean>> = {
  unresolvable: true,
  connect_failed: true,
  proxy_failed: true,
  tls_failed: true,
  empty_reply: true,
  bad_reply: true,
  receive_failed: true,
  send_failed: true,
  timed_out: true,
  secret_unavailable: true,
  invalid_request: false,
  unsupported_scheme: false,
  invalid_url: false,
  denied: false,
  secret_refused: false,
  certificate_expired: false,
  certificate_not_yet_valid: false,
  certificate_untrusted: false,
  certificate_wrong_host: false,
  bad_content_encoding: false,
  too_many_redirects: false,
  insecure_redirect: false,
  cancelled: false,
  failed: false,
};

/** An attempt that has ended. */
export type Retry = {
  readonly policy: RetryPolicy;
  /** The number of the attempt that has ended, from 1. */
  readonly attempt: number;
  /** How long ago the first attempt began, in milliseconds. */
  readonly sinceFirstMs: number;
};

/**
 * After how many milliseconds to try again; undefined: no more. The longer of the backoff and of what the server asks for; one that
 * would end after the time limit is not waited for. `isRetryable`: with more attempts or more time it would be tried again.
 */
export function retryAfterMs(
  outcome: Outcome,
  { policy, attempt, sinceFirstMs }: Retry,
  nowMs: number,
  random: () => number,
): { readonly delayMs: number | undefined; readonly isRetryable: boolean } {
  const isRetryable =
    policy.maxAttempts > 1 &&
    (outcome.kind === 'reply' ? policy.statuses(outcome.status) : policy.errors && passes[outcome.code]);
  if (!isRetryable || attempt >= policy.maxAttempts) {
    return { delayMs: undefined, isRetryable };
  }
  const bounds = { firstMs: policy.firstDelayMs, lastMs: policy.maxDelayMs };
  const askedMs = outcome.kind === 'reply' ? (askedDelayMs(outcome.headers, nowMs) ?? 0) : 0;
  const delayMs = Math.max(backoffMs(attempt - 1, bounds, random), Math.min(askedMs, policy.maxRetryAfterMs));
  return { delayMs: sinceFirstMs + delayMs <= policy.timeLimitMs ? delayMs : undefined, isRetryable };
}

/**
 * The delay that a reply asks for by Retry-After (RFC 9110, 10.2.3), in milliseconds: a number of seconds, or a date in any of the
 * three forms of HTTP (5.6.7), seen from `nowMs`, a time since 1970. Undefined where there is none, or none that can be read.
 */
export function askedDelayMs(headers: HeaderList, nowMs: number): number | undefined {
  const value = headers.findLast(([name]) => name.toLowerCase() === 'retry-after')?.[1].trim();
  if (value === undefined) {
    return undefined;
  }
  if (/^\d+$/.test(value)) {
    return Number(value) * 1_000;
  }
  const atMs = httpDateMs(value, nowMs);
  return atMs === undefined ? undefined : Math.max(atMs - nowMs, 0);
}

const dateForms: readonly RegExp[] = [
  // IMF-fixdate, which is the one that servers are to write; RFC 850's; asctime's.
  /^[a-z]{3}, (?<day>\d\d) (?<month>[a-z]{3}) (?<year>\d{4}) (?<hour>\d\d):(?<minute>\d\d):(?<second>\d\d) GMT$/i,
  /^[a-z]{6,9}, (?<day>\d\d)-(?<month>[a-z]{3})-(?<year>\d\d) (?<hour>\d\d):(?<minute>\d\d):(?<second>\d\d) GMT$/i,
  /^[a-z]{3} (?<month>[a-z]{3}) (?<day>[ \d]\d) (?<hour>\d\d):(?<minute>\d\d):(?<second>\d\d) (?<year>\d{4})$/i,
];
const months = ['jan', 'feb', 'mar', 'apr', 'may', 'jun', 'jul', 'aug', 'sep', 'oct', 'nov', 'dec'];

function httpDateMs(text: string, nowMs: number): number | undefined {
  const parts = dateForms.map((form) => form.exec(text)?.groups).find((groups) => groups !== undefined);
  if (parts === undefined) {
    return undefined;
  }
  const number = (name: string): number => Number(parts[name]);
  const year = parts['year']?.length === 2 ? nearestYear(number('year'), nowMs) : number('year');
  const month = months.indexOf(parts['month']?.toLowerCase() ?? '');
  const [day, hour, minute, second] = [number('day'), number('hour'), number('minute'), number('second')];
  const atMs = Date.UTC(year, month, day, hour, minute, second);
  const isDate = month >= 0 && new Date(Date.UTC(year, month, day)).getUTCDate() === day;
  return isDate && hour <= 23 && minute <= 59 && second <= 60 ? atMs : undefined;
}

/** Of the years with these last two digits the one that is less than 50 years away. */
function nearestYear(digits: number, nowMs: number): number {
  const thisYear = new Date(nowMs).getUTCFullYear();
  return digits + 100 * Math.round((thisYear - digits) / 100);
}
