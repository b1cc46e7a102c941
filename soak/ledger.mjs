// The books of a run. What was asked for, what arrived and what was recorded, by number, in typed arrays: a million requests
// take some twenty megabytes. `balance` says what does not add up.
import { isViaProxy, methodOf, statusOf } from './request.mjs';

/** What became of a number's transaction, as far as its client knows. */
export const fate = Object.freeze({
  unused: 0,
  /** Its COMMIT was acknowledged. */
  acknowledged: 1,
  /** Rolled back, or its connection was lost before COMMIT was sent. */
  rolledBack: 2,
  /** The connection was lost before the answer to COMMIT. */
  unknown: 3,
});

const examplesMax = 20;
const slowestMax = 5;

/**
 * @typedef {object} Fault One fault and what it may excuse, in milliseconds since the run began.
 * @property {string} kind
 * @property {string} target
 * @property {number} from
 * @property {number} until When everything had recovered from it.
 * @property {'nothing' | 'everything' | 'via proxy'} resends Whose being sent twice it explains.
 * @property {'nothing' | 'everything' | 'via proxy'} fails Whose failing it explains.
 */

export class Ledger {
  /** @param {number} capacity The highest number there may be. */
  constructor(capacity) {
    this.capacity = capacity;
    this.last = 0;
    /** Whether more numbers were wanted than there are: most of them were rolled back. */
    this.isFull = false;
    /** What the enqueuers know. */
    this.fates = new Uint8Array(capacity + 1);
    this.askedAt = new Uint32Array(capacity + 1);
    this.acknowledged = 0;
    /** What the receiver saw. */
    this.counts = new Uint16Array(capacity + 1);
    this.firstAt = new Uint32Array(capacity + 1);
    this.repeats = new Uint32Array(0);
    /** @type {{ count: number, examples: string[] }} */
    this.sentWrongly = { count: 0, examples: [] };
    /** What the database says: how often the number was asked for, how often recorded, as what (0: failed), when. */
    this.committed = new Uint8Array(capacity + 1);
    this.recorded = new Uint8Array(capacity + 1);
    this.status = new Uint16Array(capacity + 1);
    this.attempt = new Uint16Array(capacity + 1);
    this.recordedAt = new Uint32Array(capacity + 1);
    /** Numbers whose response is another request's. */
    /** @type {number[]} */
    this.misfiled = [];
    /** Ids of responses to what nobody asked for, and ids still in the queue. */
    /** @type {string[]} */
    this.unaskedIds = [];
    /** @type {string[]} */
    this.leftIds = [];
    /** @type {Fault[]} */
    this.faults = [];
  }

  /** The next `count` numbers; null when there are no more. */
  reserve(count) {
    if (this.last + count > this.capacity) {
      this.isFull = true;
      return null;
    }
    const first = this.last + 1;
    this.last += count;
    return { first, last: this.last };
  }

  /** Writes down what became of the transaction that asked for these numbers. */
  note(first, last, what, askedAt) {
    this.fates.fill(what, first, last + 1);
    this.askedAt.fill(askedAt, first, last + 1);
    if (what === fate.acknowledged) this.acknowledged += last - first + 1;
  }

  /** A response row: `content` is the receiver's `n attempt`, or null where the request failed. */
  noteRow(n, statusCode, content, recordedAt) {
    this.recorded[n] += 1;
    this.status[n] = statusCode ?? 0;
    this.recordedAt[n] = recordedAt;
    if (statusCode === null) return;
    const [number, attempt] = content.split(' ').map(Number);
    this.attempt[n] = attempt;
    if (number !== n || statusCode !== statusOf(n)) this.misfiled.push(n);
  }
}

/**
 * What does not add up, and what the faults explain.
 *
 * @param {Ledger} ledger
 */
export function balance(ledger) {
  const wrong = newList();
  const explained = { resent: {}, failed: {} };
  const totals = {
    asked: ledger.last,
    acknowledged: 0,
    rolledBack: 0,
    unknownCommitted: 0,
    unknownNotCommitted: 0,
    arrived: 0,
    resent: 0,
    failed: 0,
    notSentBecauseOfAFault: 0,
  };
  const resendWindows = windowsOf(ledger.faults, 'resends');
  const failWindows = windowsOf(ledger.faults, 'fails');

  for (let n = 1; n <= ledger.last; n++) {
    const known = ledger.fates[n];
    const committed = ledger.committed[n];
    if (known === fate.acknowledged) totals.acknowledged += 1;
    else if (known === fate.rolledBack) totals.rolledBack += 1;
    else if (known === fate.unknown) totals[committed > 0 ? 'unknownCommitted' : 'unknownNotCommitted'] += 1;
    totals.arrived += ledger.counts[n];

    if (known === fate.acknowledged && committed === 0) wrong.add('acknowledged, and not in the database', n);
    if (known === fate.rolledBack && committed > 0) wrong.add('rolled back, and in the database', n);
    if (committed > 1) wrong.add('committed twice', n);
    if (committed === 0) {
      if (ledger.counts[n] > 0) wrong.add('sent though not committed', n);
      continue;
    }
    if (ledger.recorded[n] === 0) wrong.add('not recorded', n);
    if (ledger.recorded[n] > 1) wrong.add('recorded twice', n);
    if (ledger.attempt[n] > ledger.counts[n]) wrong.add('recorded with an answer that was never given', n);

    const hasFailed = ledger.recorded[n] > 0 && ledger.status[n] === 0;
    if (hasFailed) {
      totals.failed += 1;
      const fault = failWindows.find(n, ledger.askedAt[n], ledger.recordedAt[n]);
      if (fault === undefined) {
        const [from, until] = [ledger.askedAt[n], ledger.recordedAt[n]];
        wrong.add('failed without a fault', `${n} from ${from} to ${until} ms${beside(ledger, from, until)}`);
      } else count(explained.failed, fault.kind);
      if (ledger.counts[n] === 0 && fault !== undefined) totals.notSentBecauseOfAFault += 1;
    }
    // One that failed without a fault is listed once, above.
    if (ledger.counts[n] === 0 && !hasFailed) wrong.add('never sent', n);
  }

  const lastAt = new Map();
  for (let i = 0; i < ledger.repeats.length; i += 2) {
    const n = ledger.repeats[i];
    const at = ledger.repeats[i + 1];
    const before = lastAt.get(n) ?? ledger.firstAt[n];
    lastAt.set(n, at);
    totals.resent += 1;
    const fault = resendWindows.find(n, before, at);
    if (fault === undefined)
      wrong.add('sent twice without a fault', `${n} at ${before} and ${at} ms${beside(ledger, before, at)}`);
    else count(explained.resent, fault.kind);
  }
  for (const n of ledger.misfiled) wrong.add("recorded with another request's answer", n);
  for (const id of ledger.unaskedIds) wrong.add('ids recorded for what was not committed', id);
  for (const id of ledger.leftIds) wrong.add('ids left in the queue', id);
  if (ledger.sentWrongly.count > 0) wrong.lists['sent wrongly'] = ledger.sentWrongly;

  return {
    balances: wrong.isEmpty,
    totals,
    wrong: wrong.lists,
    explained,
    times: timesOf(ledger),
    slowest: slowestOf(ledger),
  };
}

