import type { Horizon } from '../store/wake.ts';

type Candidate = { readonly lastId: bigint; readonly xmax: bigint; readonly atMs: number };
// A snapshot's xmax is one past the last transaction that has *ended*: running ones may lie beyond it, unseen.

/** One walk through the queue in the order of the ids, look by look. */
type Pass = {
  /** Up to here everything that could be seen has been taken. */
  position: bigint;
  /** Every transaction that wrote an id up to this one had ended when the pass began. */
  ripe: bigint;
};

/** Where a look is to begin, and which walk it belongs to. */
export type Stretch = {
  readonly kind: 'pass' | 'sweep';
  readonly afterId: bigint;
  /** Whether this look begins a pass. */
  readonly isFirst: boolean;
};

/** After this long, a transaction that still runs no longer holds the mark back; its end calls for a sweep instead. */
const overtakeAfterMs = 1_000;

/**
 * The low-water mark: passes through the queue begin at it, so finished requests' dead row versions are not read again.
 *
 * Ids are not in commit order. A request's id is given out after its transaction has an id of its own, so once every
 * transaction that was running when an id was the last one given out has ended, all rows up to that id can be seen; a pass
 * that begins after that takes them, and the mark follows it. Which transactions those are, the *next* observation says:
 * each takes and commits a transaction id after it has read the last request id, so every transaction that had given out
 * a request id before lies below the next one's xmax. One long-running transaction must not hold the mark back for an
 * hour: it is overtaken, and when it ends, one sweep looks below the mark for what it may have enqueued.
 */
export class LowWaterMark {
  #mark = 0n;
  #ripe = 0n;
  #pass: Pass = { position: 0n, ripe: 0n };
  #passHasEnded = true;
  /** How far a sweep below the mark has come; undefined: none is due. */
  #sweep: bigint | undefined;
  #sweepsTurn = true;
  #candidate: Candidate | undefined;
  /** The last request id as the observation before saw it. */
  #lastIdBefore: bigint | undefined;
  /** Transactions that the mark did not wait for, and where it stood then. */
  readonly #overtaken = new Map<bigint, bigint>();

  /** Ids up to this one have been taken, or passed over for a reason that their origin's backlog knows. */
  get id(): bigint {
    return this.#mark;
  }

  /** Nothing is left of the pass, and no sweep is due: what could be seen has been taken. */
  get isAtEnd(): boolean {
    return this.#passHasEnded && this.#sweep === undefined;
  }

  /** Looks below the mark once, beside the passes: for rows that the rule does not cover (locked by a user, inserted by hand). */
  sweep(afterId = 0n): void {
    if (this.#sweep === undefined || this.#sweep > afterId) {
      this.#sweep = afterId;
    }
  }

  /**
   * Takes note of where the transactions stood before the look `stretch`, on the same session; to be called before
   * {@link looked}.
   */
  observe(horizon: Horizon, stretch: Stretch, nowMs: number): void {
    for (const [xid, mark] of this.#overtaken) {
      if (xid < horizon.xmin || !horizon.running.includes(xid)) {
        this.#overtaken.delete(xid);
        this.sweep(mark);
      }
    }
    const candidate = this.#candidate;
    if (candidate !== undefined) {
      const stillRunning = horizon.running.filter((xid) => xid < candidate.xmax && !this.#overtaken.has(xid));
      if (stillRunning.length > 0 && nowMs - candidate.atMs < overtakeAfterMs) {
        return;
      }
      for (const xid of stillRunning) {
        this.#overtaken.set(xid, this.#mark);
      }
      this.#ripe = candidate.lastId;
      this.#candidate = undefined;
      if (stretch.isFirst) {
        this.#pass.ripe = this.#ripe;
      }
    }
    if (this.#lastIdBefore !== undefined) {
      this.#candidate = { lastId: this.#lastIdBefore, xmax: horizon.xmax, atMs: nowMs };
    }
    this.#lastIdBefore = horizon.lastId;
  }

  /** Where the next look is to begin. A pass begins anew when it has ended, or when it is past what it could vouch for. */
  next(): Stretch {
    this.#sweepsTurn = !this.#sweepsTurn;
    if (this.#sweep !== undefined && this.#sweepsTurn) {
      return { kind: 'sweep', afterId: this.#sweep, isFirst: false };
    }
    const isFirst = this.#passHasEnded || (this.#pass.position >= this.#pass.ripe && this.#ripe > this.#pass.ripe);
    if (isFirst) {
      this.#pass = { position: this.#mark, ripe: this.#ripe };
      this.#passHasEnded = false;
    }
    return { kind: 'pass', afterId: this.#pass.position, isFirst };
  }

  /** Takes note of a look: it took whatever could be seen up to `upToId`; null: up to the end of the queue. */
  looked(stretch: Stretch, upToId: bigint | null): void {
    if (stretch.kind === 'sweep') {
      // One that was asked for meanwhile begins further down, and is still due.
      if (this.#sweep === stretch.afterId) {
        this.#sweep = upToId === null || upToId >= this.#mark ? undefined : upToId;
      }
      return;
    }
    const pass = this.#pass;
    this.#passHasEnded = upToId === null;
    if (upToId !== null) {
      pass.position = upToId;
    }
    const passable = upToId === null || upToId > pass.ripe ? pass.ripe : upToId;
    if (passable > this.#mark) {
      this.#mark = passable;
    }
  }
}
