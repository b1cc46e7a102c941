import { Bag } from '../core/bag.ts';
import type { Standing } from '../core/policy.ts';
import type { QueueRow } from '../core/request.ts';
import { defaultSendRules, type SendRules } from '../core/send-rules.ts';
import type { Settlement } from '../core/settlement.ts';
import { originOf } from '../store/claim.ts';
import { carryOut, type Stages } from './pipeline.ts';

/** A finished request that waits to be recorded, and the registration under which it was claimed. */
export type Landed = { readonly workerId: bigint; readonly settlement: Settlement };

/** How many requests may be in flight, over all and to one origin. */
export type Slots = { readonly total: number; readonly perOrigin: number };

type Claimed = { readonly workerId: bigint; readonly row: QueueRow; readonly standing: Standing };

/** A request that is being sent. */
type Flight = Claimed & {
  readonly lane: Lane;
  place: number;
  /** Its answer is nobody's any more: it has been given up, or given to others. */
  isForsaken: boolean;
};

/** What goes to one origin. */
type Lane = {
  readonly origin: string;
  inAir: number;
  /** Claimed and waiting for room, in the order of their claims. */
  readonly parked: Claimed[];
  /** How many have landed since the last look for more. */
  landed: number;
};

/**
 * An origin may hold so many slots for each that is free. Alone it gets three quarters of all; of n that want everything
 * each gets 3 / (1 + 3n), and as much as a third of that stays free for whoever comes next. (Choudhury and Hahne, "Dynamic
 * queue length thresholds for shared-memory packet switches", 1998.)
 */
const sharePerFreeSlot = 3;

/**
 * The requests that this worker holds: parked (claimed, waiting for room at their origin), in the air (being sent) and
 * landed (sent, not yet recorded). They outlive the database session: a lost connection costs no answer that is already
 * here.
 */
export class Flights {
  /** Called when a request has landed; whoever records them sets it. */
  onLanded: () => void = () => {};
  /** The limits; whoever has read the settings sets them. */
  slots: Slots = { total: 1, perOrigin: 1 };
  /** How requests are sent from now on; whoever has read the settings sets it. */
  sendRules: SendRules = defaultSendRules;
  readonly #stages: Stages;
  readonly #inAir = new Bag<Flight>();
  /** The origins that have anything in the air or parked. */
  readonly #lanes = new Map<string, Lane>();
  #parked = 0;
  #landed: Landed[] = [];
  #recording = 0;
  #isAbandoned = false;

  constructor(stages: Stages) {
    this.#stages = stages;
  }

  /** How many requests this worker holds. */
  get held(): number {
    return this.#parked + this.#slotsTaken;
  }

