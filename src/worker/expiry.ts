import { type Expiring, expire, nextExpiryMs, type OfEach } from '../store/expire.ts';
import type { ServiceContext } from './service.ts';

/** One step: a millisecond or so, so that traffic beside it does not wait. */
const expireRowsMax = 200;

const each: readonly Expiring[] = ['responses', 'keptRequests', 'attempts', 'idempotencyKeys'];

export type ExpiryContext = Pick<ServiceContext, 'db' | 'settings' | 'timing'>;

/**
 * Deletes what has expired, in steps. One statement asks all tables when something is due, and only those in which something is
 * are looked into.
 */
export class Expiry {
  readonly #c: ExpiryContext;
  readonly #ttlMs: OfEach<number>;
  /** Everything before this has been dealt with. */
  readonly #upTo: Record<Expiring, Date> = {
    responses: new Date(0),
    keptRequests: new Date(0),
    attempts: new Date(0),
    idempotencyKeys: new Date(0),
  };
  /** When the first row of each is due; Infinity: there is none. */
  readonly #dueAtMs: Record<Expiring, number> = {
    responses: Number.NEGATIVE_INFINITY,
    keptRequests: Number.NEGATIVE_INFINITY,
    attempts: Number.NEGATIVE_INFINITY,
    idempotencyKeys: Number.NEGATIVE_INFINITY,
  };

  constructor(context: ExpiryContext) {
    this.#c = context;
    const { ttlMs, keptTtlMs } = context.settings;
    this.#ttlMs = { responses: ttlMs, keptRequests: keptTtlMs, attempts: ttlMs, idempotencyKeys: 0 };
  }

  /** One step in each table that has something due. Returns when the next is. */
  async step(now: number): Promise<number> {
    const { db, timing } = this.#c;
    const looked = new Set<Expiring>();
    let isBehind = false;
    for (const what of each.filter((one) => this.#dueAtMs[one] <= now)) {
      const { rows, upTo } = await expire(db, what, this.#ttlMs[what], expireRowsMax, this.#upTo[what]);
      this.#upTo[what] = upTo;
      looked.add(what);
      isBehind ||= rows === expireRowsMax;
    }
    if (isBehind) {
      return now;
    }
    const dueMs = await nextExpiryMs(db, this.#ttlMs, this.#upTo);
    for (const what of each) {
      const ms = dueMs[what] ?? Number.POSITIVE_INFINITY;
      // One that is due and was passed over is locked by somebody.
      this.#dueAtMs[what] = now + (ms > 0 ? ms + 1 : looked.has(what) ? timing.reclaimEveryMs : 0);
    }
    return Math.min(...each.map((what) => this.#dueAtMs[what]));
  }
}
