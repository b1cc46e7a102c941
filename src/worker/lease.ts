import type { Session } from '../postgres/database.ts';
import { type Asked, renewLease } from '../store/register.ts';

export type LeaseParts = {
  readonly db: Session;
  readonly workerId: bigint;
  /** How long what is claimed stays ours without a sign of life. */
  readonly leaseMs: number;
  /** After each renewal: what is asked of the workers; null: the registration is gone. */
  readonly onRenewed: (asked: Asked | null) => void;
  readonly onFailure: (error: unknown) => void;
};

/** The lease of one registration: only who holds requests, or is about to claim some, needs it. */
export class Lease {
  readonly #parts: LeaseParts;
  /** Until when what we claim is our own; -Infinity: we have none, or may have lost it. */
  #untilMs: number;
  /** The same as far as the server has confirmed it. */
  #sureUntilMs: number;

  /** Registering has given one. */
  constructor(parts: LeaseParts, nowMs: number) {
    this.#parts = parts;
    this.#untilMs = nowMs + parts.leaseMs;
    this.#sureUntilMs = this.#untilMs;
  }

  /**
   * Whether what we hold is ours for sure. A process that was stopped for long wakes with what it had claimed: who has taken it for
   * dead may have sent that, and what comes after it.
   */
  isSureAt(nowMs: number): boolean {
    return nowMs < this.#sureUntilMs;
  }

  /** When who holds requests should renew it. */
  get renewAtMs(): number {
    return this.#untilMs - (this.#parts.leaseMs * 2) / 3;
  }

  /** When who holds none must renew it before claiming. What wakes an idle worker need not wait for a renewal before that. */
  get claimUntilMs(): number {
    return this.#untilMs - this.#parts.leaseMs / 3;
  }

  /** It may be over: the next renewal tells. */
  doubt(): void {
    this.#untilMs = Number.NEGATIVE_INFINITY;
    this.#sureUntilMs = Number.NEGATIVE_INFINITY;
  }

  /** The answer is not waited for: a claim behind it on the same session finds the lease, or none. */
  renew(nowMs: number): void {
    const { db, workerId, leaseMs, onRenewed, onFailure } = this.#parts;
    this.#untilMs = nowMs + leaseMs;
    renewLease(db, workerId, leaseMs)
      .then((asked) => {
        if (asked !== null) this.#sureUntilMs = nowMs + leaseMs;
        onRenewed(asked);
      })
      .catch(onFailure);
  }
}
