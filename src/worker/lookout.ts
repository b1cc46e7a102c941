import type { Database } from '../postgres/database.ts';
import type { Claimed, DuePlace } from '../store/claim.ts';
import { announcePromise, type Horizon, horizon, promise, takeTransactionId, withdrawPromise } from '../store/wake.ts';
import type { DueWalk } from './due-walk.ts';
import { LowWaterMark, type Stretch } from './low-water.ts';
import type { Timing } from './timing.ts';

/** Wakes within {@link wakeWindowMs} from which looking by ourselves is cheaper than being notified each time. */
const wakesForWatch = 50;
const wakeWindowMs = 100;
/** A look that filled fewer slots than this says that we are slow, not that the queue is long. */
const slotsForWatch = 4;
/** How often a look asks where the transactions stand, so that the low-water mark follows the traffic. */
const horizonEveryMs = 20;
/**
 * Any login may notify any channel. After so many looks in a row that found nothing, what calls for them is not believed at
 * once: they keep this distance from each other.
 */
const vainLooksMax = 20;
const vainLookEveryMs = 5;
/** How often a busy worker looks into the queue beside a backlog. */
const besideEveryMs = 5;
const never = Number.POSITIVE_INFINITY;
/** Beside a long writer, an owed look is repeated once a second. */
const owedDelayMsMax = 1_000;

/**
 * Knows when to look into the queue, and keeps the promise that spares enqueuing transactions their NOTIFY (see
 * sql/020_wake.sql).
 *
 * *Resting*: every enqueuing transaction notifies, and a look follows each notification. *Watching*: under load we have
 * promised to look by ourselves, and look every few milliseconds. Leaving the watch withdraws the promise, THEN takes a
 * transaction id X, and owes looks until one began when every transaction up to X had ended: those before X are seen by
 * that look, those after it have seen the promise withdrawn and notify.
 */
export class Lookout {
  readonly #db: Database;
  readonly #timing: Timing;
  readonly #listens: boolean;
  readonly #mark = new LowWaterMark();
  #watching = false;
  #promisedUntilMs = 0;
  #owedXid: bigint | undefined;
  #owedDelayMs = 1;
  #lookNow = true;
  /** Somebody has notified since the last look began. */
  #isWoken = false;
  /** Looks of passes since something was last found. */
  #vainLooks = 0;
  #lookAtMs = never;
  /** When a request falls due. */
  #alarmMs = never;
  #lastFoundMs = 0;
  #lastLookMs = 0;
  #lastHorizonMs = Number.NEGATIVE_INFINITY;
  /** Where the transactions stood before the look under way; undefined where it did not ask. */
  #horizon: Promise<Horizon> | undefined;
  /** The pass under way began when every transaction up to the owed one had ended. */
  #passPays = false;
  #wakeTimesMs: number[] = [];
  #ownAnnouncements = 0;

  constructor(db: Database, timing: Timing, listens: boolean) {
    this.#db = db;
    this.#timing = timing;
    this.#listens = listens;
  }

