import { parseLimits } from '../core/limits.ts';
import type { Database } from '../postgres/database.ts';
import type { Asked } from '../store/register.ts';
import { release } from '../store/release.ts';
import type { Settings } from '../store/settings.ts';
import type { Settled } from '../store/settle.ts';
import { CancelNotices } from './cancel-notices.ts';
import type { Flights } from './flights.ts';
import { Lease } from './lease.ts';
import { Limits } from './limits.ts';
import { Lookout } from './lookout.ts';
import { Looks } from './looks.ts';
import { Meters } from './meters.ts';
import type { Orders } from './orders.ts';
import { Recorder } from './recorder.ts';
import { hasNewOrder } from './restart-notices.ts';
import type { Signal } from './signal.ts';
import type { Standings } from './standings.ts';
import type { Timing } from './timing.ts';
import { Upkeep } from './upkeep.ts';

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
  /** Claims of workers that are gone could not be freed yet: somebody had locked them. */
  readonly orphansLeft: boolean;
  /** Raised whenever something has changed that the loop should know. */
  readonly signal: Signal;
  readonly orders: Orders;
  /** A monotonic clock, in milliseconds. */
  readonly now: () => number;
  /** Gives numbers in [0, 1). */
  readonly random: () => number;
  readonly onRecorded: (ids: readonly bigint[]) => void;
  /** Functions may be due to be called. */
  readonly lookForCallbacks: () => void;
  readonly onDrained: () => void;
  readonly warn: (message: string) => void;
};

/** Why a service ended by itself: told to stop, told to restart, or its registration is gone. */
export type ServiceEnd = 'stopped' | 'restart' | 'fenced';

/** Restarts asked for in quicker succession are answered by one: any role may ask for them. */
const restartEveryMs = 500;

const never = Number.POSITIVE_INFINITY;

/**
 * Serves one database over one connection: claims what there are slots for, sends it, has it recorded, renews the lease,
 * and tends what time brings (expiry, the requests of dead workers). When everything has been quiet for a while it sweeps
 * the queue once more, and then makes no statement until something happens.
 */
export class Service {
  readonly #c: ServiceContext;
  readonly #lookout: Lookout;
  readonly #looks: Looks;
  readonly #recorder: Recorder;
  readonly #limits: Limits | undefined;
  readonly #lease: Lease;
  readonly #beganMs: number;
  #lastActiveMs: number;
  #lastPingMs: number;
  #isSilent = false;
  readonly #upkeep: Upkeep;
  /** Requests that are cancelled while they are being sent. */
  readonly cancels: CancelNotices;
  #isFenced = false;
  #isEnded = false;
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
    this.#lastPingMs = now;
    const { concurrency, concurrencyPerOrigin, sendRules } = context.settings;
    context.flights.sendRules = { ...sendRules, mayBegin: () => context.flights.mayBegin(context.workerId) };
    context.flights.terms = context.settings.terms;
    context.flights.mayBegin = (id) => id === context.workerId && this.#lease.isSureAt(context.now());
    this.#limits = this.#obeyLimits();
    context.flights.slots = { total: concurrency, perOrigin: concurrencyPerOrigin || never };
    context.flights.useSession(context.db);
    this.#lookout = new Lookout(context.db, context.timing, context.listens);
    this.#upkeep = new Upkeep(context, this.#lookout, now);
    this.#looks = new Looks(context, this.#lookout, {
      onFound: () => this.#stir(context.now()),
      onNoLease: () => this.#doubtLease(),
    });
    this.cancels = new CancelNotices(context);
    this.#recorder = new Recorder({
      db: context.db,
      workerId: context.workerId,
      flights: context.flights,
      onSettled: (settled, lost, keys) => {
        this.#looks.ordered.recorded(keys);
        this.#settled(settled, lost);
      },
      onDeferred: (rows, error) =>
        context.warn(
          `${rows} responses could not be recorded and are tried again: ${error instanceof Error ? error.message : String(error)}`,
        ),
      onFailure: (error) => this.#fail(error),
    });
  }

  /** Of most databases there are none: then nothing is looked at. */
  #obeyLimits(): Limits | undefined {
    const { flights, obeyed, signal } = this.#c;
    const rows = parseLimits(obeyed.limits);
    const meters = rows.length === 0 ? undefined : new Meters(rows);
    flights.meters = meters;
    if (meters === undefined) {
      return undefined;
    }
    return new Limits({
      ...this.#c,
      meters,
      onRoom: () => signal.raise(),
      onFailure: (error) => this.#fail(error),
    });
  }

  /** A breaker has opened or closed. */
  breakersChanged(): void {
    this.#limits?.doubtBreakers();
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
      this.#upkeep.otherPromises.announced(this.#c.now());
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
      if (!(await this.#looks.lookIfDue(time))) {
        if (flights.freeSlots <= 0) {
          await this.#lookout.leaveIfBlocked(time);
        }
        await this.#housekeeping(time);
        await signal.wait(this.#idleMs(now()));
      }
    }
  }

  #settled({ recorded, returned, retryInMs, hasCallbacks }: Settled, lost: number): void {
    const now = this.#c.now();
    this.#stir(now);
    if (recorded.length > 0) {
      this.#c.onRecorded(recorded);
    }
    if (returned.length > 0) {
      this.#lookout.alarm(now + retryInMs);
    }
    if (hasCallbacks) {
      this.#c.lookForCallbacks();
    }
    if (lost > 0) {
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
    if (isHolding ? now >= this.#lease.renewAtMs : now >= this.#lease.claimUntilMs && this.#looks.passIsDue(now)) {
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
    return this.#upkeep.tendAtMs(this.#isActive);
  }

  get #quietAtMs(): number {
    return this.#isSilent || this.#isActive ? never : this.#lastActiveMs + this.#c.timing.quietMs;
  }

  get #pingAtMs(): number {
    return Math.max(this.#lastActiveMs, this.#lastPingMs) + this.#c.timing.pingEveryMs;
  }

  /** Tends what time brings. */
  async #tend(now: number): Promise<void> {
    const { flights, standings, lookForCallbacks } = this.#c;
    await flights.renewStandings(standings);
    // Those of a worker that has died, or that has no login to call them by.
    lookForCallbacks();
    if ((await this.#upkeep.tend(now)) > 0) {
      this.#stir(now);
    }
    if (await this.#looks.ordered.forget()) {
      this.#upkeep.alarm(now);
    }
  }

  /** How long the loop may sleep; undefined: until something happens. */
  #idleMs(now: number): number | undefined {
    const { orders, flights } = this.#c;
    const next = Math.min(
      flights.freeSlots > 0 ? (orders.stopping ? never : this.#looks.dueAtMs) : this.#lookout.blockedAtMs + 1,
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
    this.cancels.close();
    this.#c.signal.raise();
    await this.#limits?.end();
    await this.#recorder.end();
  }
}
