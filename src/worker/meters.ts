import { hostOfOrigin, type Limit, type LimitRow, limitOfHost, limitOfKey } from '../core/limits.ts';
import type { BreakerReport, PermitRequest, TokenRequest } from '../store/limits.ts';
import { Bounds, Meter } from './bounds.ts';
import type { Fuse } from './fuse.ts';
import type { Quota } from './quota.ts';

const never = Number.POSITIVE_INFINITY;

/** What is to be asked of the database now, and when to look again. */
export type Plan = {
  readonly fuses: readonly (readonly [Fuse, BreakerReport])[];
  readonly quotas: readonly (readonly [Quota, PermitRequest])[];
  readonly rates: readonly (readonly [Bounds, TokenRequest])[];
  readonly nextMs: number;
};

/** How long what nobody uses is remembered. */
const unusedMs = 1_000;

/** The limits of one database, as this worker counts by them: only those of hosts and keys that it has requests for. */
export class Meters {
  /** Called when there may be something to ask the database; whoever asks it sets it. */
  onChange: () => void = () => {};
  readonly #rows: readonly LimitRow[];
  readonly #meters = new Map<string, Meter>();
  readonly #bounds = new Map<string, Bounds>();

  constructor(rows: readonly LimitRow[]) {
    this.#rows = rows;
  }

  /** What requests to that origin, under that key, obey; undefined: nothing. To be counted in its `lanes`. */
  boundsOf(origin: string, limitKey: string | undefined): Bounds | undefined {
    const host = hostOfOrigin(origin);
    const name = `${host ?? ''}\n${limitKey ?? ''}`;
    const known = this.#bounds.get(name);
    if (known !== undefined) return known;
    const limits = [
      host === undefined ? undefined : this.#meter(`host ${host}`, limitOfHost(this.#rows, host)),
      limitKey === undefined ? undefined : this.#meter(`key ${limitKey}`, limitOfKey(this.#rows, limitKey)),
    ] as const;
    if (limits[0] === undefined && limits[1] === undefined) return undefined;
    const bounds = new Bounds(...limits, () => this.onChange());
    for (const meter of limits) {
      if (meter !== undefined) meter.users += 1;
    }
    this.#bounds.set(name, bounds);
    return bounds;
  }

  #meter(name: string, limit: Limit | undefined): Meter | undefined {
    if (
      limit === undefined ||
      (limit.requestsPerSecond === undefined && limit.concurrency === undefined && !limit.breaker)
    ) {
      return undefined;
    }
    const meter = this.#meters.get(name) ?? new Meter(name, limit);
    this.#meters.set(name, meter);
    return meter;
  }

  /** Somebody says that a breaker has changed. */
  doubtBreakers(): void {
    for (const { fuse } of this.#meters.values()) fuse?.doubt();
    this.onChange();
  }

  /** Nothing more begins: the connection is at its end, and with it what is known of the others. */
  close(): void {
    for (const { quota } of this.#meters.values()) quota?.close();
    for (const bounds of this.#bounds.values()) bounds.loseTokens();
  }

  /** What to ask of the database now, for at most so many requests more. */
  plan(nowMs: number, freeSlots: number): Plan {
    this.#countDemand(Math.max(freeSlots, 0));
    const fuses: [Fuse, BreakerReport][] = [];
    const quotas: [Quota, PermitRequest][] = [];
    const rates: [Bounds, TokenRequest][] = [];
    let nextMs = never;
    const isDue = (atMs: number): boolean => {
      if (atMs > nowMs) nextMs = Math.min(nextMs, atMs);
      return atMs <= nowMs;
    };
    for (const { name, quota, fuse } of this.#meters.values()) {
      if (fuse !== undefined && isDue(fuse.dueAtMs(nowMs))) fuses.push([fuse, fuse.report(name)]);
      if (quota !== undefined && isDue(quota.dueAtMs(nowMs))) quotas.push([quota, quota.request(name)]);
    }
    for (const bounds of this.#bounds.values()) {
      if (isDue(bounds.tokensDueAtMs(nowMs))) rates.push([bounds, bounds.tokenRequest()]);
    }
    if (this.#forgetUnused(nowMs)) nextMs = Math.min(nextMs, nowMs + unusedMs);
    return { fuses, quotas, rates, nextMs };
  }

  /**
   * What waits asks for one after another: that its breakers let it through, then to be one of those at a time, then for the
   * rate; of its key before its host. So nobody holds what he cannot use.
   */
  #countDemand(freeSlots: number): void {
    for (const { quota, fuse } of this.#meters.values()) {
      if (quota !== undefined) quota.demand = 0;
      if (fuse !== undefined) fuse.demand = 0;
    }
    for (const bounds of this.#bounds.values()) {
      let requests = Math.min(bounds.parked, freeSlots);
      const meters = [bounds.key, bounds.host];
      for (const part of [...meters.map((meter) => meter?.fuse), ...meters.map((meter) => meter?.quota)]) {
        if (part === undefined) continue;
        part.demand += requests;
        requests = Math.max(Math.min(requests, part.room), 0);
      }
      bounds.demand = requests;
    }
  }

  /** Returns whether there is more to be forgotten later. */
  #forgetUnused(nowMs: number): boolean {
    let isLeft = false;
    for (const [name, bounds] of this.#bounds) {
      bounds.unusedSinceMs = bounds.lanes > 0 ? undefined : (bounds.unusedSinceMs ?? nowMs);
      if (bounds.unusedSinceMs === undefined) continue;
      if (nowMs - bounds.unusedSinceMs < unusedMs) {
        isLeft = true;
        continue;
      }
      this.#bounds.delete(name);
      for (const meter of [bounds.key, bounds.host]) {
        if (meter !== undefined) meter.users -= 1;
      }
    }
    for (const [name, meter] of this.#meters) {
      if (meter.isIdle) this.#meters.delete(name);
      else isLeft ||= meter.users === 0;
    }
    return isLeft;
  }
}
