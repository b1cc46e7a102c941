import type { Flights } from './flights.ts';

/** A look into one origin's backlog. */
export type BacklogLook = { readonly origin: string; readonly afterId: bigint; readonly wanted: number };

type Backlog = {
  /** Up to here its requests have been taken. */
  afterId: bigint;
  /** From where on sweeps have gone by its requests; undefined: none has. */
  sweptFrom: bigint | undefined;
};

/**
 * The origins that have more requests waiting than their share of the slots has room for. The passes and sweeps through the
 * queue go by their requests, so nobody waits behind them; each origin's are taken by looks of their own as it gets room,
 * from the low-water mark at which its backlog began.
 */
export class Backlogs {
  /** By origin, in the order in which they are to be looked into. */
  readonly #open = new Map<string, Backlog>();
  #origins: readonly string[] = [];

  /** The origins that the passes go by. */
  get origins(): readonly string[] {
    return this.#origins;
  }

  /** A request of the origin had to be parked while the low-water mark stood at `markId`. */
  open(origin: string, markId: bigint): void {
    if (!this.#open.has(origin)) {
      this.#open.set(origin, { afterId: markId, sweptFrom: undefined });
      this.#origins = [...this.#open.keys()];
    }
  }

  /** A look of a sweep, from `afterId` on, has gone by the requests of all these origins. */
  swept(afterId: bigint): void {
    for (const backlog of this.#open.values()) {
      if (backlog.sweptFrom === undefined || afterId < backlog.sweptFrom) {
        backlog.sweptFrom = afterId;
      }
    }
  }

  /** The next backlog of which requests are wanted, in turn; undefined where there is none. */
  next(flights: Flights): BacklogLook | undefined {
    for (const [origin, { afterId }] of this.#open) {
      const wanted = flights.wantedFor(origin);
      if (wanted > 0) {
        return { origin, afterId, wanted };
      }
    }
    return undefined;
  }

  /**
   * Takes note of a look: it took whatever could be seen of the origin up to `upToId`; null: up to the end of the queue, which
   * ends the backlog. What lies beyond the mark `markId` may not all have been visible yet, and is looked at again. Returns
   * from where on a sweep is due, where one has gone by a backlog that has ended.
   */
  looked(origin: string, upToId: bigint | null, markId: bigint): bigint | undefined {
    const backlog = this.#open.get(origin);
    this.#open.delete(origin);
    if (upToId === null || backlog === undefined) {
      this.#origins = [...this.#open.keys()];
      return backlog?.sweptFrom;
    }
    const passed = upToId < markId ? upToId : markId;
    backlog.afterId = passed > backlog.afterId ? passed : backlog.afterId;
    this.#open.set(origin, backlog);
    return undefined;
  }
}
