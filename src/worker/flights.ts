import { aftermathOf, defaultTerms, type Terms } from '../core/aftermath.ts';
import { Bag } from '../core/bag.ts';
import { verdictOf } from '../core/breaker.ts';
import { Cancellation } from '../core/cancellation.ts';
import { cancelled, type Failure } from '../core/outcome.ts';
import type { Standing } from '../core/policy.ts';
import type { QueueRow, UnloadedRow } from '../core/request.ts';
import { defaultSendRules, type SendRules } from '../core/send-rules.ts';
import { type Settlement, settlementOf } from '../core/settlement.ts';
import type { Session } from '../postgres/database.ts';
import { type Part, roleOf } from '../store/claim.ts';
import type { WaitingKey } from '../store/claim-ordered.ts';
import { Bodies } from './bodies.ts';
import { type Claimed, type Lane, Lanes, laneNameOf, type Slots } from './lanes.ts';
import type { Meters } from './meters.ts';
import { carryOut, type Stages } from './pipeline.ts';
import type { Standings } from './standings.ts';

/** A finished request that waits to be recorded, and the registration under which it was claimed. */
export type Landed = {
  readonly workerId: bigint;
  readonly settlement: Settlement;
  /** Its ordering key, of which the next one may go when it is recorded. */
  readonly key: WaitingKey | undefined;
};

/** More than this are not remembered: they have landed long since. */
const cancelledAheadMax = 10_000;

/** A request that is being sent. */
type Flight = {
  readonly claimed: Claimed;
  readonly lane: Lane;
  place: number;
  /** Its answer is nobody's any more: it has been given up, or given to others. */
  isForsaken: boolean;
  /** It decides whether its host's or key's breaker closes. */
  isProbe: boolean;
  /** Ends its sending. */
  readonly cancellation: Cancellation;
  /** Ends its waiting for its body, where that did not come with the claim. */
  readonly waiting: AbortController | undefined;
};

/**
 * The requests that this worker holds: parked (claimed, waiting for room in their lane), in the air (being sent) and
 * landed (sent, not yet recorded). They outlive the database session: a lost connection costs no answer that is already
 * here.
 */
export class Flights {
  /** Called when a request has landed; whoever records them sets it. */
  onLanded: () => void = () => {};
  /** Whether what was claimed under a registration is ours for sure; whoever has the lease sets it. Asked before anything ordered is sent. */
  mayBegin: (workerId: bigint) => boolean = () => true;
  /** How requests are sent from now on; whoever has read the settings sets it. */
  sendRules: SendRules = defaultSendRules;
  /** What follows when they are done; whoever has read the settings sets it. */
  terms: Terms = defaultTerms;
  readonly #stages: Stages;
  readonly #bodies = new Bodies();
  readonly #inAir = new Bag<Flight>();
  readonly #lanes = new Lanes(() => this.freeSlots);
  #landed: Landed[] = [];
  /** Cancelled while their claim was on its way to us. */
  readonly #cancelledAhead = new Set<bigint>();
  #recording = 0;
  #isAbandoned = false;

  constructor(stages: Stages) {
    this.#stages = stages;
  }

  /** The limits; whoever has read the settings sets them, the rules of sending first. */
  get slots(): Slots {
    return this.#lanes.slots;
  }

  set slots(slots: Slots) {
    this.#lanes.slots = slots;
    this.startParked();
  }

  /** The limits of hosts and keys; undefined: there are none. Whoever has read them sets them, before the slots. */
  set meters(meters: Meters | undefined) {
    this.#lanes.meters = meters;
  }

  /** The session over which bodies are loaded; undefined: none, for the moment. */
  useSession(session: Session | undefined): void {
    this.#bodies.useSession(session);
  }

  /** How many requests this worker holds. */
  get held(): number {
    return this.parked + this.#slotsTaken;
  }

  /** How many of them wait for room. */
  get parked(): number {
    return this.#lanes.parked;
  }

