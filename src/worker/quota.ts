import type { PermitAnswer, PermitRequest } from '../store/limits.ts';

const never = Number.POSITIVE_INFINITY;

/** How long to wait with the next question where there was not all that was wanted; doubled each time. */
const askFirstMs = 10;
const askLastMs = 100;
/** Who has all that there is asks no more often than this whether others have come. */
const askWithAllMs = 250;
/** How long what is not used is kept, where nobody else waits for it. */
const lingerMs = 50;

/** Of the requests that a host or a key may have at a time in sum, those of this worker. */
export class Quota {
  readonly limit: number;
  inAir = 0;
  /** How many would begin now if there were room. */
  demand = 0;
  /** How many may be in the air. */
  #allowed = 0;
  /** How many the database counts as ours. */
  #held = 0;
  #isContended = false;
  #askAtMs = Number.NEGATIVE_INFINITY;
  #askEveryMs = askFirstMs;
  #surplusSinceMs: number | undefined;

  constructor(limit: number) {
    this.limit = limit;
  }

  get room(): number {
    return this.#allowed - this.inAir;
  }

  get isIdle(): boolean {
    return this.inAir === 0 && this.#held === 0;
  }

  /** Nothing more begins until the database has said how many. What runs on the way to it must not be counted as free. */
  close(): void {
    this.#allowed = Math.min(this.#allowed, this.inAir);
  }

  /** Those in the air already when the limit was read. */
  adopt(inAir: number): void {
    this.inAir += inAir;
    this.#allowed = this.inAir;
    this.#held = this.inAir;
  }

  /** When to tell the database: it should allow more, or has others wait for what is not used here. */
  dueAtMs(nowMs: number): number {
    const target = this.inAir + this.demand;
    const used = Math.max(this.inAir, Math.min(target, this.#allowed));
    this.#surplusSinceMs = this.#held > used ? (this.#surplusSinceMs ?? nowMs) : undefined;
    const giveBackAtMs =
      this.#surplusSinceMs === undefined ? never : this.#surplusSinceMs + (this.#isContended ? 0 : lingerMs);
    return Math.min(giveBackAtMs, target > this.#allowed ? this.#askAtMs : never);
  }

  request(meter: string): PermitRequest {
    this.close();
    return { meter, limit: this.limit, inUse: this.inAir, wants: this.inAir + this.demand };
  }

  answered({ inUse, wants }: PermitRequest, { allowed, contended }: PermitAnswer, nowMs: number): void {
    this.#allowed = allowed;
    this.#held = Math.max(allowed, inUse);
    this.#isContended = contended;
    this.#surplusSinceMs = undefined;
    this.#askEveryMs = allowed > inUse ? askFirstMs : Math.min(this.#askEveryMs * 2, askLastMs);
    const everyMs = allowed >= this.limit ? askWithAllMs : this.#askEveryMs;
    this.#askAtMs = allowed < wants ? nowMs + everyMs : nowMs;
  }
}
