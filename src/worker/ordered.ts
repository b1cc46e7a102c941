import type { QueueRow, UnloadedRow } from '../core/request.ts';
import type { Database } from '../postgres/database.ts';
import { pairOf } from '../store/claim.ts';
import {
  claimOrdered,
  findWaitingKeys,
  firstKey,
  forgetKeys,
  type Key,
  type WaitingKey,
} from '../store/claim-ordered.ts';
import type { Flights } from './flights.ts';

/** How many keys one look walks over at most: a few milliseconds. */
const walkKeysMax = 1_000;
/** Walks keep this distance, and ten times what the last one took: they cost a busy worker a tenth of its time at most. */
const walkEveryMs = 20;
const restPerWalk = 10;
/** A request whose turn it seemed to be and that could not be claimed is looked for again after so long: see {@link Ordered}. */
const walkAgainMs = 1_000;
/** What was woken for requests without a key is first to do what it was woken for. */
const walkAfterFindMs = 3;
/** So many keys are remembered of one lane, and of all together; those left out are found by a later walk. */
const laneKeysMax = 1_000;
const keysMax = 20_000;
/** How many keys one step of forgetting looks at. */
const forgetKeysMax = 500;

const never = Number.POSITIVE_INFINITY;

type Rows = readonly (QueueRow | UnloadedRow)[];

export type OrderedContext = {
  readonly db: Database;
  readonly workerId: bigint;
  readonly flights: Pick<Flights, 'freeSlots' | 'roomFor'>;
  /** The most requests that one claim takes. */
  readonly settings: { readonly batchSize: number };
  readonly now: () => number;
};

/**
 * Knows of which ordering keys a request may wait, and claims it. Keys are found in two ways: one whose request this worker has
 * recorded may have a next one; and walks over the keys that are in the queue find all others. A walk follows the looks of the
 * passes (woken, an alarm, a sweep, the last look before silence): whatever calls for those calls for it.
 *
 * Only ever a hint: net._claim_ordered says whose turn it is. A request that somebody has locked (net.cancel in a transaction that
 * is not over) is none's: should that be rolled back, nobody says so.
 */
export class Ordered {
  readonly #c: OrderedContext;
  /** By lane, in the order in which they were found. */
  readonly #waiting = new Map<string, Map<string, WaitingKey>>();
  #size = 0;
  /** A walk through all keys is to begin: something may have been enqueued since the last one began. */
  #isWalkWanted = false;
  /** The walk under way goes on after this key. */
  #walkAfter: Key | undefined;
  /** After this key the last walk left some out, because too many are known already; where the next one begins. */
  #leftOutAfter: Key | undefined;
  #walkTookMs = 0;
  #nextWalkMs = Number.NEGATIVE_INFINITY;
  /** When a walk is wanted though nothing happens. */
  #walkAgainAtMs = never;
  /** Keys are known, or room has come, that no claim has been tried for. */
  #mayClaim = false;
  #nextClaimMs = Number.NEGATIVE_INFINITY;
  /** Since the forgetting of keys last began, requests of some have been recorded. */
  #mayForget = false;
  #forgetAfter: Key | undefined;

  constructor(context: OrderedContext) {
    this.#c = context;
  }

  /** The queue has been looked into: a walk follows. Where something was found, that is to be recorded before. */
  looked(hasFound: boolean): void {
    if (!this.#isWalkWanted && hasFound) {
      this.#nextWalkMs = Math.max(this.#nextWalkMs, this.#c.now() + walkAfterFindMs);
    }
    this.#isWalkWanted = true;
  }

  /** Requests have been recorded, some of them of these keys: there is room, and each of the keys may have a next one. */
  recorded(keys: readonly WaitingKey[]): void {
    this.#mayClaim = true;
    if (this.#leftOutAfter !== undefined) {
      this.#isWalkWanted = true;
    }
    this.#mayForget ||= keys.length > 0;
    for (const key of keys) {
      this.#add(key);
    }
  }

