import type { Database } from '../postgres/database.ts';
import { type Claimed, claim } from '../store/claim.ts';
import { expire, nextExpiryMs } from '../store/expire.ts';
import { reclaim, reclaimOrphans } from '../store/reclaim.ts';
import type { Asked } from '../store/register.ts';
import { release } from '../store/release.ts';
import type { Settings } from '../store/settings.ts';
import { nextDueMs } from '../store/wake.ts';
import { type BacklogLook, Backlogs } from './backlogs.ts';
import type { Flights } from './flights.ts';
import { Lease } from './lease.ts';
import { Lookout } from './lookout.ts';
import type { Orders } from './orders.ts';
import { OtherPromises } from './other-promises.ts';
import { Recorder } from './recorder.ts';
import { hasNewOrder } from './restart-notices.ts';
import type { Signal } from './signal.ts';
import type { Standings } from './standings.ts';
import type { Timing } from './timing.ts';

export type ServiceContext = {
  readonly db: Database;
  readonly workerId: bigint;
  /** What is asked of the workers and obeyed already. */
  readonly obeyed: Asked;
  readonly settings: Settings;
  readonly timing: Timing;
  /** Whether notifications arrive on this connection. */
  readonly listens: boolean;
  readonly flights: Flights;
  readonly standings: Standings;
  /** Raised whenever something has changed that the loop should know. */
  readonly signal: Signal;
  readonly orders: Orders;
  /** A monotonic clock, in milliseconds. */
  readonly now: () => number;
  readonly onRecorded: (ids: readonly bigint[]) => void;
  readonly onDrained: () => void;
  readonly warn: (message: string) => void;
};

/** Why a service ended by itself: told to stop, told to restart, or its registration is gone. */
export type ServiceEnd = 'stopped' | 'restart' | 'fenced';

/** One step of expiry: a millisecond or so, so that traffic beside it does not wait. */
const expireRowsMax = 200;
/** Restarts asked for in quicker succession are answered by one: any role may ask for them. */
const restartEveryMs = 500;
/** The least time between two rounds of tending: expiring a million responses, traffic goes between the steps. */
const tendEveryMs = 5;

/** How often a busy worker looks at the whole queue, for what no rule covers: rows that a user had locked, or inserted by hand. */
const sweepEveryMs = 10_000;

const never = Number.POSITIVE_INFINITY;

/**
 * Serves one database over one connection: claims what there are slots for, sends it, has it recorded, renews the lease,
 * and tends what time brings (expiry, the requests of dead workers). When everything has been quiet for a while it sweeps
 * the queue once more, and then makes no statement until something happens.
 */
export class Service {
  readonly #c: ServiceContext;
  readonly #lookout: Lookout;
  readonly #backlogs = new Backlogs();
  readonly #recorder: Recorder;
  readonly #lease: Lease;
  readonly #beganMs: number;
  #lastActiveMs: number;
  #lastTendedMs: number;
  #lastPingMs: number;
  #isSilent = false;
  #drainsTold = 0;
  /** The whole queue has been looked at for who waits for it to be empty, since something was last found. */
  #sweepsForDrain = false;
  #isBacklogsTurn = false;
  /** When to tend though nothing happens: a response expires, a request falls due, a lease of another worker ends. */
  #alarmMs = never;
  readonly #otherPromises: OtherPromises;
  #expiredUpTo = new Date(0);
  #isFenced = false;
  #isEnded = false;
  #lastSweptMs: number;
  #failure: unknown;

