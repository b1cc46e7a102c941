import type { Database } from '../postgres/database.ts';
import { claim } from '../store/claim.ts';
import { expire, nextExpiryMs } from '../store/expire.ts';
import { reclaim } from '../store/reclaim.ts';
import { renewLease } from '../store/register.ts';
import { release } from '../store/release.ts';
import type { Settings } from '../store/settings.ts';
import { settle } from '../store/settle.ts';
import { announcePromise, horizon, nextDueMs, promise, takeTransactionId, withdrawPromise } from '../store/wake.ts';
import type { Flights } from './flights.ts';
import { LowWaterMark } from './low-water.ts';
import type { Signal } from './signal.ts';

/** The times that the service runs by, all in milliseconds; each with its trade-off. */
export type Timing = {
  /** How long claimed requests stay this worker's without a sign of life. Shorter: a hung worker's requests come free sooner; longer: a slow database is forgiven more. */
  readonly leaseMs: number;
  /** How often a busy worker looks into the queue. Shorter: less latency under load, more statements. */
  readonly watchEveryMs: number;
  /** How long a busy worker keeps looking after it last found something. */
  readonly lingerMs: number;
  /** How long one promise to look by itself lasts. Longer: fewer renewals, and a longer wait if the worker dies meanwhile. */
  readonly promiseMs: number;
  /** How often a worker without LISTEN looks. */
  readonly pollEveryMs: number;
  /** How long everything must have been quiet before the worker takes its last look and falls silent. */
  readonly quietMs: number;
  /** How often a silent connection is checked for life (a protocol-level Sync, no statement). */
  readonly pingEveryMs: number;
};

export const defaultTiming: Timing = Object.freeze({
  leaseMs: 15_000,
  watchEveryMs: 1,
  lingerMs: 50,
  promiseMs: 2_000,
  pollEveryMs: 500,
  quietMs: 1_000,
  pingEveryMs: 30_000,
});

/** What the rest of the worker wants of a running service. */
export type Orders = {
  /** Claim no more; return when nothing is held. */
  stopping: boolean;
  /** Reconnect and read the settings again. */
  restart: boolean;
  /** Somebody waits for the queue to be empty. */
  drains: number;
};

export type ServiceContext = {
  readonly db: Database;
  readonly workerId: bigint;
  readonly restartSeen: bigint;
  readonly settings: Settings;
  readonly timing: Timing;
  /** Whether notifications arrive on this connection. */
  readonly listens: boolean;
  readonly flights: Flights;
  readonly signal: Signal;
  readonly orders: Orders;
  /** A monotonic clock, in milliseconds. */
  readonly now: () => number;
  readonly onRecorded: (ids: readonly bigint[]) => void;
  readonly onDrained: () => void;
  readonly warn: (message: string) => void;
};

export type ServiceEnd = 'stopped' | 'restart' | 'fenced';

/** Groups larger than this cost memory and win nothing. */
const settleRowsMax = 1_000;
const expireRowsMax = 1_000;
/** Wakes in {@link wakeWindowMs} from which looking by ourselves is cheaper than being notified each time. */
const wakesForWatch = 50;
const wakeWindowMs = 100;
const horizonEveryMs = 20;
/** Restarts asked for in quicker succession are answered by one: any role may ask for them. */
const restartEveryMs = 500;
/** How much later than the end of another's promise we look: its clock and the notification take their time. */
const promiseSlackMs = 100;
/** While others hold requests, how often we look whether their sessions still live. */
const reclaimEveryMs = 2_000;

/**
 * Serves one database over one connection: knows *when* to look, to record, to renew, to expire.
 *
 * Two modes. *Resting*: every enqueuing transaction notifies, and a look follows each notification. *Watching*: under
 * load we promise to look by ourselves (see sql/020_wake.sql), so that nobody notifies, and look every few milliseconds.
 * Leaving the watch withdraws the promise, takes a transaction id X, and owes a look until everything up to X has ended.
 * After a quiet time, one last sweep, and then no statement until something happens.
 */