  /** Returns whether it is known now. */
  #add(key: WaitingKey): boolean {
    const lane = pairOf(key.requester, key.origin);
    const waiting = this.#waiting.get(lane) ?? new Map<string, WaitingKey>();
    if (waiting.has(key.orderingKey)) {
      return true;
    }
    if (waiting.size >= laneKeysMax || this.#size >= keysMax) {
      this.#leftOutAfter ??= firstKey;
      return false;
    }
    waiting.set(key.orderingKey, key);
    this.#waiting.set(lane, waiting);
    this.#size += 1;
    this.#mayClaim = true;
    return true;
  }

  /** When the next look is due, where there are free slots; the past where one is due now. */
  get dueAtMs(): number {
    return Math.min(this.#dueAtMs, this.#walkAgainAtMs);
  }

  get #dueAtMs(): number {
    if (this.#walkAfter !== undefined) {
      return Number.NEGATIVE_INFINITY;
    }
    const claimAtMs = this.#mayClaim && this.#size > 0 ? this.#nextClaimMs : never;
    return Math.min(claimAtMs, this.#isWalkWanted ? this.#nextWalkMs : never);
  }

  isDue(nowMs: number): boolean {
    return this.#c.flights.freeSlots > 0 && nowMs >= this.dueAtMs;
  }

  /** Walks on where that is due, and claims what there is room for. Null where the worker has no lease. */
  async look(): Promise<Rows | null> {
    if (this.#c.now() >= this.#walkAgainAtMs) {
      this.#walkAgainAtMs = never;
      this.#isWalkWanted = true;
    }
    if (this.#walkAfter !== undefined || (this.#isWalkWanted && this.#c.now() >= this.#nextWalkMs)) {
      await this.#walk();
    }
    const keys = this.#take();
    if (keys.length === 0) {
      return [];
    }
    const rows = await claimOrdered(this.#c.db, this.#c.workerId, keys);
    if (rows === null || rows === undefined) {
      for (const key of keys) {
        this.#add(key);
      }
      this.#nextClaimMs = this.#c.now() + walkEveryMs;
      return rows === null ? null : [];
    }
    const ids = new Set(rows.map(({ id }) => id));
    if (keys.some(({ firstId }) => firstId !== null && !ids.has(firstId))) {
      this.#walkAgainAtMs = Math.min(this.#walkAgainAtMs, this.#c.now() + walkAgainMs);
    }
    return rows;
  }

  /** Looks at once, through all keys, until something is claimed or nothing is left: for whoever waits for that. */
  async lookThrough(): Promise<Rows | null> {
    this.#isWalkWanted = true;
    for (;;) {
      this.#nextWalkMs = Number.NEGATIVE_INFINITY;
      const rows = await this.look();
      if (rows === null || rows.length > 0 || this.#dueAtMs === never) {
        return rows;
      }
    }
  }

  async #walk(): Promise<void> {
    const { db, now } = this.#c;
    const beganMs = now();
    if (this.#walkAfter === undefined) {
      // One that begins further on is followed by one through all.
      this.#isWalkWanted = this.#leftOutAfter !== undefined && this.#leftOutAfter !== firstKey;
      this.#walkAfter = this.#leftOutAfter ?? firstKey;
      this.#leftOutAfter = undefined;
      this.#walkTookMs = 0;
    }
    let after: Key = this.#walkAfter;
    const { waiting, upTo } = await findWaitingKeys(db, after, walkKeysMax);
    for (const key of waiting) {
      const wasComplete = this.#leftOutAfter === undefined;
      if (!this.#add(key) && wasComplete) {
        this.#leftOutAfter = after;
      }
      after = key;
    }
    const endedMs = now();
    this.#walkAfter = upTo;
    this.#walkTookMs += endedMs - beganMs;
    this.#nextWalkMs = endedMs + Math.max(walkEveryMs, this.#walkTookMs * restPerWalk);
  }

  /** Takes out the keys that there is room for, of each lane in turn. */
  #take(): readonly WaitingKey[] {
    const { flights, settings } = this.#c;
    const taken: WaitingKey[] = [];
    const slots = Math.min(flights.freeSlots, settings.batchSize);
    for (const [lane, waiting] of [...this.#waiting]) {
      const free = slots - taken.length;
      const [first] = waiting.values();
      if (first === undefined || free <= 0) {
        break;
      }
      let room = Math.min(flights.roomFor(first), free);
      if (room > 0) {
        for (const [orderingKey, key] of waiting) {
          waiting.delete(orderingKey);
          taken.push(key);
          room -= 1;
          if (room === 0) break;
        }
        this.#waiting.delete(lane);
        if (waiting.size > 0) {
          this.#waiting.set(lane, waiting);
        }
      }
    }
    this.#size -= taken.length;
    this.#mayClaim = taken.length === slots;
    return taken;
  }

  /** One step of forgetting the keys that nothing waits of any more. Returns whether there is more to do at once. */
  async forget(): Promise<boolean> {
    if (this.#forgetAfter === undefined && !this.#mayForget) {
      return false;
    }
    if (this.#forgetAfter === undefined) {
      this.#mayForget = false;
    }
    this.#forgetAfter = await forgetKeys(this.#c.db, this.#forgetAfter ?? firstKey, forgetKeysMax);
    return this.#forgetAfter !== undefined;
  }
}
