import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { aftermathOf, defaultTerms, type Terms } from '../../src/core/aftermath.ts';
import { type Extras, parseExtras } from '../../src/core/extras.ts';
import { type FailureCode, noTimings, type Outcome } from '../../src/core/outcome.ts';
import type { HeaderList, QueueRow } from '../../src/core/request.ts';
import {
  askedDelayMs,
  defaultRetryPolicy,
  parseRetryPolicy,
  type RetryPolicy,
  retryAfterMs,
} from '../../src/core/retry.ts';
import { parseStatuses } from '../../src/core/statuses.ts';

const reply = (status: number, headers: HeaderList = []): Outcome => ({
  kind: 'reply',
  status,
  headers,
  body: new Uint8Array(),
  truncated: false,
  timings: noTimings,
});
const failed = (code: FailureCode): Outcome => ({ kind: 'failure', code, message: 'x', timings: noTimings });

const now = Date.UTC(2026, 10, 21, 12, 0, 0);
const longest = (): number => 1 - Number.EPSILON;
const policy: RetryPolicy = { ...defaultRetryPolicy, maxAttempts: 5 };
/** The delay after an attempt that just ended; the draw is the largest there is. */
const delay = (outcome: Outcome, of: Partial<RetryPolicy> = {}, attempt = 1, sinceFirstMs = 0, random = longest) =>
  retryAfterMs(outcome, { policy: { ...policy, ...of }, attempt, sinceFirstMs }, now, random).delayMs;

describe('backoff', () => {
  test('doubles its bound with each attempt up to the largest, and draws from a tenth of it', () => {
    const bounds = [1, 2, 3, 4, 5].map((attempt) => delay(reply(503), { maxAttempts: 9, maxDelayMs: 5_000 }, attempt));
    expect(bounds).toEqual([1_000, 2_000, 4_000, 5_000, 5_000]);
    expect(delay(reply(503), {}, 3, 0, () => 0)).toBe(400);
    expect(delay(reply(503), {}, 3, 0, () => 0.5)).toBe(2_200);
  });

  test('goes on doubling up to the largest delay, however small the first one was', () => {
    const policy = { maxAttempts: 100, firstDelayMs: 1, maxDelayMs: 2_592_000_000, timeLimitMs: 31_536_000_000 };
    expect(delay(reply(503), policy, 33, 0, () => 1)).toBe(2_592_000_000);
  });

  test('stays within its bounds, ends in time, and never begins an attempt too many, whatever happens', () => {
    const anyPolicy = fc.record({
      maxAttempts: fc.integer({ min: 1, max: 100 }),
      firstDelayMs: fc.integer({ min: 1, max: 86_400_000 }),
      maxDelayMs: fc.integer({ min: 1, max: 2_592_000_000 }),
      timeLimitMs: fc.integer({ min: 1_000, max: 31_536_000_000 }),
      maxRetryAfterMs: fc.integer({ min: 0, max: 2_592_000_000 }),
      statuses: fc.constant(defaultRetryPolicy.statuses),
      errors: fc.boolean(),
    });
    const asked = fc.oneof(fc.constant(undefined), fc.bigInt({ min: 0n, max: 10n ** 30n }).map(String), fc.string());
    const state = fc.tuple(
      fc.integer({ min: 1, max: 120 }),
      fc.integer({ min: -1_000, max: 40_000_000_000 }),
      fc.double({ min: 0, max: 1, maxExcluded: true, noNaN: true }),
    );
    fc.assert(
      fc.property(anyPolicy, asked, state, (p, header, [attempt, sinceFirstMs, draw]) => {
        const outcome = reply(503, header === undefined ? [] : [['Retry-After', header]]);
        const { delayMs } = retryAfterMs(outcome, { policy: p, attempt, sinceFirstMs }, now, () => draw);
        if (delayMs === undefined) return;
        const bound = Math.min(p.maxDelayMs, p.firstDelayMs * 2 ** (attempt - 1));
        const serverMs = Math.min(
          askedDelayMs(header === undefined ? [] : [['Retry-After', header]], now) ?? 0,
          p.maxRetryAfterMs,
        );
        expect(delayMs).toBeGreaterThanOrEqual(Math.max(Math.floor(bound / 10), serverMs));
        expect(delayMs).toBeLessThanOrEqual(Math.max(bound, serverMs));
        expect(attempt).toBeLessThan(p.maxAttempts);
        expect(sinceFirstMs + delayMs).toBeLessThanOrEqual(p.timeLimitMs);
      }),
      { numRuns: 2_000 },
    );
  });

  test('an attempt that would begin after the time limit is not waited for', () => {
    expect(delay(reply(503), { timeLimitMs: 10_000 }, 1, 9_000)).toBe(1_000);
    expect(delay(reply(503), { timeLimitMs: 10_000 }, 1, 9_001)).toBeUndefined();
    expect(delay(reply(503, [['retry-after', '60']]), { timeLimitMs: 59_999 })).toBeUndefined();
  });
});

