import { reclaim, reclaimOrphans } from '../store/reclaim.ts';
import { Expiry } from './expiry.ts';
import type { Lookout } from './lookout.ts';
import { OtherPromises } from './other-promises.ts';
import type { ServiceContext } from './service.ts';

/** The least time between two rounds: expiring a million responses, traffic goes between the steps. */
const tendEveryMs = 5;
/** How often a busy worker looks at the whole queue, for what no rule covers: rows that a user had locked, or inserted by hand. */
const sweepEveryMs = 10_000;

const never = Number.POSITIVE_INFINITY;

export type UpkeepContext = Pick<
  ServiceContext,
  'db' | 'workerId' | 'settings' | 'timing' | 'listens' | 'warn' | 'orphansLeft'
>;

/** What time brings: responses that expire, workers that have died. */
export class Upkeep {
  readonly otherPromises: OtherPromises;
  readonly #c: UpkeepContext;
  readonly #lookout: Lookout;
  #lastTendedMs: number;
  #lastSweptMs: number;
  /** When to tend though nothing happens. */
  #alarmMs = never;
  readonly #expiry: Expiry;
  /** Somebody had locked claims of a worker that is gone when they were to be freed. */
  #orphansLeft: boolean;

  constructor(context: UpkeepContext, lookout: Lookout, now: number) {
    this.#c = context;
    this.#lookout = lookout;
    this.#lastTendedMs = now;
    this.#lastSweptMs = now;
    this.#orphansLeft = context.orphansLeft;
    this.otherPromises = new OtherPromises(context.timing.promiseMs);
    this.#expiry = new Expiry(context);
  }

  /** Something falls due then. */
  alarm(atMs: number): void {
    this.#alarmMs = Math.min(this.#alarmMs, atMs);
  }

  /** When the next round is due. */
  tendAtMs(isActive: boolean): number {
    const { listens, timing } = this.#c;
    // A worker that polls hears of no other's promise: it looks after the others by itself.
    const everyMs = isActive ? timing.reclaimEveryMs : listens ? never : timing.leaseMs / 2;
    const rhythm = this.#lastTendedMs + everyMs;
    return Math.max(Math.min(this.#alarmMs, this.otherPromises.overAtMs, rhythm), this.#lastTendedMs + tendEveryMs);
  }

  /** Frees what dead workers held, expires what is old, and sets the alarm. Returns how many requests are free again. */
  async tend(now: number): Promise<number> {
    this.#lastTendedMs = now;
    this.#alarmMs = never;
    if (now - this.#lastSweptMs >= sweepEveryMs) {
      this.#lastSweptMs = now;
      this.#lookout.sweep();
    }
    this.#lookout.lookNow();
    const freed = await this.#reclaim(now);
    this.alarm(await this.#expiry.step(now));
    return freed;
  }

  async #reclaim(now: number): Promise<number> {
    const { db, workerId, timing, warn } = this.#c;
    const { freed: freedByDeath, buried, watchMs } = await reclaim(db, workerId);
    // What a dead worker claimed while it was being buried, or somebody had locked.
    const orphans = buried > 0 || this.#orphansLeft ? await reclaimOrphans(db) : undefined;
    this.#orphansLeft = orphans?.areLeft === true;
    const freed = freedByDeath + (orphans?.freed ?? 0);
    // It may have promised to look after we last looked in its stead.
    if (buried > 0 || now >= this.otherPromises.overAtMs) {
      this.otherPromises.forget();
      await this.#lookout.takeOver();
    }
    if (freed > 0) {
      warn(`${freed} requests of a worker that is gone are free again`);
    }
    this.alarm(watchMs === null ? never : now + Math.min(watchMs + 1, timing.reclaimEveryMs));
    this.alarm(this.#orphansLeft ? now + timing.reclaimEveryMs : never);
    return freed;
  }
}
