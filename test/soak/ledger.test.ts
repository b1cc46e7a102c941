import { describe, expect, test } from 'vitest';
import { balance, type Fault, fate, Ledger } from '../../soak/ledger.mjs';
import { isViaProxy, methodOf } from '../../soak/request.mjs';

// A ledger that cannot fail shows nothing: everything that it is to find is put into one that balances.

const requests = 200;

/** Every number asked for at 1,000 ms, sent once at 1,010 and recorded at 1,020. */
function balanced(): Ledger {
  const ledger = new Ledger(requests);
  for (let n = 1; n <= requests; n++) {
    ledger.reserve(1);
    ledger.note(n, n, fate.acknowledged, 1_000);
    ledger.committed[n] = 1;
    ledger.counts[n] = 1;
    ledger.firstAt[n] = 1_010;
    ledger.noteRow(n, n % 101 === 0 ? 503 : 200, `${n} 1`, 1_020);
  }
  return ledger;
}

const direct = 2;
const getViaProxy = 8;
const postViaProxy = 1;

function happened(what: Partial<Fault>): Fault {
  return { kind: 'a fault', target: 'w1', from: 1_005, until: 2_000, resends: 'nothing', fails: 'nothing', ...what };
}

function sentAgain(ledger: Ledger, n: number, at: number): void {
  ledger.counts[n] = 2;
  ledger.repeats = Uint32Array.of(n, at);
}

function failed(ledger: Ledger, n: number): void {
  ledger.recorded[n] = 0;
  ledger.attempt[n] = 0;
  ledger.noteRow(n, null, null, 1_500);
}

test('the numbers of these tests are what they say', () => {
  expect([direct, getViaProxy, postViaProxy].map(isViaProxy)).toEqual([false, true, true]);
  expect([direct, getViaProxy, postViaProxy].map(methodOf)).toEqual(['GET', 'GET', 'POST']);
});

test('one where everything was sent and recorded once balances', () => {
  const { balances, totals, wrong } = balance(balanced());
  expect({ balances, wrong }).toEqual({ balances: true, wrong: {} });
  expect(totals).toMatchObject({ acknowledged: requests, arrived: requests, resent: 0, failed: 0 });
});

describe('finds', () => {
  test.each<[string, (ledger: Ledger) => void]>([
    ['never sent', (l) => l.counts.fill(0, direct, direct + 1)],
    ['not recorded', (l) => l.recorded.fill(0, direct, direct + 1)],
    ['recorded twice', (l) => l.noteRow(direct, 200, `${direct} 1`, 1_030)],
    ['committed twice', (l) => l.committed.fill(2, direct, direct + 1)],
    ['acknowledged, and not in the database', (l) => l.committed.fill(0, direct, direct + 1)],
    ['rolled back, and in the database', (l) => l.fates.fill(fate.rolledBack, direct, direct + 1)],
    [
      'sent though not committed',
      (l) => {
        l.fates[direct] = fate.unknown;
        l.committed[direct] = 0;
      },
    ],
    ['sent twice without a fault', (l) => sentAgain(l, direct, 1_030)],
    ['failed without a fault', (l) => failed(l, direct)],
    ["recorded with another request's answer", (l) => l.noteRow(direct, 200, '4 1', 1_020)],
    ["recorded with another request's answer", (l) => l.noteRow(direct, 503, `${direct} 1`, 1_020)],
    ['recorded with an answer that was never given', (l) => l.noteRow(direct, 200, `${direct} 2`, 1_020)],
    ['ids recorded for what was not committed', (l) => l.unaskedIds.push('7')],
    ['ids left in the queue', (l) => l.leftIds.push('7')],
    [
      'sent wrongly',
      (l) => {
        l.sentWrongly = { count: 1, examples: ['GET /2: another path'] };
      },
    ],
  ])('%s', (kind, spoil) => {
    const ledger = balanced();
    spoil(ledger);
    const { balances, wrong } = balance(ledger);
    expect(balances).toBe(false);
    expect(wrong).toHaveProperty([kind, 'count'], 1);
    expect(wrong).toHaveProperty([kind, 'examples', 'length'], 1);
  });

  test('what is sent wrongly even where no example was kept', () => {
    const ledger = balanced();
    ledger.sentWrongly = { count: 3, examples: [] };
    expect(balance(ledger).balances).toBe(false);
  });

  test('an id left behind whose commit was never acknowledged', () => {
    const ledger = balanced();
    ledger.fates[direct] = fate.unknown;
    ledger.recorded[direct] = 0;
    expect(balance(ledger).wrong).toHaveProperty(['not recorded']);
  });
});

describe('a fault explains', () => {
  test('being sent twice, where it lay between the two', () => {
    const ledger = balanced();
    sentAgain(ledger, direct, 1_900);
    ledger.faults = [happened({ resends: 'everything' })];
    expect(balance(ledger)).toMatchObject({ balances: true, explained: { resent: { 'a fault': 1 } } });
    for (const elsewhere of [
      { from: 100, until: 1_009 },
      { from: 1_901, until: 2_000 },
    ]) {
      ledger.faults = [happened({ resends: 'everything', ...elsewhere })];
      expect(balance(ledger).balances).toBe(false);
    }
  });

  test('not each of three times, where it lay between the first two', () => {
    const ledger = balanced();
    ledger.counts[direct] = 3;
    ledger.repeats = Uint32Array.of(direct, 1_500, direct, 3_000);
    ledger.firstAt[direct] = 1_010;
    ledger.faults = [happened({ resends: 'everything', until: 1_400 })];
    expect(balance(ledger).wrong).toMatchObject({ 'sent twice without a fault': { count: 1 } });
  });

  test('of the receiver: a GET on its way sent twice, not a POST, not one that goes another way', () => {
    for (const [n, isExplained] of [
      [getViaProxy, true],
      [postViaProxy, false],
      [direct, false],
    ] as const) {
      const ledger = balanced();
      sentAgain(ledger, n, 1_900);
      ledger.faults = [happened({ resends: 'via proxy' })];
      expect([n, balance(ledger).balances]).toEqual([n, isExplained]);
    }
  });

  test('failing, and then not having been sent', () => {
    for (const [n, isExplained] of [
      [getViaProxy, true],
      [postViaProxy, true],
      [direct, false],
    ] as const) {
      const ledger = balanced();
      ledger.counts[n] = 0;
      failed(ledger, n);
      ledger.faults = [happened({ fails: 'via proxy' })];
      expect([n, balance(ledger).balances]).toEqual([n, isExplained]);
    }
  });
});