  /** A request holds its slot until it is recorded. */
  get #slotsTaken(): number {
    return this.#inAir.size + this.#landed.length + this.#recording;
  }

  get freeSlots(): number {
    return this.#lanes.slots.total - this.#slotsTaken;
  }

  /** The ids of all requests that this worker holds. */
  get ids(): readonly bigint[] {
    return [
      ...this.#lanes.allParked.map(({ row }) => row.id),
      ...this.#inAir.items().map(({ claimed }) => claimed.row.id),
      ...this.#landed.map(({ settlement }) => settlement.id),
    ];
  }

  get inAir(): number {
    return this.#inAir.size;
  }

  get hasLanded(): boolean {
    return this.#landed.length > 0;
  }

  /** How many more requests of that part of the queue should be claimed now. */
  wantedOf(part: Part): number {
    return this.#lanes.wantedOf(part);
  }

  /** How many requests of that key's requester to its origin could begin now. */
  roomFor({ requester, origin }: Pick<WaitingKey, 'requester' | 'origin'>): number {
    return this.#lanes.roomFor(requester, origin);
  }

  /** A look for more requests of that part of the queue begins. */
  looking(part: Part): void {
    this.#lanes.looking(part);
  }

  /**
   * Takes a claimed request: sends it, or parks it until there is room for it. Returns of what there is too much, where it is
   * parked.
   */
  take(row: QueueRow | UnloadedRow, workerId: bigint, standing: Standing): readonly Part[] {
    const claimed = { row, workerId, standing };
    if (row.extras?.cancelAsked === true || this.#cancelledAhead.delete(row.id)) {
      this.#landUnsent(claimed);
      return [];
    }
    const lane = this.#lanes.of(row);
    if (!this.#lanes.hasRoom(lane)) {
      return this.#lanes.park(lane, claimed);
    }
    this.#start(claimed, lane);
    return [];
  }

  /** Slots may have come free, or room in a limit: sends what is parked. */
  startParked(): void {
    for (let next = this.#lanes.unparkNext(); next !== undefined; next = this.#lanes.unparkNext()) {
      this.#start(next.claimed, next.lane);
    }
  }

  /** Sends a request. A slow one holds its slot and nothing else. */
  #start(claimed: Claimed, lane: Lane): void {
    const { row, standing } = claimed;
    const cancellation = new Cancellation();
    if (row.body !== undefined) {
      const settled = carryOut(row, standing, this.#stages, this.sendRules, this.terms, cancellation);
      this.#follow(
        { claimed, lane, place: 0, isForsaken: false, isProbe: false, cancellation, waiting: undefined },
        settled,
      );
    } else {
      const waiting = new AbortController();
      const settled = this.#carryOutLarge(row, claimed, cancellation, waiting.signal);
      this.#follow({ claimed, lane, place: 0, isForsaken: false, isProbe: false, cancellation, waiting }, settled);
    }
  }

  #follow(flight: Flight, settled: Promise<Settlement>): void {
    const { lane, claimed } = flight;
    const { workerId } = claimed;
    flight.place = this.#inAir.add(flight);
    flight.isProbe = this.#lanes.enter(lane);
    void settled.then((settlement) => {
      if (!flight.isForsaken) {
        this.#leave(flight, settlement);
        this.#landed.push({ workerId, settlement, key: keyOf(claimed.row) });
        this.onLanded();
      } else {
        settlement.release?.();
      }
    });
  }

  /** Of one whose body is still in the queue. Its deadline counts from the sending. */
  async #carryOutLarge(
    row: UnloadedRow,
    { workerId, standing }: Claimed,
    cancellation: Cancellation,
    signal: AbortSignal,
  ): Promise<Settlement> {
    const loan = await this.#bodies.borrow(row, workerId, signal);
    if (loan.kind === 'failure') {
      return this.#unsent(row, loan);
    }
    try {
      const loaded = { ...row, body: loan.body };
      return await carryOut(loaded, standing, this.#stages, this.sendRules, this.terms, cancellation);
    } finally {
      loan.release();
    }
  }

  /** What is recorded of a request of which nothing was sent. */
  #unsent(row: QueueRow | UnloadedRow, failure: Failure): Settlement {
    const endedAtMs = this.#stages.clock();
    const bare = { ...row, body: null };
    const attempt = { startedAtMs: endedAtMs, endedAtMs, random: this.#stages.random };
    return settlementOf(bare, failure, aftermathOf(bare, failure, attempt, this.terms));
  }

  #landUnsent({ row, workerId }: Claimed): void {
    this.#landed.push({ workerId, settlement: this.#unsent(row, cancelled), key: keyOf(row) });
    this.onLanded();
  }

  /** Gives up those of these requests that have no answer yet; what the servers saw of them is not known. */
  cancel(ids: ReadonlySet<bigint>): void {
    if (this.#cancelledAhead.size > cancelledAheadMax) {
      this.#cancelledAhead.clear();
    }
    const unknown = new Set(ids);
    for (const claimed of this.#lanes.unparkWhere(({ row }) => ids.has(row.id))) {
      unknown.delete(claimed.row.id);
      this.#landUnsent(claimed);
    }
    for (const { claimed, cancellation, waiting } of this.#inAir.items()) {
      if (unknown.delete(claimed.row.id)) {
        waiting?.abort();
        cancellation.ask();
      }
    }
    for (const id of unknown) {
      this.#cancelledAhead.add(id);
    }
  }

  #leave({ place, lane, isProbe }: Flight, landed: Settlement | undefined): void {
    const verdict = landed === undefined ? undefined : verdictOf(landed.statusCode, landed.errorCode);
    this.#inAir.remove(place);
    this.#lanes.leave(lane, landed !== undefined, isProbe, verdict);
  }

  #forsake(flight: Flight): void {
    flight.isForsaken = true;
    flight.waiting?.abort();
    this.#leave(flight, undefined);
  }

  /** Asks anew what concerns those whose sending has not begun: they may have been claimed hours ago. */
  async renewStandings(standings: Pick<Standings, 'learn' | 'of'>): Promise<void> {
    const large = this.#inAir.items().filter(({ waiting }) => waiting !== undefined);
    const unsent = [...this.#lanes.allParked, ...large.map(({ claimed }) => claimed)];
    await standings.learn(unsent.map(({ row }) => row));
    for (const claimed of unsent) {
      claimed.standing = standings.of(claimed.row);
    }
  }

  /** The parts of the queue of which requests are parked. */
  get parkedParts(): readonly Part[] {
    return this.#lanes.parts;
  }

  /** Takes the parked requests back out; returns their ids, to be released. */
  unpark(): readonly bigint[] {
    return this.#lanes.unparkWhere(() => true).map(({ row }) => row.id);
  }

  /**
   * Takes landed requests for recording, at most `rowsMax` and, but for a single larger one, at most `bytesMax` of bodies;
   * give them to {@link recorded} or {@link putBack}.
   */
  takeLanded(rowsMax: number, bytesMax: number): readonly Landed[] {
    let rows = 0;
    let bytes = 0;
    for (const { settlement } of this.#landed) {
      bytes += settlement.body?.byteLength ?? 0;
      if (rows === rowsMax || (rows > 0 && bytes > bytesMax)) {
        break;
      }
      rows += 1;
    }
    const isAll = rows === this.#landed.length;
    const group = isAll ? this.#landed : this.#landed.slice(0, rows);
    this.#landed = isAll ? [] : this.#landed.slice(rows);
    this.#recording += group.length;
    return group;
  }

  /** They are done with: their slots are free again. */
  recorded(group: readonly Landed[]): void {
    this.#recording -= group.length;
    for (const { settlement } of group) {
      // Too late: should it ever be claimed again, then because somebody has asked for that since.
      this.#cancelledAhead.delete(settlement.id);
    }
    release(group);
    this.startParked();
  }

  /** They could not be recorded (the connection was lost): they wait for the next one. */
  putBack(group: readonly Landed[]): void {
    this.#recording -= group.length;
    if (this.#isAbandoned) {
      release(group);
    } else {
      this.#landed = [...group, ...this.#landed];
    }
  }

  /** Gives up everything that is parked or in the air; returns the ids, to be released. Nothing of them will land. */
  giveUp(): readonly bigint[] {
    const flights = this.#inAir.items();
    for (const flight of flights) {
      this.#forsake(flight);
    }
    return [...this.unpark(), ...flights.map(({ claimed }) => claimed.row.id)];
  }

  /** Lets go of everything, for good: what could not be recorded or released comes free when the session is known dead. */
  abandon(): void {
    this.#isAbandoned = true;
    this.giveUp();
    release(this.#landed);
    this.#landed = [];
  }

  /** Drops everything that was claimed under another registration: those requests have been given to others. */
  dropAllBut(workerId: bigint): number {
    let dropped = this.#lanes.unparkWhere((parked) => parked.workerId !== workerId).length;
    for (const flight of this.#inAir.items()) {
      if (flight.claimed.workerId !== workerId) {
        this.#forsake(flight);
        dropped += 1;
      }
    }
    const kept = this.#landed.filter((landed) => landed.workerId === workerId);
    dropped += this.#landed.length - kept.length;
    release(this.#landed.filter((landed) => landed.workerId !== workerId));
    this.#landed = kept;
    return dropped;
  }
}

function keyOf(row: Claimed['row']): WaitingKey | undefined {
  const orderingKey = row.extras?.orderingKey;
  return orderingKey === undefined
    ? undefined
    : { requester: roleOf(row), orderingKey, origin: laneNameOf(row), firstId: null };
}

/** Their bodies are no longer needed. */
function release(group: readonly Landed[]): void {
  for (const { settlement } of group) {
    settlement.release?.();
  }
}
