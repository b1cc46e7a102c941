import { opensAt, type Verdict } from '../core/breaker.ts';
import type { BreakerAnswer, BreakerReport } from '../store/limits.ts';

const never = Number.POSITIVE_INFINITY;

/** How often outcomes are told, where they open no breaker. */
const reportEveryMs = 1_000;
/** How often it is asked whether requests that wait may go on. A notification says so at once, where there are any. */
const lookEveryMs = 2_000;
/** Any login may notify: how soon after the last question the next one is asked for it. */
const doubtEveryMs = 100;

/** What this worker knows of a breaker. */
export class Fuse {
  /** How many would begin now if it were closed. */
  demand = 0;
  #state: 'unknown' | 'closed' | 'open' | 'half_open' = 'unknown';
  #probe: 'none' | 'ours' | 'sent' = 'none';
  #probeEnd: { readonly verdict: Verdict | undefined } | undefined;
  #retryAtMs = never;
  #lookedAtMs = Number.NEGATIVE_INFINITY;
  #isDoubted = false;
  #known = { failures: 0, total: 0 };
  #untold = { failures: 0, total: 0 };
  #untoldSinceMs: number | undefined;

  get room(): number {
    return this.#state === 'closed' ? never : this.#probe === 'ours' ? 1 : 0;
  }

  get isIdle(): boolean {
    return this.#untold.total === 0 && this.#probe === 'none';
  }

  /** One begins. Returns whether it is the probe. */
  enter(): boolean {
    if (this.#probe !== 'ours') return false;
    this.#probe = 'sent';
    return true;
  }

  leave(verdict: Verdict | undefined, isProbe: boolean): void {
    if (isProbe && this.#probe === 'sent') {
      this.#probeEnd = { verdict };
    } else if (verdict !== undefined && this.#state === 'closed') {
      this.#untold.total += 1;
      this.#untold.failures += verdict === 'failure' ? 1 : 0;
    }
  }

  /** Somebody says that it has changed. */
  doubt(): void {
    this.#isDoubted = true;
  }

  /** When to tell the database, or to ask it. */
  dueAtMs(nowMs: number): number {
    if (this.#probe === 'ours' && this.demand === 0) this.#probeEnd = { verdict: undefined };
    if (this.#probeEnd !== undefined) return nowMs;
    const lookAtMs = Math.min(
      this.#isDoubted ? this.#lookedAtMs + doubtEveryMs : never,
      this.demand > 0 && this.#state !== 'closed' ? Math.min(this.#lookedAtMs + lookEveryMs, this.#retryAtMs) : never,
    );
    if (this.#untold.total === 0) return lookAtMs;
    this.#untoldSinceMs ??= nowMs;
    const mayOpen = opensAt(this.#known.failures + this.#untold.failures, this.#known.total + this.#untold.total);
    return Math.min(lookAtMs, mayOpen ? nowMs : this.#untoldSinceMs + reportEveryMs);
  }

  report(meter: string): BreakerReport {
    const report = {
      meter,
      ...this.#untold,
      probe: this.#probeEnd,
      wantsProbe: this.demand > 0 && this.#state !== 'closed' && this.#probe !== 'ours',
    };
    this.#untold = { failures: 0, total: 0 };
    this.#untoldSinceMs = undefined;
    this.#isDoubted = false;
    if (this.#probeEnd !== undefined) this.#probe = 'none';
    this.#probeEnd = undefined;
    return report;
  }

  answered({ state, retryInMs, failures, total, isProbe }: BreakerAnswer, nowMs: number): void {
    this.#state = state;
    this.#known = { failures, total };
    if (isProbe) this.#probe = 'ours';
    this.#retryAtMs = state === 'closed' ? never : nowMs + Math.max(retryInMs, 0);
    this.#lookedAtMs = nowMs;
  }
}
