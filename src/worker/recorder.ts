import type { Database } from '../postgres/database.ts';
import { settle } from '../store/settle.ts';
import type { Flights } from './flights.ts';

/** Groups larger than this cost memory and win nothing. */
const settleRowsMax = 1_000;

export type RecorderOptions = {
  readonly db: Database;
  readonly workerId: bigint;
  readonly flights: Flights;
  /** After each group: the ids recorded, and how many were meant to be. */
  readonly onRecorded: (ids: readonly bigint[], meant: number) => void;
  /** The database failed; what was to be recorded has been put back. */
  readonly onFailure: (error: unknown) => void;
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
    const { flights, db, workerId, onRecorded } = this.#o;
    const group = flights.takeLanded(settleRowsMax);
    let ids: readonly bigint[];
    try {
      ids = await settle(
        db,
        workerId,
        group.map((landed) => landed.settlement),
      );
    } catch (error) {
      flights.putBack(group);
      throw error;
    }
    flights.recorded(group);
    onRecorded(ids, group.length);
  }

  /** Resolves when the group under way has its answer. */
  async idle(): Promise<void> {
    await this.#underWay;
  }

  /** Begins nothing more; what lands waits for the next connection. Resolves when nothing is under way. */
  async end(): Promise<void> {
    this.#isEnded = true;
    await this.#underWay;
  }
}