/** What happened meanwhile and explains nothing of it. */
function beside(ledger, fromMs, untilMs) {
  const kinds = ledger.faults
    .filter(({ from, until }) => from <= untilMs && until >= fromMs)
    .map(({ kind, target, from, until }) => `${kind} (${target}) from ${from} to ${until} ms`);
  return kinds.length === 0 ? '' : `, beside ${kinds.join(', ')}`;
}

/** Counts everything that is wrong, and keeps the first few of each kind. */
function newList() {
  /** @type {Record<string, { count: number, examples: (number | string)[] }>} */
  const lists = {};
  return {
    lists,
    get isEmpty() {
      return Object.keys(lists).length === 0;
    },
    add(kind, what) {
      lists[kind] ??= { count: 0, examples: [] };
      lists[kind].count += 1;
      if (lists[kind].examples.length < examplesMax) lists[kind].examples.push(what);
    },
  };
}

function count(counts, kind) {
  counts[kind] = (counts[kind] ?? 0) + 1;
}

/** Finds the fault that explains what happened to a number between two instants. */
function windowsOf(faults, property) {
  const windows = faults.filter((fault) => fault[property] !== 'nothing').sort((a, b) => a.from - b.from);
  return {
    /** Of several, the one that excuses least, and of those the last. */
    find(n, fromMs, untilMs) {
      let found;
      for (const fault of windows) {
        if (fault.from > untilMs) break;
        if (fault.until < fromMs) continue;
        if (fault[property] === 'everything') {
          if (found === undefined || found[property] === 'everything') found = fault;
        } else if (isViaProxy(n) && (property === 'fails' || methodOf(n) !== 'POST')) {
          // A kept connection that turns out to be dead: a request that may be repeated is sent on another one.
          found = fault;
        }
      }
      return found;
    },
  };
}

/** How long it took from asking to arriving and to being recorded, in milliseconds. */
function timesOf(ledger) {
  const arriving = new Float64Array(ledger.last);
  const recording = new Float64Array(ledger.last);
  let arrived = 0;
  let recorded = 0;
  for (let n = 1; n <= ledger.last; n++) {
    if (ledger.counts[n] > 0) arriving[arrived++] = ledger.firstAt[n] - ledger.askedAt[n];
    if (ledger.recorded[n] > 0) recording[recorded++] = ledger.recordedAt[n] - ledger.askedAt[n];
  }
  return {
    'asked to arrived, ms': quantiles(arriving.subarray(0, arrived)),
    'asked to recorded, ms': quantiles(recording.subarray(0, recorded)),
  };
}

/** The few that took longest to be recorded, with what happened meanwhile: where time is lost. */
function slowestOf(ledger) {
  const tookMs = (n) => ledger.recordedAt[n] - ledger.askedAt[n];
  let slowest = [];
  for (let n = 1; n <= ledger.last; n++) {
    if (ledger.recorded[n] === 0 || (slowest.length === slowestMax && tookMs(n) <= tookMs(slowest.at(-1)))) continue;
    slowest = [...slowest, n].sort((a, b) => tookMs(b) - tookMs(a)).slice(0, slowestMax);
  }
  return slowest.map((n) => {
    const [asked, recorded] = [ledger.askedAt[n], ledger.recordedAt[n]];
    const arrived = ledger.counts[n] > 0 ? `arrived ${ledger.firstAt[n]} (${ledger.counts[n]} times)` : 'not arrived';
    return `${n} asked ${asked}, ${arrived}, recorded ${recorded} ms${beside(ledger, asked, recorded)}`;
  });
}

function quantiles(values) {
  if (values.length === 0) return null;
  values.sort();
  const at = (share) => Math.round(values[Math.min(values.length - 1, Math.floor(values.length * share))]);
  return { p50: at(0.5), p99: at(0.99), most: at(1) };
}
