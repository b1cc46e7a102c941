import type { Database } from '../postgres/database.ts';
import { forgetUnusedLimits, holdPermits, reportOutcomes, takeTokens } from '../store/limits.ts';
import type { Flights } from './flights.ts';
import type { Meters, Plan } from './meters.ts';

export type LimitsParts = {
  readonly db: Database;
  readonly workerId: bigint;
  readonly meters: Meters;
  readonly flights: Pick<Flights, 'freeSlots' | 'startParked'>;
  /** A monotonic clock, in milliseconds. */
  readonly now: () => number;
  /** Gives numbers in [0, 1). */
  readonly random: () => number;
  /** There may be room for more. */
  readonly onRoom: () => void;
  readonly onFailure: (error: unknown) => void;
};

/** The least time between two exchanges with the database, so that each concerns many requests. */
const exchangeEveryMs = 5;
const forgetEveryMs = 600_000;

/**
 * Has requests obey net.limits in sum over all workers: whenever something waits, or has landed, it asks the database for what
 * is missing and gives back what is not used, one exchange at a time. What it may send is then sent at once. Nothing happens
 * here while nothing is sent.
 */
export class Limits {
  readonly #p: LimitsParts;
  #timer: NodeJS.Timeout | undefined;
  #timerAtMs = Number.POSITIVE_INFINITY;
  #lastMs = Number.NEGATIVE_INFINITY;
  #forgotMs: number;
  #underWay: Promise<void> | undefined;
  #isEnded = false;

  constructor(parts: LimitsParts) {
    this.#p = parts;
    this.#forgotMs = parts.now();
    parts.meters.onChange = (): void => this.#schedule(parts.now());
    this.#schedule(parts.now());
  }

  /** Somebody says that a breaker has changed. */
  doubtBreakers(): void {
    this.#p.meters.doubtBreakers();
  }

  /** An exchange at that time, or as soon after the last one as may be. */
  #schedule(atMs: number): void {
    const dueAtMs = Math.max(atMs, this.#lastMs + exchangeEveryMs);
    if (this.#isEnded || this.#underWay !== undefined || dueAtMs >= this.#timerAtMs) {
      return;
    }
    clearTimeout(this.#timer);
    this.#timerAtMs = dueAtMs;
    const inMs = dueAtMs - this.#p.now();
    if (inMs <= 0) {
      // At the end of this turn of the event loop: what is parked in the same turn is asked for together.
      setImmediate(() => this.#begin());
    } else {
      this.#timer = setTimeout(() => this.#begin(), inMs);
    }
  }

  #begin(): void {
    if (this.#isEnded || this.#underWay !== undefined) {
      return;
    }
    const { meters, flights, now, onFailure } = this.#p;
    this.#timerAtMs = Number.POSITIVE_INFINITY;
    this.#lastMs = now();
    const plan = meters.plan(this.#lastMs, flights.freeSlots);
    if (plan.fuses.length + plan.quotas.length + plan.rates.length === 0) {
      this.#schedule(plan.nextMs);
      return;
    }
    this.#underWay = this.#exchange(plan).then(
      () => {
        this.#underWay = undefined;
        // What it gave may let others ask, and what came meanwhile has not been looked at.
        this.#schedule(now());
      },
      (error: unknown) => {
        this.#isEnded = true;
        onFailure(error);
      },
    );
  }

  async #exchange({ fuses, quotas, rates }: Plan): Promise<void> {
    const { db, workerId, flights, now, random, onRoom } = this.#p;
    if (fuses.length > 0) {
      const answers = await reportOutcomes(
        db,
        fuses.map(([, report]) => report),
        random,
      );
      pairwise(fuses, answers, ([fuse], answer) => fuse.answered(answer, now()));
    }
    if (quotas.length > 0) {
      const answers = await holdPermits(
        db,
        workerId,
        quotas.map(([, request]) => request),
      );
      pairwise(quotas, answers, ([quota, request], answer) => quota.answered(request, answer, now()));
    }
    if (rates.length > 0) {
      const answers = await takeTokens(
        db,
        rates.map(([, request]) => request),
      );
      pairwise(rates, answers, ([bounds, request], answer) => bounds.tokensGranted(request, answer, now(), random));
    }
    if (now() - this.#forgotMs >= forgetEveryMs) {
      this.#forgotMs = now();
      await forgetUnusedLimits(db);
    }
    if (!this.#isEnded) {
      flights.startParked();
      onRoom();
    }
  }

  /** Asks no more, and lets nothing more begin. Resolves when nothing is under way. */
  async end(): Promise<void> {
    this.#isEnded = true;
    clearTimeout(this.#timer);
    this.#p.meters.close();
    await this.#underWay;
    // An answer may have come after all.
    this.#p.meters.close();
  }
}

function pairwise<A, B>(left: readonly A[], right: readonly B[], each: (a: A, b: B) => void): void {
  for (const [place, a] of left.entries()) {
    const b = right[place];
    if (b === undefined) throw new Error('the database answered fewer questions than it was asked');
    each(a, b);
  }
}
