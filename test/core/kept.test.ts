import { expect, test } from 'vitest';
import { aftermathOf, defaultTerms, type KeepRequests } from '../../src/core/aftermath.ts';
import { noTimings, type Outcome } from '../../src/core/outcome.ts';
import type { QueueRow } from '../../src/core/request.ts';

// Which requests are kept for redelivery when they are done.

const row: QueueRow = {
  id: 1n,
  method: 'GET',
  url: 'http://h/',
  headersJson: '{}',
  body: null,
  timeoutMs: 1,
  loginRole: null,
  setRole: null,
  signWith: null,
  extras: undefined,
};
const attempt = { startedAtMs: 0, endedAtMs: 1, random: () => 0 };

const replied = (status: number): Outcome => ({
  kind: 'reply',
  status,
  headers: [],
  body: new Uint8Array(),
  truncated: false,
  timings: noTimings,
});
const failed = (code: 'timed_out' | 'cancelled'): Outcome => ({
  kind: 'failure',
  code,
  message: 'it did',
  timings: noTimings,
});

test.each<[KeepRequests, string[]]>([
  ['none', []],
  ['failed', ['404', '503', 'timed_out']],
  ['all', ['200', '399', '404', '503', 'timed_out', 'cancelled']],
])('%s', (keepRequests, kept) => {
  const outcomes = {
    200: replied(200),
    399: replied(399),
    404: replied(404),
    503: replied(503),
    timed_out: failed('timed_out'),
    cancelled: failed('cancelled'),
  };
  const found = Object.entries(outcomes).filter(
    ([, outcome]) => aftermathOf(row, outcome, attempt, { ...defaultTerms, keepRequests })?.isKept === true,
  );
  expect(found.map(([name]) => name).sort()).toEqual(kept.sort());
});