  constructor(context: ServiceContext) {
    this.#c = context;
    const now = context.now();
    this.#beganMs = now;
    this.#lease = new Lease(
      {
        db: context.db,
        workerId: context.workerId,
        leaseMs: context.timing.leaseMs,
        onRenewed: (asked) => this.#leaseRenewed(asked),
        onFailure: (error) => this.#fail(error),
      },
      now,
    );
    this.#lastActiveMs = now;
    this.#lastTendedMs = now;
    this.#lastSweptMs = now;
    this.#lastPingMs = now;
    const { concurrency, concurrencyPerOrigin, sendRules } = context.settings;
    context.flights.sendRules = sendRules;
    context.flights.slots = { total: concurrency, perOrigin: concurrencyPerOrigin || never };
    context.flights.useSession(context.db);
    for (const part of context.flights.parkedParts) {
      this.#backlogs.open(part, 0n);
    }
    this.#lookout = new Lookout(context.db, context.timing, context.listens);
    this.#otherPromises = new OtherPromises(context.timing.promiseMs);
    this.#recorder = new Recorder({
      db: context.db,
      workerId: context.workerId,
      flights: context.flights,
      onRecorded: (ids, meant) => this.#recorded(ids, meant),
      onDeferred: (rows, error) =>
        context.warn(
          `${rows} responses could not be recorded and are tried again: ${error instanceof Error ? error.message : String(error)}`,
        ),
      onFailure: (error) => this.#fail(error),
    });
  }

  #fail(error: unknown): void {
    this.#failure = error;
    this.#c.signal.raise();
  }

  /** A transaction that enqueued has committed. */
  wake(): void {
    const now = this.#c.now();
    this.#stir(now);
    this.#lookout.wake(now);
    this.#c.signal.raise();
  }

  /** A worker, which may be this one, has announced a promise to look. */
  promiseAnnounced(): void {
    if (!this.#lookout.isOwnAnnouncement()) {
      this.#otherPromises.announced(this.#c.now());
      this.#c.signal.raise();
    }
  }

  /** Whether nothing but a notification or an alarm makes it look: it has promised nothing and owes no look. */
  get resting(): boolean {
    return !this.#lookout.engaged && !this.#lookout.isDue(Number.NEGATIVE_INFINITY);
  }

  #stir(now: number): void {
    this.#lastActiveMs = now;
    this.#isSilent = false;
  }

  get #isActive(): boolean {
    return this.#c.flights.held > 0 || this.#lookout.engaged;
  }

  /** Runs until told otherwise. Rejects with what the database said where it fails. */
  async run(): Promise<ServiceEnd> {
    const { orders, flights, signal, now } = this.#c;
    await this.#lookout.takeOver();
    for (;;) {
      const time = now();
      if (this.#isEnded) {
        return 'stopped';
      }
      if (this.#failure !== undefined) {
        throw this.#failure;
      }
      if (this.#isFenced) {
        return 'fenced';
      }
      if (orders.stopping) {
        await this.#release(flights.unpark());
        if (flights.held === 0) {
          await this.#lookout.withdraw();
          return 'stopped';
        }
      }
      if (orders.restart && time - this.#beganMs >= restartEveryMs) {
        await this.#recorder.idle();
        return 'restart';
      }
      this.#renewLeaseIfDue(time);
      if (!(await this.#lookIfDue(time))) {
        if (flights.freeSlots <= 0) {
          await this.#lookout.leaveIfBlocked(time);
        }
        await this.#housekeeping(time);
        await signal.wait(this.#idleMs(now()));
      }
    }
  }

  /** Passes through the queue and looks into backlogs take turns. */
  async #lookIfDue(now: number): Promise<boolean> {
    const { flights, orders } = this.#c;
    const passIsDue = this.#passIsDue(now) && flights.freeSlots > 0;
    const backlog = orders.stopping ? undefined : this.#backlogs.next(flights);
    if (backlog !== undefined && (this.#isBacklogsTurn || !passIsDue)) {
      this.#isBacklogsTurn = false;
      await this.#lookIntoBacklog(backlog);
    } else if (passIsDue) {
      this.#isBacklogsTurn = true;
      await this.#look();
    }
    return passIsDue || backlog !== undefined;
  }

  #passIsDue(now: number): boolean {
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
    const claimed = await claim(db, workerId, slots, stretch.afterId, beside);
    if (claimed === null) {
      this.#doubtLease();
      return;
    }
    if (stretch.kind === 'sweep') {
      this.#backlogs.swept(stretch.afterId);
    }
    await this.#take(claimed);
    await this.#lookout.afterLook(stretch, slots, claimed, now(), beside !== undefined);
    if (mayBeDrained && claimed.rows.length === 0 && this.#lookout.isAtEnd && beside === undefined) {
      this.#drainsTold = drains;
      this.#sweepsForDrain = false;
      onDrained();
    }
  }

  async #lookIntoBacklog({ part, among, afterId, wanted }: BacklogLook): Promise<void> {
    const { db, flights, settings, workerId, now } = this.#c;
    const rows = Math.min(wanted, settings.batchSize);
    flights.looking(part);
    const claimed = await claim(db, workerId, rows, afterId, among);
    if (claimed === null) {
      this.#doubtLease();
      return;
    }
    await this.#take(claimed);
    const sweepFrom = this.#backlogs.looked(part, claimed, this.#lookout.markId);
    if (sweepFrom !== undefined) {
      this.#lookout.sweep(sweepFrom);
    }
    if (claimed.rows.length > 0) {
      this.#lookout.found(now());
    }
  }

  async #take(claimed: Claimed): Promise<void> {
    const { flights, workerId, standings, now } = this.#c;
    await standings.learn(claimed.rows);
    for (const row of claimed.rows) {
      for (const part of flights.take(row, workerId, standings.of(row))) {
        this.#backlogs.open(part, this.#lookout.markId);
      }
    }
    if (claimed.rows.length > 0) {
      this.#sweepsForDrain = false;
      this.#stir(now());
    }
  }

  #recorded(ids: readonly bigint[], meant: number): void {
    this.#stir(this.#c.now());
    if (ids.length > 0) {
      this.#c.onRecorded(ids);
    }
    if (ids.length < meant) {
      // Somebody may have taken our registration: renewing the lease tells.
      this.#doubtLease();
    }
    this.#c.signal.raise();
  }

  /** The lease may be over: renewing it tells, and the look is made again. */
  #doubtLease(): void {
    this.#lease.doubt();
    this.#lookout.lookNow();
  }

  #renewLeaseIfDue(now: number): void {
    const isHolding = this.#c.flights.held > 0;
    if (isHolding ? now >= this.#lease.renewAtMs : now >= this.#lease.claimUntilMs && this.#passIsDue(now)) {
      this.#lease.renew(now);
    }
  }

  #leaseRenewed(asked: Asked | null): void {
    const { orders, obeyed, signal } = this.#c;
    if (asked === null) {
      this.#isFenced = true;
    } else if (hasNewOrder(asked, obeyed)) {
      orders.restart = true;
    }
    signal.raise();
  }

  /** What is done beside the traffic. */
  async #housekeeping(now: number): Promise<void> {
    const { timing, db } = this.#c;
    if (now >= this.#tendAtMs) {
      await this.#tend(now);
    } else if (now >= this.#quietAtMs) {
      // The last look before silence finds what no rule covers: rows that somebody had locked, or inserted by hand.
      this.#isSilent = true;
      this.#lookout.sweep();
      await this.#tend(now);
    } else if (now >= this.#pingAtMs) {
      this.#lastPingMs = now;
      await db.ping(timing.pingEveryMs / 2);
    }
  }

  get #tendAtMs(): number {
    const { listens, timing } = this.#c;
    // A worker that polls hears of no other's promise: it looks after the others by itself.
    const everyMs = this.#isActive ? timing.reclaimEveryMs : listens ? never : timing.leaseMs / 2;
    const rhythm = this.#lastTendedMs + everyMs;
    return Math.max(Math.min(this.#alarmMs, this.#otherPromises.overAtMs, rhythm), this.#lastTendedMs + tendEveryMs);
  }

  get #quietAtMs(): number {
    return this.#isSilent || this.#isActive ? never : this.#lastActiveMs + this.#c.timing.quietMs;
  }

  get #pingAtMs(): number {
    return Math.max(this.#lastActiveMs, this.#lastPingMs) + this.#c.timing.pingEveryMs;
  }

  /** Frees what dead workers held, expires old responses, and sets the alarm for the next time something is due. */
  async #tend(now: number): Promise<void> {
    const { db, workerId, settings, timing, flights, standings, warn } = this.#c;
    this.#lastTendedMs = now;
    this.#alarmMs = never;
    if (now - this.#lastSweptMs >= sweepEveryMs) {
      this.#lastSweptMs = now;
      this.#lookout.sweep();
    }
    this.#lookout.lookNow();
    await flights.renewStandings(standings);
    const { freed: freedByDeath, buried, watchMs } = await reclaim(db, workerId);
    // What a dead worker claimed while it was being buried.
    const freed = freedByDeath + (buried > 0 ? await reclaimOrphans(db) : 0);
    // It may have promised to look after we last looked in its stead.
    if (buried > 0 || now >= this.#otherPromises.overAtMs) {
      this.#otherPromises.forget();
      await this.#lookout.takeOver();
    }
    if (freed > 0) {
      warn(`${freed} requests of a worker that is gone are free again`);
      this.#stir(now);
    }
    const step = await expire(db, settings.ttlMs, expireRowsMax, this.#expiredUpTo);
    this.#expiredUpTo = step.upTo;
    const expiryMs = step.rows === expireRowsMax ? 0 : await nextExpiryMs(db, settings.ttlMs, this.#expiredUpTo);
    const dueMs = await nextDueMs(db);
    this.#alarmMs = Math.min(
      // One that is due and was passed over is locked by somebody.
      expiryMs === null
        ? never
        : now + (expiryMs <= 0 && step.rows < expireRowsMax ? timing.reclaimEveryMs : expiryMs + 1),
      // One that is due already is taken by the look that follows, as soon as there is a slot.
      dueMs === null || dueMs <= 0 ? never : now + dueMs,
      watchMs === null ? never : now + Math.min(watchMs + 1, timing.reclaimEveryMs),
    );
  }

  /** How long the loop may sleep; undefined: until something happens. */
  #idleMs(now: number): number | undefined {
    const { orders, flights } = this.#c;
    const next = Math.min(
      flights.freeSlots > 0 ? (orders.stopping ? never : this.#lookout.dueAtMs) : this.#lookout.blockedAtMs + 1,
      this.#tendAtMs,
      this.#quietAtMs,
      this.#pingAtMs,
      flights.held > 0 ? this.#lease.renewAtMs : never,
      orders.restart ? this.#beganMs + restartEveryMs : never,
    );
    return next === never ? undefined : Math.max(next - now, 0);
  }

  /** Gives up what is in the air and gives it back to the queue: any worker may send it again. */
  async releaseAll(): Promise<number> {
    const ids = this.#c.flights.giveUp();
    await this.#release(ids);
    return ids.length;
  }

  async #release(ids: readonly bigint[]): Promise<void> {
    if (ids.length > 0) {
      await release(this.#c.db, this.#c.workerId, ids);
    }
  }

  /** Ends recording. To be called when the connection has been closed; resolves when nothing uses it any more. */
  async finish(): Promise<void> {
    this.#isEnded = true;
    this.#c.flights.useSession(undefined);
    this.#c.signal.raise();
    await this.#recorder.end();
  }
}
