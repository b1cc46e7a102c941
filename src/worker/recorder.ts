import type { Database } from '../postgres/database.ts';
import type { WaitingKey } from '../store/claim-ordered.ts';
import { type Settled, settle } from '../store/settle.ts';
import type { Flights, Landed } from './flights.ts';

const none: readonly never[] = Object.freeze([]);

/** Groups larger than this cost memory and win nothing. */
const settleRowsMax = 1_000;
/** Bodies travel as text, binary ones at twice their size, and a statement's parameters must fit into one string. */
const settleBytesMax = 16 * 1024 * 1024;
/** How long what could not be recorded by itself waits before the next try; doubled each time up to the second. */
const deferFirstMs = 500;
const deferLastMs = 30_000;

export type RecorderOptions = {
  readonly db: Database;
  readonly workerId: bigint;
  readonly flights: Flights;
  /**
   * After each group: what became of it, how many were lost to us because our registration is gone, and the ordering keys of those
   * that are done.
   */
  readonly onSettled: (settled: Settled, lost: number, keys: readonly WaitingKey[]) => void;
  /** The database failed; what was to be recorded has been put back. */
  readonly onFailure: (error: unknown) => void;
  /** Some rows alone were refused (locked by a user, a trigger that raises); they are tried again later. */
  readonly onDeferred: (rows: number, error: unknown) => void;
};

/**
 * Records what has landed, one group at a time: while one is under way, the next one gathers. An answer that comes alone
 * is recorded at once; under load the groups grow by themselves.
 */
export class Recorder {
  readonly #o: RecorderOptions;
  #isScheduled = false;
  #isEnded = false;
  #underWay: Promise<void> | undefined;
  #deferMs = deferFirstMs;
  readonly #deferred = new Map<NodeJS.Timeout, readonly Landed[]>();

  constructor(options: RecorderOptions) {
    this.#o = options;
    options.flights.onLanded = (): void => this.#schedule();
    this.#schedule();
  }

  /** At the end of this turn of the event loop: what landed in the same turn is recorded together. */
  #schedule(): void {
    if (!this.#isScheduled && this.#underWay === undefined) {
      this.#isScheduled = true;
      setImmediate(() => {
        this.#isScheduled = false;
        this.#begin();
      });
    }
  }

  #begin(): void {
    if (this.#isEnded || this.#underWay !== undefined || !this.#o.flights.hasLanded) {
      return;
    }
    this.#underWay = this.#recordGroup()
      .catch((error: unknown) => {
        this.#isEnded = true;
        this.#o.onFailure(error);
      })
      .finally(() => {
        this.#underWay = undefined;
        this.#begin();
      });
  }

  async #recordGroup(): Promise<void> {
    const { flights, db, workerId, onSettled, onDeferred } = this.#o;
    const group = flights.takeLanded(settleRowsMax, settleBytesMax);
    let settled: Settled;
    try {
      settled = await settle(
        db,
        workerId,
        group.map((landed) => landed.settlement),
      );
    } catch (error) {
      flights.putBack(group);
      throw error;
    }
    const { recorded, returned, refused, refusal } = settled;
    const isRefused = new Set(refused.map(({ id }) => id));
    const deferred = group.filter(({ settlement }) => isRefused.has(settlement.id));
    if (deferred.length === 0) {
      this.#deferMs = deferFirstMs;
    } else {
      onDeferred(deferred.length, refusal);
      // They keep their slots: nothing of them is lost, and a database that refuses everything is not flooded.
      this.#later(deferred);
    }
    flights.recorded(group.filter(({ settlement }) => !isRefused.has(settlement.id)));
    onSettled(settled, group.length - deferred.length - recorded.length - returned.length, keysOf(group, settled));
  }

  #later(deferred: readonly Landed[]): void {
    const timer = setTimeout(() => {
      this.#deferred.delete(timer);
      this.#o.flights.putBack(deferred);
      this.#schedule();
    }, this.#deferMs);
    this.#deferred.set(timer, deferred);
    this.#deferMs = Math.min(this.#deferMs * 2, deferLastMs);
  }

  /** Resolves when the group under way has its answer. */
  async idle(): Promise<void> {
    await this.#underWay;
  }

  /** Begins nothing more; what lands waits for the next connection. Resolves when nothing is under way. */
  async end(): Promise<void> {
    this.#isEnded = true;
    await this.#underWay;
    for (const [timer, deferred] of this.#deferred) {
      clearTimeout(timer);
      this.#o.flights.putBack(deferred);
    }
    this.#deferred.clear();
  }
}

/** The keys of which the next one may go. Most requests have none. */
function keysOf(group: readonly Landed[], { recorded }: Settled): readonly WaitingKey[] {
  if (group.every(({ key }) => key === undefined)) {
    return none;
  }
  const isRecorded = new Set(recorded);
  return group.filter(({ settlement }) => isRecorded.has(settlement.id)).flatMap(({ key }) => key ?? []);
}