export class Service {
  readonly #c: ServiceContext;
  readonly #mark = new LowWaterMark();
  #watching = false;
  #promisedUntilMs = 0;
  /** The transaction id of the last withdrawal: until every transaction up to it has ended, a look is owed. */
  #owedXid: bigint | undefined;
  #owedDelayMs = 1;
  #leaseUntilMs = 0;
  /** A reason to look now: a notification, or the last look took all that it asked for. */
  #lookNow = true;
  #lookAtMs = 0;
  #lastFoundMs = 0;
  #lastActiveMs = 0;
  #lastHorizonMs = Number.NEGATIVE_INFINITY;
  #lastReclaimMs = Number.NEGATIVE_INFINITY;
  #lastPingMs = 0;
  #wakeTimesMs: number[] = [];
  #silent = false;
  #drainRequested = 0;
  /** When another worker's promise ends. */
  #otherPromiseMs = Number.POSITIVE_INFINITY;
  readonly #beganMs: number;
  #recordScheduled = false;
  /** When to run housekeeping though nothing happens: a response expires, a lease of another worker ends. */
  #alarmMs = Number.POSITIVE_INFINITY;
  #expiredUpTo = new Date(0);
  #fenced = false;
  #ended = false;
  #recording: Promise<void> | undefined;
  #failure: unknown;

  constructor(context: ServiceContext) {
    this.#c = context;
    const now = context.now();
    this.#beganMs = now;
    context.flights.onLanded = (): void => this.#scheduleRecording();
    this.#leaseUntilMs = now + context.timing.leaseMs;
    this.#lastActiveMs = now;
    this.#lastPingMs = now;
  }

  /** A transaction that enqueued has committed. */
  wake(): void {
    const now = this.#c.now();
    this.#lookNow = true;
    this.#stir(now);
    this.#wakeTimesMs.push(now);
    if (this.#wakeTimesMs.length > wakesForWatch) {
      this.#wakeTimesMs.shift();
    }
    this.#c.signal.raise();
  }

  /** Another worker is about to promise: should it die, we must look when its promise has ended. */
  otherPromised(): void {
    this.#otherPromiseMs = this.#c.now() + this.#c.timing.promiseMs + promiseSlackMs;
    this.#c.signal.raise();
  }

