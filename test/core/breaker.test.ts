import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import {
  afterOutcomes,
  afterProbe,
  type Breaker,
  closedBreaker,
  takeProbe,
  tallied,
  verdictOf,
} from '../../src/core/breaker.ts';

const startMs = Date.UTC(2026, 10, 21);
const noJitter = (): number => 0;

/** A breaker that has seen these, one after another. */
function having(
  failures: number,
  successes: number,
  nowMs: number = startMs,
  breaker: Breaker = closedBreaker,
): Breaker {
  let now = breaker;
  for (let i = 0; i < successes; i += 1) now = afterOutcomes(now, { failures: 0, total: 1 }, nowMs, noJitter);
  for (let i = 0; i < failures; i += 1) now = afterOutcomes(now, { failures: 1, total: 1 }, nowMs, noJitter);
  return now;
}

/** Open after its `openings`th failure in a row. */
function openedTimes(openings: number, random: () => number = noJitter): Breaker {
  let breaker = afterOutcomes(closedBreaker, { failures: 10, total: 10 }, startMs, random);
  for (let i = 1; i < openings; i += 1) {
    const probing = takeProbe(breaker, breaker.retryAtMs ?? 0);
    if (probing === undefined) throw new Error('no probe may be sent');
    breaker = afterProbe(probing, 'failure', breaker.retryAtMs ?? 0, random);
  }
  return breaker;
}

describe('a breaker', () => {
  test('opens when seven in ten of ten have failed, and not before', () => {
    expect(having(9, 0).state).toBe('closed');
    expect(having(10, 0).state).toBe('open');
    expect(having(6, 4).state).toBe('closed');
    expect(having(7, 3).state).toBe('open');
    expect(having(23, 10).state).toBe('closed');
    expect(having(24, 10).state).toBe('open');
  });

  test('counts what came within a minute', () => {
    const nine = having(9, 0);
    expect(having(1, 0, startMs + 59_999, nine).state).toBe('open');
    const later = having(1, 0, startMs + 60_000, nine);
    expect(later.state).toBe('closed');
    expect(tallied(later.tallies)).toEqual({ failures: 1, total: 1 });
    // A clock that was put back.
    expect(tallied(having(1, 0, startMs - 3_600_000, nine).tallies)).toEqual({ failures: 1, total: 1 });
  });

  test('pauses for ten seconds, then twice as long each time, for ten minutes at most', () => {
    const pauses = [1, 2, 3, 6, 7, 8, 40].map((openings) => {
      const { sinceMs = 0, retryAtMs = 0 } = openedTimes(openings);
      return (retryAtMs - sinceMs) / 1_000;
    });
    expect(pauses).toEqual([10, 20, 40, 320, 600, 600, 600]);
  });

  test('lets one probe through when the pause has ended', () => {
    const open = openedTimes(1);
    const retryAtMs = open.retryAtMs ?? 0;
    expect(takeProbe(open, retryAtMs - 1)).toBeUndefined();
    const probing = takeProbe(open, retryAtMs);
    expect(probing?.state).toBe('half_open');
    if (probing === undefined) return;
    expect(takeProbe(probing, retryAtMs + 59_999)).toBeUndefined();
    // Whoever had it is gone.
    expect(takeProbe(probing, retryAtMs + 60_000)?.state).toBe('half_open');
    expect(takeProbe(closedBreaker, startMs)).toBeUndefined();
  });

  test('closes when the probe succeeds, opens when it fails, and has another one sent when it says nothing', () => {
    const open = openedTimes(3);
    const retryAtMs = open.retryAtMs ?? 0;
    const probing = takeProbe(open, retryAtMs) ?? closedBreaker;
    const closed = afterProbe(probing, 'success', retryAtMs + 1, noJitter);
    expect(closed).toEqual({ ...closedBreaker, sinceMs: retryAtMs + 1 });
    expect(afterProbe(probing, 'failure', retryAtMs, noJitter)).toMatchObject({ state: 'open', openings: 4 });
    const undecided = afterProbe(probing, undefined, retryAtMs + 5, noJitter);
    expect(undecided).toMatchObject({ state: 'open', openings: 3, retryAtMs: retryAtMs + 5 });
    // Somebody closed it meanwhile.
    expect(afterProbe(closed, 'failure', retryAtMs + 5, noJitter)).toBe(closed);
  });

  test('what lands while it is not closed changes nothing', () => {
    const open = openedTimes(1);
    expect(afterOutcomes(open, { failures: 0, total: 1_000 }, startMs + 1, noJitter)).toBe(open);
  });

  test('whatever happens: it is open for a reason and for a bounded time, and remembers a minute', () => {
    const step = fc.record({
      what: fc.constantFrom('outcomes', 'probe', 'success', 'failure', 'nothing'),
      failures: fc.integer({ min: 0, max: 20 }),
      successes: fc.integer({ min: 0, max: 20 }),
      afterMs: fc.integer({ min: 0, max: 700_000 }),
      chance: fc.double({ min: 0, max: 1, maxExcluded: true, noNaN: true }),
    });
    fc.assert(
      fc.property(fc.array(step, { maxLength: 60 }), (steps) => {
        let breaker = closedBreaker;
        let nowMs = startMs;
        for (const { what, failures, successes, afterMs, chance } of steps) {
          nowMs += afterMs;
          const before = breaker;
          const random = (): number => chance;
          if (what === 'outcomes') {
            breaker = afterOutcomes(before, { failures, total: failures + successes }, nowMs, random);
          } else if (what === 'probe') {
            breaker = takeProbe(before, nowMs) ?? before;
          } else {
            breaker = afterProbe(before, what === 'nothing' ? undefined : what, nowMs, random);
          }
          const sum = tallied(breaker.tallies);
          expect(breaker.tallies.length).toBeLessThanOrEqual(6);
          if (breaker.state === 'closed') {
            expect(breaker.retryAtMs).toBeUndefined();
            expect(breaker.openings).toBe(0);
            expect(sum.total >= 10 && sum.failures >= sum.total * 0.7).toBe(false);
          } else {
            expect(sum.total).toBeGreaterThanOrEqual(10);
            expect(sum.failures).toBeGreaterThanOrEqual(sum.total * 0.7);
            expect((breaker.retryAtMs ?? Number.POSITIVE_INFINITY) - nowMs).toBeLessThanOrEqual(660_000);
          }
          if (breaker.state === 'half_open' && before.state !== 'half_open') {
            expect(nowMs).toBeGreaterThanOrEqual(before.retryAtMs ?? Number.POSITIVE_INFINITY);
          }
        }
      }),
    );
  });
});

test('a status from 500 on and errors of the network are failures; what we refused says nothing', () => {
  expect([200, 302, 404, 429, 499].map((status) => verdictOf(status, null))).toEqual(Array(5).fill('success'));
  expect([500, 503, 599].map((status) => verdictOf(status, null))).toEqual(Array(3).fill('failure'));
  expect(['timed_out', 'connect_failed', 'unresolvable', 'tls_failed'].map((code) => verdictOf(null, code))).toEqual(
    Array(4).fill('failure'),
  );
  expect(['denied', 'invalid_url', 'cancelled', 'secret_refused'].map((code) => verdictOf(null, code))).toEqual(
    Array(4).fill(undefined),
  );
});
