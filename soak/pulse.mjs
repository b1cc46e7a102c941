// Feels whether the machine keeps up: a worker whose process or whose database stands still for longer than its lease loses
// it, and that is no fault of the worker's.
import { setTimeout as sleep } from 'node:timers/promises';

const everyMs = 50;
/** The name under which a stall is in the books. */
export const stall = 'the machine stood still';

/**
 * Writes a row every 50 ms, as a lease is renewed, and says when that, or waiting for it, took a quarter of a lease too long.
 * A database that is down stands still for a reason that is known.
 *
 * @param {{ sql: (text: string) => Promise<unknown>, sinceStart: () => number, leaseMs: number, onStall: (fault: import('./ledger.mjs').Fault) => void }} options
 */
export function feelPulse({ sql, sinceStart, leaseMs, onStall }) {
  let isOver = false;
  const stalled = (from) => {
    const late = sinceStart() - from - everyMs;
    if (late < leaseMs / 4) return;
    // Until the others have taken what was held, and sent it.
    const until = sinceStart() + leaseMs;
    onStall({ kind: stall, target: `${late} ms`, from, until, resends: 'everything', fails: 'nothing' });
  };
  const beating = (async () => {
    await sql('create table if not exists soak.pulse as select 0 as beats');
    while (!isOver) {
      const from = sinceStart();
      await sleep(everyMs);
      stalled(from);
      try {
        const before = sinceStart();
        await sql('update soak.pulse set beats = beats + 1');
        stalled(before);
      } catch {
        // Down: there is a fault about.
      }
    }
  })();
  return {
    async end() {
      isOver = true;
      await beating;
    },
  };
}
