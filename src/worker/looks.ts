import { type Claimed, claim, dueStart, everybody } from '../store/claim.ts';
import { type BacklogLook, Backlogs } from './backlogs.ts';
import type { Lookout } from './lookout.ts';
import { Ordered } from './ordered.ts';
import type { ServiceContext } from './service.ts';

/** What the rest of the service hears of looks. */
export type LooksHooks = {
  /** Something was found. */
  readonly onFound: () => void;
  /** There was no lease to claim it under. */
  readonly onNoLease: () => void;
};

/**
 * Looks into the queue and takes what there is room for: passes and sweeps, the backlogs beside them, and what is ordered by
 * key. The lookout says when; the lanes say how much.
 */
export class Looks {
  readonly ordered: Ordered;
  readonly #c: ServiceContext;
  readonly #lookout: Lookout;
  readonly #hooks: LooksHooks;
  readonly #backlogs = new Backlogs();
  #isBacklogsTurn = false;
  #drainsTold = 0;
  /** The whole queue has been looked at for who waits for it to be empty, since something was last found. */
  #sweepsForDrain = false;
  /** There may be requests that are due later, over which a look must not walk without end. */
  #hasScheduled = true;

  constructor(context: ServiceContext, lookout: Lookout, hooks: LooksHooks) {
    this.#c = context;
    this.#lookout = lookout;
    this.#hooks = hooks;
    this.ordered = new Ordered(context);
    for (const part of context.flights.parkedParts) {
      this.#backlogs.open(part, 0n);
    }
  }

  /** When the next look is due, where there are free slots. */
  get dueAtMs(): number {
    return Math.min(this.#lookout.dueAtMs, this.ordered.dueAtMs);
  }

  /** Passes through the queue and looks into backlogs take turns; looks for what is ordered follow. */
  async lookIfDue(now: number): Promise<boolean> {
    const { flights, orders } = this.#c;
    const passIsDue = this.passIsDue(now) && flights.freeSlots > 0;
    const backlog = orders.stopping ? undefined : this.#backlogs.next(flights, now);
    if (backlog !== undefined && (this.#isBacklogsTurn || !passIsDue)) {
      this.#isBacklogsTurn = false;
      await this.#lookIntoBacklog(backlog);
    } else if (passIsDue) {
      this.#isBacklogsTurn = true;
      await this.#look();
    }
    const orderedIsDue = !orders.stopping && this.ordered.isDue(now);
    if (orderedIsDue) {
      await this.#take(await this.ordered.look());
    }
    return passIsDue || backlog !== undefined || orderedIsDue;
  }

  /** Whether a look of a pass is due. */
  passIsDue(now: number): boolean {
    const { orders, flights } = this.#c;
    const drainIsDue = this.#drainsTold !== orders.drains && flights.held === 0;
    return !orders.stopping && (drainIsDue || this.#lookout.isDue(now));
  }

  /** One look of a pass: claims what there are slots for, of all who keep within their shares. */
  async #look(): Promise<void> {
    const { db, flights, settings, workerId, now, orders, onDrained } = this.#c;
    const drains = orders.drains;
    const mayBeDrained = drains !== this.#drainsTold && flights.held === 0;
    if (mayBeDrained && !this.#sweepsForDrain) {
      this.#sweepsForDrain = true;
      this.#lookout.sweep();
    }
    const stretch = this.#lookout.beforeLook(now());
    const slots = Math.min(flights.freeSlots, settings.batchSize);
    const beside = this.#backlogs.besides;
    const { due } = this.#backlogs;
    const { afterId } = stretch;
    const from = { afterId, urgentAfterId: this.#lookout.markId, dueAfter: due?.next(now()) ?? dueStart };
    const among = beside ?? (this.#hasScheduled || stretch.kind === 'sweep' ? everybody : undefined);
    const claimed = await claim(db, workerId, slots, from, among);
    if (claimed === null) {
      this.#hooks.onNoLease();
      return;
    }
    if (claimed.rows.length < slots) {
      this.#hasScheduled = claimed.nextDueMs !== null;
    }
    if (stretch.kind === 'sweep') {
      this.#backlogs.swept(stretch.afterId);
    }
    this.ordered.looked(claimed.rows.length > 0);
    await this.#take(claimed.rows);
    await this.#lookout.afterLook(stretch, slots, claimed, now(), due);
    if (mayBeDrained && claimed.rows.length === 0 && this.#lookout.isAtEnd && beside === undefined) {
      const ordered = await this.ordered.lookThrough();
      await this.#take(ordered);
      if (ordered?.length !== 0) return;
      this.#drainsTold = drains;
      this.#sweepsForDrain = false;
      onDrained();
    }
  }

  async #lookIntoBacklog({ part, among, from, wanted }: BacklogLook): Promise<void> {
    const { db, flights, settings, workerId, now } = this.#c;
    const rows = Math.min(wanted, settings.batchSize);
    flights.looking(part);
    const claimed = await claim(db, workerId, rows, from, among);
    if (claimed === null) {
      this.#hooks.onNoLease();
      return;
    }
    await this.#take(claimed.rows);
    const sweepFrom = this.#backlogs.looked(part, claimed, this.#lookout.markId);
    if (sweepFrom !== undefined) {
      this.#lookout.sweep(sweepFrom);
    }
    if (this.#backlogs.besides === undefined) {
      // Its requests that have fallen due since were gone by.
      this.#lookout.lookNow();
    }
    if (claimed.rows.length > 0) {
      this.#lookout.found(now());
    }
  }

  /** Takes what was claimed; null: there was no lease to claim it under. */
  async #take(rows: Claimed['rows'] | null): Promise<void> {
    const { flights, workerId, standings } = this.#c;
    if (rows === null) {
      this.#hooks.onNoLease();
      return;
    }
    await standings.learn(rows);
    for (const row of rows) {
      for (const part of flights.take(row, workerId, standings.of(row))) {
        this.#backlogs.open(part, this.#lookout.markId);
      }
    }
    if (rows.length > 0) {
      this.#sweepsForDrain = false;
      this.#hooks.onFound();
    }
  }
}