describe('Retry-After', () => {
  const at = (value: string): number | undefined => askedDelayMs([['Retry-After', value]], now);

  test('in seconds, and in the three forms of dates', () => {
    expect(at('120')).toBe(120_000);
    expect(at(' 0 ')).toBe(0);
    expect(at('Sat, 21 Nov 2026 12:02:00 GMT')).toBe(120_000);
    expect(at('Saturday, 21-Nov-26 12:02:00 GMT')).toBe(120_000);
    expect(at('Sat Nov 21 12:02:00 2026')).toBe(120_000);
    expect(at('Tue Dec  1 12:00:00 2026')).toBe(10 * 86_400_000);
    // In the past: at once. RFC 850's two digits: less than 50 years away.
    expect(at('Sun, 06 Nov 1994 08:49:37 GMT')).toBe(0);
    expect(at('Sunday, 06-Nov-94 08:49:37 GMT')).toBe(0);
    expect(at('Friday, 01-Jan-27 00:00:00 GMT')).toBe(Date.UTC(2027, 0, 1) - now);
  });

  test('every date reads as what it says', () => {
    const date = fc.date({ min: new Date(now), max: new Date(now + 40 * 365 * 86_400_000), noInvalidDate: true });
    fc.assert(
      fc.property(date, (when) => {
        const fixed = when.toUTCString();
        const [, day, month, year, time] = /^\w+, (\d\d) (\w+) (\d+) (\S+) GMT$/.exec(fixed) ?? [];
        const ms = Math.floor(when.getTime() / 1_000) * 1_000 - now;
        expect(at(fixed)).toBe(ms);
        expect(at(`Wednesday, ${day}-${month}-${year?.slice(2)} ${time} GMT`)).toBe(ms);
        expect(at(`Wed ${month} ${day?.replace(/^0/, ' ')} ${time} ${year}`)).toBe(ms);
      }),
    );
  });

  test.each([
    ...['', '-1', '1.5', '1e3', 'soon', '2026-11-21T12:02:00Z', 'Sat, 21 Nov 2026 12:02:00 CET'],
    ...['Sat, 31 Feb 2027 12:02:00 GMT', 'Sat, 21 Nox 2026 12:02:00 GMT', 'Sat, 21 Nov 2026 25:02:00 GMT'],
  ])('%j is as good as none', (value) => {
    expect(at(value)).toBeUndefined();
  });

  test('the longer of the two holds, cut to the longest that is obeyed; 0: none is', () => {
    expect(delay(reply(429, [['RETRY-AFTER', '30']]))).toBe(30_000);
    expect(delay(reply(429, [['retry-after', '30']]), { firstDelayMs: 60_000 })).toBe(60_000);
    expect(delay(reply(429, [['retry-after', '7200']]))).toBe(3_600_000);
    expect(delay(reply(429, [['retry-after', '7200']]), { maxRetryAfterMs: 0 })).toBe(1_000);
    expect(delay(reply(404, [['retry-after', '1']]))).toBeUndefined();
  });
});

describe('what is tried again', () => {
  test('429, 5xx and failures of the network, unless the policy says otherwise', () => {
    const statuses = Array.from({ length: 900 }, (_, i) => i + 100).filter((s) => delay(reply(s)) !== undefined);
    expect(statuses).toEqual([429, ...Array.from({ length: 100 }, (_, i) => i + 500)]);
    expect(delay(failed('connect_failed'))).toBe(1_000);
    expect(delay(failed('connect_failed'), { errors: false })).toBeUndefined();
    for (const code of ['denied', 'invalid_request', 'certificate_expired', 'secret_refused', 'cancelled'] as const) {
      expect(delay(failed(code)), code).toBeUndefined();
    }
  });

  test('statuses are single ones, ranges and classes from 400 to 599', () => {
    const read = (text: string): number[] | undefined => {
      const meant = parseStatuses(text);
      return meant && Array.from({ length: 1_000 }, (_, i) => i).filter(meant);
    };
    expect(read('408, 429,500-502')).toEqual([408, 429, 500, 501, 502]);
    expect(read(' 599 - 599 ')).toEqual([599]);
    expect(read('4xx')).toHaveLength(100);
    expect(read('')).toEqual([]);
    for (const text of ['5XX', '200', '3xx', '600', '504-500', '429,', '429 500', '5x', ',', '429-', '4xx-5xx']) {
      expect(read(text), text).toBeUndefined();
    }
  });
});