  #stir(now: number): void {
    this.#lastActiveMs = now;
    this.#silent = false;
  }

  /** Runs until told otherwise. Rejects with what the database said where it fails. */
  async run(): Promise<ServiceEnd> {
    const { orders, flights, signal, now } = this.#c;
    for (;;) {
      if (this.#failure !== undefined) {
        throw this.#failure;
      }
      if (this.#fenced) {
        return 'fenced';
      }
      this.#record();
      if (orders.restart && now() - this.#beganMs >= restartEveryMs) {
        await this.#recording;
        return 'restart';
      }
      if (orders.stopping && flights.held === 0) {
        await this.#withdraw();
        return 'stopped';
      }
      const time = now();
      await this.#renewLeaseIfDue(time);
      if (!orders.stopping && this.#lookIsDue(time) && flights.held < this.#c.settings.concurrency) {
        await this.#look();
        continue;
      }
      await this.#housekeeping(time);
      await signal.wait(this.#nextTimerMs(now()));
    }
  }

  #lookIsDue(now: number): boolean {
    const drainIsDue = this.#drainRequested !== this.#c.orders.drains && this.#c.flights.held === 0;
    return this.#lookNow || drainIsDue || now >= this.#lookAtMs;
  }

  /** One look: claims what there are slots for and sends it. */
  async #look(): Promise<void> {
    const { db, flights, settings, workerId, timing, now, orders } = this.#c;
    const began = now();
    const drains = orders.drains;
    if (drains !== this.#drainRequested) {
      this.#mark.sweep();
    }
    this.#lookNow = false;
    const slots = Math.min(settings.concurrency - flights.held, settings.batchSize);
    const heldBefore = flights.held;
    // Before the claim, and in order on the same session: what it says of the transactions holds for the claim's snapshot.
    let xmin: bigint | undefined;
    if (this.#owedXid !== undefined || began - this.#lastHorizonMs >= horizonEveryMs) {
      this.#lastHorizonMs = began;
      const seen = await horizon(db);
      xmin = seen.xmin;
      this.#mark.observe(seen, began);
    }
    const from = this.#mark.afterId;
    const { rows, highestFreshId } = await claim(db, workerId, slots, from);
    for (const row of rows) {
      flights.start(row, workerId);
    }
    const tookAll = rows.length < slots;
    this.#mark.looked(from, tookAll, highestFreshId);
    const after = now();
    if (rows.length > 0) {
      this.#lastFoundMs = after;
      this.#stir(after);
    }
    if (!tookAll) {
      this.#lookNow = true;
    } else if (rows.length === 0 && heldBefore === 0 && this.#drainRequested !== drains) {
      this.#drainRequested = drains;
      this.#c.onDrained();
    }
    this.#payOwedLook(xmin, tookAll);
    await this.#chooseMode(after, tookAll);
    this.#lookAtMs = this.#nextLookMs(after, timing);
  }

  /** The look that going idle owes is paid when all transactions up to the withdrawal had ended before it began. */
  #payOwedLook(xmin: bigint | undefined, tookAll: boolean): void {
    if (this.#owedXid === undefined || xmin === undefined) {
      return;
    }
    if (xmin > this.#owedXid && tookAll) {
      this.#owedXid = undefined;
    } else {
      this.#owedDelayMs = Math.min(this.#owedDelayMs * 2, 1_000);
    }
  }

  async #chooseMode(now: number, tookAll: boolean): Promise<void> {
    const { timing, listens, db } = this.#c;
    if (!listens) {
      return;
    }
    if (!this.#watching) {
      const oldest = this.#wakeTimesMs[0];
      const busy = this.#wakeTimesMs.length >= wakesForWatch && oldest !== undefined && now - oldest < wakeWindowMs;
      if (busy || !tookAll) {
        this.#watching = true;
        this.#owedXid = undefined;
        this.#wakeTimesMs = [];
        await this.#promiseToLook(now);
        // What committed between the last look and the promise has notified; but it was told of before we promised.
        this.#lookNow = true;
      }
    } else if (tookAll && now - this.#lastFoundMs > timing.lingerMs) {
      await this.#withdraw();
      this.#owedXid = await takeTransactionId(db);
      this.#owedDelayMs = 1;
    } else if (this.#promisedUntilMs - now < timing.promiseMs / 2) {
      await this.#promiseToLook(now);
    }
  }

  async #promiseToLook(now: number): Promise<void> {
    const { db, timing } = this.#c;
    await announcePromise(db);
    await promise(db, timing.promiseMs);
    this.#promisedUntilMs = now + timing.promiseMs;
  }

  async #withdraw(): Promise<void> {
    if (this.#watching) {
      await withdrawPromise(this.#c.db);
      this.#watching = false;
    }
  }

  #nextLookMs(now: number, timing: Timing): number {
    if (this.#watching) {
      return now + timing.watchEveryMs;
    }
    if (this.#owedXid !== undefined) {
      return now + this.#owedDelayMs;
    }
    return this.#c.listens ? Number.POSITIVE_INFINITY : now + timing.pollEveryMs;
  }

  /** At the end of this turn of the event loop: what landed in the same turn is recorded together. */
  #scheduleRecording(): void {
    if (!this.#recordScheduled && this.#recording === undefined) {
      this.#recordScheduled = true;
      setImmediate(() => {
        this.#recordScheduled = false;
        this.#record();
      });
    }
  }

  /** Records what has landed, one group at a time: while one is under way, the next one gathers. */
  #record(): void {
    const { flights, signal } = this.#c;
    if (this.#ended || this.#recording !== undefined || !flights.hasLanded) {
      return;
    }
    this.#recording = this.#recordGroup()
      .catch((error: unknown) => {
        this.#failure = error;
      })
      .finally(() => {
        this.#recording = undefined;
        if (this.#failure === undefined) {
          this.#record();
        }
        signal.raise();
      });
  }

  async #recordGroup(): Promise<void> {
    const { flights, db, workerId, onRecorded, now } = this.#c;
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
    this.#stir(now());
    if (ids.length > 0) {
      onRecorded(ids);
    }
    if (ids.length < group.length) {
      // Either somebody took our registration, or a user gave the rows to another; only the former concerns the rest.
      await this.#renewLease(now());
    }
  }

  async #renewLeaseIfDue(now: number): Promise<void> {
    const holds = this.#c.flights.held > 0 || this.#lookIsDue(now);
    if (holds && this.#leaseUntilMs - now < (this.#c.timing.leaseMs * 2) / 3) {
      await this.#renewLease(now);
    }
  }

  async #renewLease(now: number): Promise<void> {
    const { db, workerId, timing, restartSeen, orders, signal } = this.#c;
    const restarts = await renewLease(db, workerId, timing.leaseMs);
    if (restarts === null) {
      this.#fenced = true;
      signal.raise();
      return;
    }
    this.#leaseUntilMs = now + timing.leaseMs;
    if (restarts > restartSeen) {
      orders.restart = true;
    }
  }

  /** What is done beside the traffic: expiry, dead workers' requests, the last look before silence, signs of life. */
  async #housekeeping(now: number): Promise<void> {
    const { flights, timing, db } = this.#c;
    const active = flights.held > 0 || this.#watching || this.#owedXid !== undefined;
    if (now >= this.#alarmMs || now >= this.#otherPromiseMs || (active && now - this.#lastReclaimMs >= reclaimEveryMs)) {
      await this.#tend(now);
    } else if (!this.#silent && !active && now - this.#lastActiveMs >= timing.quietMs) {
      this.#silent = true;
      this.#mark.sweep();
      this.#lookNow = true;
      await this.#tend(now);
    } else if (now - Math.max(this.#lastActiveMs, this.#lastPingMs) >= timing.pingEveryMs) {
      this.#lastPingMs = now;
      await db.ping(timing.pingEveryMs / 2);
    }
  }

  /** Frees what dead workers held, expires old responses, and sets the alarm for the next time something is due. */
  async #tend(now: number): Promise<void> {
    const { db, workerId, settings, flights, warn } = this.#c;
    this.#lastReclaimMs = now;
    this.#alarmMs = Number.POSITIVE_INFINITY;
    if (now >= this.#otherPromiseMs) {
      this.#otherPromiseMs = Number.POSITIVE_INFINITY;
    }
    const { freed, watchMs } = await reclaim(db, workerId);
    if (freed > 0) {
      warn(`${freed} requests of a worker that is gone are free again`);
      this.#stir(now);
    }
    // A promise that another worker did not live to keep: what was enqueued under it is found by this look.
    this.#lookNow = true;
    const step = await expire(db, settings.ttlMs, expireRowsMax, this.#expiredUpTo);
    this.#expiredUpTo = step.upTo;
    const expiryMs = step.rows === expireRowsMax ? 0 : await nextExpiryMs(db, settings.ttlMs, this.#expiredUpTo);
    const dueMs = await nextDueMs(db);
    const alarms = [
      expiryMs === null ? Number.POSITIVE_INFINITY : expiryMs + 1,
      // One that is due already is taken by the look that follows, as soon as there is a slot.
      dueMs === null || dueMs <= 0 ? Number.POSITIVE_INFINITY : dueMs,
      watchMs === null ? Number.POSITIVE_INFINITY : Math.min(watchMs + 1, reclaimEveryMs),
    ];
    // Never at once: expiring a million responses, a step follows a step, and traffic goes between them.
    this.#alarmMs = now + Math.max(Math.min(...alarms), flights.held > 0 ? 10 : 1);
  }

  #nextTimerMs(now: number): number | undefined {
    const { timing, flights, orders } = this.#c;
    const full = flights.held >= this.#c.settings.concurrency;
    const active = flights.held > 0 || this.#watching || this.#owedXid !== undefined;
    const times = [
      full || orders.stopping ? Number.POSITIVE_INFINITY : this.#lookNow ? now : this.#lookAtMs,
      this.#alarmMs,
      this.#otherPromiseMs,
      orders.restart ? this.#beganMs + restartEveryMs : Number.POSITIVE_INFINITY,
      active ? this.#lastReclaimMs + reclaimEveryMs : Number.POSITIVE_INFINITY,
      active ? this.#leaseUntilMs - (timing.leaseMs * 2) / 3 : Number.POSITIVE_INFINITY,
      this.#silent || active ? Number.POSITIVE_INFINITY : this.#lastActiveMs + timing.quietMs,
      Math.max(this.#lastActiveMs, this.#lastPingMs) + timing.pingEveryMs,
    ];
    const next = Math.min(...times);
    return next === Number.POSITIVE_INFINITY ? undefined : Math.max(next - now, 0);
  }

  /** Resolves when nothing of this service uses its connection any more; to be called after that has been closed. */
  async finish(): Promise<void> {
    this.#ended = true;
    await this.#recording;
  }

  /** Gives up what is in the air and gives it back to the queue: any worker may send it again. */
  async releaseAll(): Promise<number> {
    const ids = this.#c.flights.giveUp();
    if (ids.length > 0) {
      await release(this.#c.db, this.#c.workerId, ids);
    }
    return ids.length;
  }
}