  /**
   * Before the first look of a connection, and when another worker's promise has ended without it: some transaction may have
   * enqueued under a promise that nobody is left to keep. Takes whatever promise stands back, and owes looks until all that
   * ran then has ended.
   */
  async takeOver(): Promise<void> {
    if (this.#listens && !this.#watching) {
      await withdrawPromise(this.#db);
      await this.#owe();
    }
  }

  /** A transaction that enqueued has committed. */
  wake(nowMs: number): void {
    this.#isWoken = true;
    this.#wakeTimesMs.push(nowMs);
    if (this.#wakeTimesMs.length > wakesForWatch) {
      this.#wakeTimesMs.shift();
    }
  }

  /** Looks as soon as there is a free slot. */
  lookNow(): void {
    this.#lookNow = true;
  }

  /** Looks at that time: something falls due. */
  alarm(atMs: number): void {
    this.#alarmMs = Math.min(this.#alarmMs, atMs);
  }

  /** Looks once at all of the queue above `afterId`, beside the passes. */
  sweep(afterId = 0n): void {
    this.#mark.sweep(afterId);
    this.#lookNow = true;
  }

  isDue(nowMs: number): boolean {
    return nowMs >= this.dueAtMs;
  }

  /** When the next look is due without a notification; the past where one is due now. */
  get dueAtMs(): number {
    const wokenAtMs = this.#vainLooks < vainLooksMax ? Number.NEGATIVE_INFINITY : this.#lastLookMs + vainLookEveryMs;
    return this.#lookNow
      ? Number.NEGATIVE_INFINITY
      : Math.min(this.#lookAtMs, this.#alarmMs, this.#isWoken ? wokenAtMs : never);
  }

  /** Whether it has promised to look, or owes a look. */
  get engaged(): boolean {
    return this.#watching || this.#owedXid !== undefined;
  }

  /** NOTIFY reaches its sender too: whether an announced promise is one of our own. */
  isOwnAnnouncement(): boolean {
    if (this.#ownAnnouncements === 0) {
      return false;
    }
    this.#ownAnnouncements -= 1;
    return true;
  }

  /** Up to which id the passes need not look. */
  get markId(): bigint {
    return this.#mark.id;
  }

  /** The last look left nothing that could be seen, but for what its origin's backlog holds. */
  get isAtEnd(): boolean {
    return this.#mark.isAtEnd;
  }

  /**
   * Before a look: returns where it is to begin. What is asked here of the transactions holds for the claim's snapshot, which
   * is taken later on the same session; its answer is awaited afterwards, so that the claim follows at once.
   */
  beforeLook(nowMs: number): Stretch {
    this.#lookNow = false;
    this.#isWoken = false;
    // Who found fewer than it asked for is told when to come again; who did not comes again at once.
    this.#alarmMs = never;
    this.#lastLookMs = nowMs;
    const stretch = this.#mark.next();
    if (this.#owedXid !== undefined || nowMs - this.#lastHorizonMs >= horizonEveryMs) {
      this.#lastHorizonMs = nowMs;
      this.#horizon = horizon(this.#db);
      // Where the claim fails too, nobody comes to await it.
      this.#horizon.catch(() => {});
    }
    return stretch;
  }

  /**
   * After a look that asked for `slots` requests: decides when to look next. `due`: it went by the requests of some origins, and
   * walked over what is due.
   */
  async afterLook(
    stretch: Stretch,
    slots: number,
    claimed: Claimed,
    nowMs: number,
    due: DueWalk | undefined,
  ): Promise<void> {
    const seen = await this.#horizon;
    this.#horizon = undefined;
    if (seen !== undefined) {
      this.#mark.observe(seen, stretch, nowMs);
    }
    this.#mark.looked(stretch, claimed.upToId);
    if (claimed.nextDueMs !== null) {
      this.alarm(nowMs + claimed.nextDueMs);
    }
    this.#vainLooks += 1;
    if (claimed.rows.length > 0) {
      this.found(nowMs);
    }
    if (!this.#mark.isAtEnd || claimed.rows.length >= slots) {
      this.#lookNow = true;
    }
    if (stretch.kind === 'pass') {
      const tookAll = claimed.upToId === null;
      this.#payWhatIsOwed(stretch, seen, tookAll);
      if (this.#listens) {
        await this.#chooseMode(tookAll, slots, nowMs);
      }
    }
    if (due !== undefined) {
      this.#walkOn(due, claimed.dueUpTo);
    }
    this.#lookAtMs = nowMs + this.#restMs(due !== undefined);
  }

  /** Beside backlogs the walk over what is due goes on at once, and begins anew after a while. */
  #walkOn(due: DueWalk, upTo: DuePlace | null): void {
    due.looked(upTo);
    if (due.isAtEnd) {
      this.alarm(due.beginsAtMs);
    } else {
      this.#lookNow = true;
    }
  }

  /** A request was found beside the looks of the passes. */
  found(nowMs: number): void {
    this.#lastFoundMs = nowMs;
    this.#vainLooks = 0;
  }

  /** What is owed is a whole pass that began when every transaction up to X had ended. */
  #payWhatIsOwed(stretch: Stretch, seen: Horizon | undefined, tookAll: boolean): void {
    if (this.#owedXid === undefined) {
      return;
    }
    if (stretch.isFirst) {
      this.#passPays = seen !== undefined && seen.xmin > this.#owedXid;
    }
    if (tookAll && this.#passPays) {
      this.#owedXid = undefined;
    } else if (tookAll) {
      this.#owedDelayMs = Math.min(this.#owedDelayMs * 2, owedDelayMsMax);
    }
  }

  async #chooseMode(tookAll: boolean, slots: number, nowMs: number): Promise<void> {
    if (!this.#watching) {
      const oldest = this.#wakeTimesMs[0];
      const isBusy =
        this.#wakeTimesMs.length >= wakesForWatch &&
        oldest !== undefined &&
        nowMs - Math.min(oldest, this.#lastFoundMs) < wakeWindowMs;
      if (isBusy || (!tookAll && slots >= slotsForWatch)) {
        this.#watching = true;
        this.#owedXid = undefined;
        this.#wakeTimesMs = [];
        await this.#promise(nowMs);
        this.#lookNow = true;
      }
    } else if (tookAll && nowMs - this.#lastFoundMs > this.#timing.lingerMs) {
      await this.#leave();
    } else if (this.#promisedUntilMs - nowMs < this.#timing.promiseMs / 2) {
      await this.#promise(nowMs);
    }
  }

  /** When a promise is to be taken back because no slot came free to keep it with. */
  get blockedAtMs(): number {
    return this.#watching ? this.#lastLookMs + this.#timing.lingerMs : never;
  }

  /** All slots are taken: whoever cannot look must not promise to, so that a worker with free slots is notified. */
  async leaveIfBlocked(nowMs: number): Promise<void> {
    if (nowMs > this.blockedAtMs) {
      await this.#leave();
    }
  }

  async #leave(): Promise<void> {
    await this.withdraw();
    await this.#owe();
  }

  async #owe(): Promise<void> {
    this.#owedXid = await takeTransactionId(this.#db);
    this.#passPays = false;
    this.#owedDelayMs = 1;
    this.#lookNow = true;
  }

  /** Announced first, in a transaction of its own: should we die, the others look when the promise has ended. */
  async #promise(nowMs: number): Promise<void> {
    this.#ownAnnouncements += 1;
    await announcePromise(this.#db);
    await promise(this.#db, this.#timing.promiseMs);
    this.#promisedUntilMs = nowMs + this.#timing.promiseMs;
  }

  /** Takes the promise back, if there is one. Whoever goes on serving owes a look; a worker that stops leaves it to the others. */
  async withdraw(): Promise<void> {
    if (this.#watching) {
      await withdrawPromise(this.#db);
      this.#watching = false;
    }
  }

  #restMs(beside: boolean): number {
    if (this.#watching) {
      // Beside a backlog, which is looked into all the time, a look has more to walk over.
      return beside ? besideEveryMs : this.#timing.watchEveryMs;
    }
    if (this.#owedXid !== undefined) {
      return this.#owedDelayMs;
    }
    return this.#listens ? never : this.#timing.pollEveryMs;
  }
}