describe('what follows', () => {
  const terms: Terms = { ...defaultTerms, retry: policy, keepRequests: 'none' };
  const row = (extras?: Partial<Extras>): QueueRow => ({
    id: 1n,
    method: 'GET',
    url: 'http://h/',
    headersJson: '{}',
    body: null,
    timeoutMs: 1,
    loginRole: 10,
    setRole: null,
    signWith: null,
    extras: extras && { ...parseExtras('{}'), ...extras },
  });
  const followed = (outcome: Outcome, extras?: Partial<Extras>, of: Terms = terms) =>
    aftermathOf(row(extras), outcome, { startedAtMs: now - 100, endedAtMs: now, random: longest }, of);

  test('a request without extras is tried again as the settings say, and a success leaves nothing', () => {
    expect(followed(reply(200))).toBeUndefined();
    expect(followed(reply(503))).toMatchObject({ retryInMs: 1_000, attempt: 1, startedAtMs: now - 100 });
    expect(followed(reply(404))).toBeUndefined();
    expect(followed(reply(503), undefined, { ...terms, retry: defaultRetryPolicy })).toBeUndefined();
  });

  test('what a request says itself goes before the settings, and what it does not say is theirs', () => {
    const retry = parseRetryPolicy({ maxAttempts: 2, statuses: '409' });
    const of = { ...terms, retry: { ...policy, firstDelayMs: 7_000 } };
    expect(followed(reply(409), { retry }, of)).toMatchObject({ retryInMs: 7_000 });
    expect(followed(reply(503), { retry, label: 'x' }, of)).toMatchObject({ retryInMs: undefined, state: 'failed' });
    expect(followed(reply(503), { retry: parseRetryPolicy({ maxAttempts: 1 }), label: 'x' })).toMatchObject({
      retryInMs: undefined,
      state: 'failed',
    });
  });

  test('used up is dead: by attempts, by time; what would not have been tried again has failed', () => {
    expect(followed(reply(503), { attempts: 4, firstSentAtMs: now - 5_000 })).toMatchObject({
      state: 'dead',
      attempt: 5,
    });
    expect(followed(reply(503), { attempts: 1, firstSentAtMs: now - 86_400_000 })).toMatchObject({ state: 'dead' });
    expect(followed(reply(404), { attempts: 1, firstSentAtMs: now })).toMatchObject({ state: 'failed', attempt: 2 });
    expect(followed(reply(200), { attempts: 4, firstSentAtMs: now })).toMatchObject({ state: 'succeeded', attempt: 5 });
  });

  test('however often it fails, it is tried as often as it may and no more', () => {
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 100 }), fc.integer({ min: 1, max: 200 }), (maxAttempts, firstDelayMs) => {
        const retry = parseRetryPolicy({ maxAttempts, firstDelayMs, maxDelayMs: firstDelayMs });
        let attempts = 0;
        let next = aftermathOf(
          row({ retry }),
          reply(500),
          { startedAtMs: now, endedAtMs: now, random: longest },
          terms,
        );
        while (next?.retryInMs !== undefined) {
          attempts += 1;
          const endedAtMs = now + attempts * firstDelayMs;
          next = aftermathOf(
            row({ retry, attempts, firstSentAtMs: now, label: 'x' }),
            reply(500),
            { startedAtMs: endedAtMs, endedAtMs, random: longest },
            terms,
          );
        }
        expect(attempts + 1).toBe(maxAttempts);
      }),
      { numRuns: 50 },
    );
  });

  test('what makes no sense in a row is as good as not said', () => {
    expect(
      parseRetryPolicy({ maxAttempts: 0, firstDelayMs: -1, statuses: 'all', errors: 'no', timeLimitMs: '1' }),
    ).toEqual({});
    expect(parseRetryPolicy({ maxAttempts: 1e9 })).toEqual({ maxAttempts: 100 });
    expect(parseRetryPolicy(null)).toBeUndefined();
    expect(parseRetryPolicy('x')).toBeUndefined();
  });
});
