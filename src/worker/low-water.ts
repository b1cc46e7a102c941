import type { Horizon } from '../store/wake.ts';

type Candidate = { readonly lastId: bigint; readonly xmax: bigint; readonly atMs: number };
// A snapshot's xmax is one past the last transaction that has *ended*: running ones may lie beyond it, unseen.

/** After this long, a transaction that still runs no longer holds the mark back; its end calls for a sweep instead. */
const overtakeAfterMs = 1_000;

/**
 * The low-water mark: claims look only at ids above it, so finished requests' dead row versions are not read again.
 *
 * Ids are not in commit order. A request's id is given out after its transaction has an id of its own, so once every
 * transaction that was running when an id was the last one given out has ended, all rows up to that id can be seen; the
 * look after that takes them, and the mark may pass. Which transactions those are, the *next* observation says: the claim
 * between the two took and committed a transaction id, and every id given out before that lies below the next xmax. One long-running transaction must not hold the mark back for an
 * hour: it is overtaken, and when it ends, one sweep looks below the mark for what it may have enqueued.
 */
export class LowWaterMark {
  #mark = 0n;
  #candidate: Candidate | undefined;
  /** The last request id as the observation before saw it. */
  #lastIdBefore: bigint | undefined;
  #ripe: bigint | undefined;
  readonly #overtaken = new Set<bigint>();
  #sweepDue = false;

  /** Ids up to this one need not be looked at. */
  get afterId(): bigint {
    return this.#sweepDue ? 0n : this.#mark;
  }

  /** Lets the next look start from the first id: for rows that the rule does not cover (locked by a user, inserted by hand). */
  sweep(): void {
    this.#sweepDue = true;
  }

  /** Takes note of where the transactions stand; to be called before the look that may advance the mark. */
  observe(horizon: Horizon, nowMs: number): void {
    for (const xid of this.#overtaken) {
      if (xid < horizon.xmin || !horizon.running.includes(xid)) {
        this.#overtaken.delete(xid);
        this.#sweepDue = true;
      }
    }
    const candidate = this.#candidate;
    if (candidate !== undefined) {
      const stillRunning = horizon.running.filter((xid) => xid < candidate.xmax && !this.#overtaken.has(xid));
      if (stillRunning.length > 0 && nowMs - candidate.atMs < overtakeAfterMs) {
        return;
      }
      for (const xid of stillRunning) {
        this.#overtaken.add(xid);
      }
      this.#ripe = candidate.lastId;
      this.#candidate = undefined;
    }
    if (this.#lastIdBefore !== undefined) {
      this.#candidate = { lastId: this.#lastIdBefore, xmax: horizon.xmax, atMs: nowMs };
    }
    this.#lastIdBefore = horizon.lastId;
  }

  /** Takes note of a look: whether it took all there was, and the highest id that it took of those that had only waited. */
  looked(fromId: bigint, tookAll: boolean, highestFreshId: bigint | null): void {
    if (fromId === 0n && (tookAll || (highestFreshId !== null && highestFreshId >= this.#mark))) {
      this.#sweepDue = false;
    }
    const ripe = this.#ripe;
    if (ripe === undefined) {
      return;
    }
    const seenUpTo = tookAll ? ripe : (highestFreshId ?? 0n);
    if (seenUpTo >= ripe) {
      this.#ripe = undefined;
    }
    const passable = seenUpTo < ripe ? seenUpTo : ripe;
    if (passable > this.#mark) {
      this.#mark = passable;
    }
  }
}