  /** A request holds its slot until it is recorded. */
  get #slotsTaken(): number {
    return this.#inAir.size + this.#landed.length + this.#recording;
  }

  get freeSlots(): number {
    return this.slots.total - this.#slotsTaken;
  }

  /** The ids of all requests that this worker holds. */
  get ids(): readonly bigint[] {
    return [
      ...[...this.#lanes.values()].flatMap((lane) => lane.parked.map(({ row }) => row.id)),
      ...this.#inAir.items().map(({ row }) => row.id),
      ...this.#landed.map(({ settlement }) => settlement.id),
    ];
  }

  get inAir(): number {
    return this.#inAir.size;
  }

  get hasLanded(): boolean {
    return this.#landed.length > 0;
  }

  /**
   * How many more requests to the origin should be claimed now: those that can begin at once, and as many as have landed
   * since the last time, so that they are here when others land. To one that does not answer, that is none.
   */
  wantedFor(origin: string): number {
    const lane = this.#lanes.get(origin);
    if (lane === undefined) {
      return this.#roomBeside(0);
    }
    const ahead = Math.min(lane.landed, this.slots.total);
    return lane.parked.length * 2 > ahead ? 0 : this.#roomBeside(lane.inAir) + ahead - lane.parked.length;
  }

  /** A look for more requests to the origin begins. */
  looking(origin: string): void {
    const lane = this.#lanes.get(origin);
    if (lane !== undefined) {
      lane.landed = 0;
    }
  }

  /** Each one that begins takes a free slot away, and with it a part of the share. */
  #roomBeside(inAir: number): number {
    const free = this.freeSlots;
    const share = Math.ceil((sharePerFreeSlot * free - inAir) / (sharePerFreeSlot + 1));
    return Math.min(free, this.slots.perOrigin - inAir, Math.max(share, inAir === 0 ? 1 : 0));
  }

  /** Takes a claimed request: sends it, or parks it until its origin has room. Returns the origin of one that is parked. */
  take(row: QueueRow, workerId: bigint, standing: Standing): string | undefined {
    const origin = originOf(row.url);
    let lane = this.#lanes.get(origin);
    if (lane === undefined) {
      lane = { origin, inAir: 0, parked: [], landed: 0 };
      this.#lanes.set(origin, lane);
    }
    if (lane.parked.length === 0 && this.#roomBeside(lane.inAir) > 0) {
      this.#start({ row, workerId, standing }, lane);
      return undefined;
    }
    lane.parked.push({ workerId, row, standing });
    this.#parked += 1;
    return origin;
  }

  /** Slots have come free: sends what is parked, one of each origin in turn. */
  #startParked(): void {
    let started = this.#parked > 0;
    while (started) {
      started = false;
      for (const lane of this.#lanes.values()) {
        const [first] = lane.parked;
        if (first !== undefined && this.#roomBeside(lane.inAir) > 0) {
          lane.parked.shift();
          this.#parked -= 1;
          this.#start(first, lane);
          started = true;
        }
      }
    }
  }

  /** Sends a request. A slow one holds its slot and nothing else. */
  #start(claimed: Claimed, lane: Lane): void {
    const { row, workerId, standing } = claimed;
    const flight: Flight = { ...claimed, lane, place: 0, isForsaken: false };
    flight.place = this.#inAir.add(flight);
    lane.inAir += 1;
    void carryOut(row, standing, this.#stages, this.sendRules).then((settlement) => {
      if (!flight.isForsaken) {
        lane.landed += 1;
        this.#leave(flight);
        this.#landed.push({ workerId, settlement });
        this.onLanded();
      } else {
        settlement.release?.();
      }
    });
  }

  #leave({ place, lane }: Flight): void {
    this.#inAir.remove(place);
    lane.inAir -= 1;
    if (lane.inAir === 0 && lane.parked.length === 0) {
      this.#lanes.delete(lane.origin);
    }
  }

  #forsake(flight: Flight): void {
    flight.isForsaken = true;
    this.#leave(flight);
  }

  /** The origins for which requests are parked. */
  get parkedOrigins(): readonly string[] {
    return [...this.#lanes.values()].filter((lane) => lane.parked.length > 0).map((lane) => lane.origin);
  }

  /** Takes the parked requests back out; returns their ids, to be released. */
  unpark(): readonly bigint[] {
    return this.#unparkWhere(() => true);
  }

  #unparkWhere(condition: (parked: Claimed) => boolean): readonly bigint[] {
    const ids: bigint[] = [];
    for (const lane of this.#lanes.values()) {
      const kept = lane.parked.filter((parked) => !condition(parked));
      ids.push(...lane.parked.filter(condition).map((parked) => parked.row.id));
      lane.parked.splice(0, lane.parked.length, ...kept);
      if (lane.inAir === 0 && kept.length === 0) {
        this.#lanes.delete(lane.origin);
      }
    }
    this.#parked -= ids.length;
    return ids;
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
    release(group);
    this.#startParked();
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
    return [...this.unpark(), ...flights.map(({ row }) => row.id)];
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
    let dropped = this.#unparkWhere((parked) => parked.workerId !== workerId).length;
    for (const flight of this.#inAir.items()) {
      if (flight.workerId !== workerId) {
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

/** Their bodies are no longer needed. */
function release(group: readonly Landed[]): void {
  for (const { settlement } of group) {
    settlement.release?.();
  }
}
