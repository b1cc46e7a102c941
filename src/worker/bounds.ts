import type { Verdict } from '../core/breaker.ts';
import type { Limit } from '../core/limits.ts';
import type { TokenAnswer, TokenRequest } from '../store/limits.ts';
import { Fuse } from './fuse.ts';
import { Quota } from './quota.ts';

const never = Number.POSITIVE_INFINITY;

/** What is counted of one host, or of one key. */
export class Meter {
  readonly name: string;
  readonly requestsPerSecond: number | undefined;
  readonly quota: Quota | undefined;
  readonly fuse: Fuse | undefined;
  /** How many bounds count by it. */
  users = 0;

  constructor(name: string, { requestsPerSecond, concurrency, breaker }: Limit) {
    this.name = name;
    this.requestsPerSecond = requestsPerSecond;
    this.quota = concurrency === undefined ? undefined : new Quota(concurrency);
    this.fuse = breaker ? new Fuse() : undefined;
  }

  get isIdle(): boolean {
    return this.users === 0 && this.quota?.isIdle !== false && this.fuse?.isIdle !== false;
  }
}

/** How long to wait with the next question where fewer were granted than wanted; doubled while there are none. */
const tokensFirstMs = 12;
const tokensLastMs = 48;
/** So long what was granted may be used. */
const tokensLastForMs = 20;

/** What the requests to one host, under one key, obey together. */
export class Bounds {
  readonly host: Meter | undefined;
  readonly key: Meter | undefined;
  /** How many lanes send under it, and since when there have been none. */
  lanes = 0;
  unusedSinceMs: number | undefined;
  /** How many requests are parked in them. */
  parked = 0;
  /** How many of them wait for nothing but the rate. */
  demand = 0;
  readonly #isRated: boolean;
  readonly #onChange: () => void;
  #tokens = 0;
  #tokensUntilMs = never;
  #askAtMs = Number.NEGATIVE_INFINITY;
  #askEveryMs = tokensFirstMs;

  constructor(host: Meter | undefined, key: Meter | undefined, onChange: () => void) {
    this.host = host;
    this.key = key;
    this.#isRated = host?.requestsPerSecond !== undefined || key?.requestsPerSecond !== undefined;
    this.#onChange = onChange;
  }

  /** How many may begin now. */
  get room(): number {
    return Math.min(roomOf(this.key), roomOf(this.host), this.#isRated ? this.#tokens : never);
  }

  /** How many should be here, so that none is waited for while others may be sent: what a tenth of a second lets through. */
  get ahead(): number {
    return Math.min(aheadOf(this.key), aheadOf(this.host));
  }

  /** What was in the air or parked already when the limits were read. */
  adopt(inAir: number, parked: number): void {
    this.key?.quota?.adopt(inAir);
    this.host?.quota?.adopt(inAir);
    this.park(parked);
  }

  /** More wait, or fewer. */
  park(requests: number): void {
    this.parked += requests;
    if (requests > 0) this.#onChange();
  }

  /** One begins. Returns whether it is the probe of a breaker. */
  enter(): boolean {
    if (this.#isRated) this.#tokens -= 1;
    return [this.key, this.host].filter((meter) => meter !== undefined && enterMeter(meter)).length > 0;
  }

  /** One has landed, or is given up. */
  leave(verdict: Verdict | undefined, isProbe: boolean): void {
    for (const meter of [this.key, this.host]) {
      if (meter?.quota !== undefined) meter.quota.inAir -= 1;
      meter?.fuse?.leave(verdict, isProbe);
    }
    this.#onChange();
  }

  /** What is wanted of the database, if anything. */
  tokensDueAtMs(nowMs: number): number {
    if (nowMs >= this.#tokensUntilMs) this.loseTokens();
    return this.#isRated && this.demand > this.#tokens ? this.#askAtMs : never;
  }

  loseTokens(): void {
    this.#tokens = 0;
    this.#tokensUntilMs = never;
  }

  tokenRequest(): TokenRequest {
    const { host, key } = this;
    return {
      hostMeter: host?.requestsPerSecond === undefined ? null : host.name,
      hostRate: host?.requestsPerSecond ?? null,
      keyMeter: key?.requestsPerSecond === undefined ? null : key.name,
      keyRate: key?.requestsPerSecond ?? null,
      wanted: this.demand - this.#tokens,
    };
  }

  /** `random` spreads the questions of several workers. */
  tokensGranted({ wanted }: TokenRequest, { granted, waitMs }: TokenAnswer, nowMs: number, random: () => number): void {
    this.#tokens += granted;
    this.#tokensUntilMs = nowMs + tokensLastForMs;
    this.#askEveryMs = granted > 0 ? tokensFirstMs : Math.min(this.#askEveryMs * 2, tokensLastMs);
    this.#askAtMs = granted < wanted ? nowMs + Math.max(waitMs, this.#askEveryMs * (0.75 + 0.5 * random())) : nowMs;
  }
}

function roomOf(meter: Meter | undefined): number {
  return meter === undefined ? never : Math.min(meter.quota?.room ?? never, meter.fuse?.room ?? never);
}

function aheadOf(meter: Meter | undefined): number {
  if (meter === undefined) return never;
  return Math.min(
    meter.quota?.limit ?? never,
    meter.requestsPerSecond === undefined ? never : Math.ceil(meter.requestsPerSecond / 10) + 1,
    meter.fuse?.room === 0 ? 1 : never,
  );
}

function enterMeter({ quota, fuse }: Meter): boolean {
  if (quota !== undefined) quota.inAir += 1;
  return fuse?.enter() === true;
}
