import type { Standing } from '../core/policy.ts';
import type { QueueRow, UnloadedRow } from '../core/request.ts';
import { originOf } from '../core/urls.ts';
import { type Part, roleOf } from '../store/claim.ts';

/** How many requests may be in flight, over all and to one origin. */
export type Slots = { readonly total: number; readonly perOrigin: number };

/** A request that this worker has claimed, under which registration, and what concerns who asked. */
export type Claimed = {
  readonly workerId: bigint;
  readonly row: QueueRow | UnloadedRow;
  /** Renewed for as long as its sending has not begun. */
  standing: Standing;
};

/** How many requests of one role, or one lane, hold a slot or have held one. */
type Traffic = {
  inAir: number;
  /** How many have landed since the last look for more. */
  landed: number;
};

const nothing: Readonly<Traffic> = Object.freeze({ inAir: 0, landed: 0 });

/** The requests of one role. */
type Role = Traffic & { readonly id: number; readonly lanes: Map<string, Lane> };

/** What all roles have in the air to one origin; `lanes`: how many of them there are. */
type Origin = { inAir: number; lanes: number };

/** What one role sends to one origin. */
export type Lane = Traffic & {
  readonly role: Role;
  readonly origin: string;
  readonly beside: Origin;
  /** Claimed and waiting for room, in the order of their claims. */
  readonly parked: Claimed[];
};

/**
 * A role may hold so many slots for each that is free, so that it alone gets nearly all, and of n that want everything each gets
 * 15 / (1 + 15n): some stay free for whoever comes next. (Choudhury and Hahne, "Dynamic queue length thresholds for
 * shared-memory packet switches", 1998.)
 */
const rolePerFreeSlot = 15;
/** In the same way each lane of what its role has left. A lane alone thus gets three for each that is free: three quarters of all. */
const lanePerFreeSlot = 4;
/** From so many slots on, one stays free of a role that holds others. */
const slotsForReserve = 4;

/** How many more may begin beside those in the air. Each one takes a free slot away, and with it a part of the share. */
function share(perFreeSlot: number, freeSlots: number, inAir: number): number {
  return Math.max(Math.ceil((perFreeSlot * freeSlots - inAir) / (perFreeSlot + 1)), inAir === 0 ? 1 : 0);
}

/**
 * Who shares the slots: the lanes, each one role's requests to one origin, and the roles, each with all of its lanes. So
 * neither a host that never answers nor a role that sends to a hundred thousand of them takes every slot, and one role's flood
 * of a host holds up no other's requests to it.
 */
export class Lanes {
  slots: Slots = { total: 1, perOrigin: 1 };
  readonly #freeSlots: () => number;
  /** Those that have anything in the air or parked, in the order of their turns. */
  readonly #roles = new Map<number, Role>();
  readonly #origins = new Map<string, Origin>();
  #parked = 0;

  /** `freeSlots` says how many there are now. */
  constructor(freeSlots: () => number) {
    this.#freeSlots = freeSlots;
  }

  /** How many requests are parked. */
  get parked(): number {
    return this.#parked;
  }

  get allParked(): readonly Claimed[] {
    return this.#all().flatMap(({ parked }) => parked);
  }

  #all(): readonly Lane[] {
    return [...this.#roles.values()].flatMap(({ lanes }) => [...lanes.values()]);
  }

  /** The lane of a request that begins or is parked now. */
  of(row: Claimed['row']): Lane {
    const id = roleOf(row);
    const origin = originOf(row.url);
    const known = this.#roles.get(id)?.lanes.get(origin);
    if (known !== undefined) {
      return known;
    }
    const role = this.#roles.get(id) ?? { id, lanes: new Map(), inAir: 0, landed: 0 };
    const beside = this.#origins.get(origin) ?? { inAir: 0, lanes: 0 };
    const lane: Lane = { role, origin, beside, inAir: 0, landed: 0, parked: [] };
    beside.lanes += 1;
    role.lanes.set(origin, lane);
    this.#roles.set(id, role);
    this.#origins.set(origin, beside);
    return lane;
  }

  /** Whether one more may begin now, and none waits before it. */
  hasRoom(lane: Lane): boolean {
    return lane.parked.length === 0 && this.#room(lane) > 0;
  }

  #room(lane: Lane): number {
    const roomOfRole = this.#roomOfRole(lane.role);
    return Math.min(this.#freeSlots(), roomOfRole, this.#roomOfLane(lane, roomOfRole));
  }

  #roomOfRole({ inAir }: Readonly<Traffic>): number {
    return share(rolePerFreeSlot, this.#freeSlots() - (this.slots.total < slotsForReserve ? 0 : 1), inAir);
  }

  /** As far as the lane goes: where its role has no room, as if there were room for one. */
  #roomOfLane({ inAir, beside }: Pick<Lane, 'inAir' | 'beside'>, roomOfRole: number): number {
    return Math.min(share(lanePerFreeSlot, Math.max(roomOfRole, 1), inAir), this.slots.perOrigin - beside.inAir);
  }

  /** How many requests of a role to an origin could begin now; those that are parked go before. */
  roomFor(id: number, origin: string): number {
    const role = this.#roles.get(id);
    const lane = role?.lanes.get(origin);
    const beside = this.#origins.get(origin) ?? { inAir: 0, lanes: 0 };
    const roomOfRole = this.#roomOfRole(role ?? nothing);
    const roomOfLane = this.#roomOfLane(lane ?? { inAir: 0, beside }, roomOfRole);
    return Math.min(this.#freeSlots(), roomOfRole, roomOfLane) - (lane?.parked.length ?? 0);
  }

  /** One of the lane begins. */
  enter(lane: Lane): void {
    lane.inAir += 1;
    lane.beside.inAir += 1;
    lane.role.inAir += 1;
  }

  /** One of the lane has landed, or is given up. */
  leave(lane: Lane, hasLanded: boolean): void {
    lane.inAir -= 1;
    lane.beside.inAir -= 1;
    lane.role.inAir -= 1;
    if (hasLanded) {
      lane.landed += 1;
      lane.role.landed += 1;
    }
    this.#dropIfEmpty(lane);
  }

  #dropIfEmpty({ role, origin, beside, inAir, parked }: Lane): void {
    if (inAir > 0 || parked.length > 0) {
      return;
    }
    role.lanes.delete(origin);
    if (role.lanes.size === 0) {
      this.#roles.delete(role.id);
    }
    beside.lanes -= 1;
    if (beside.lanes === 0) {
      this.#origins.delete(origin);
    }
  }

  /** Keeps a request until its lane has room. Returns the parts of the queue of which there is too much: one or both. */
  park(lane: Lane, claimed: Claimed): readonly Part[] {
    lane.parked.push(claimed);
    this.#parked += 1;
    return this.#shortOfRoom(lane);
  }

  #shortOfRoom({ role, origin, beside }: Lane): readonly Part[] {
    const parts: Part[] = [];
    const roleIsAtItsShare = this.#roomOfRole(role) <= 0;
    if (roleIsAtItsShare) {
      parts.push({ role: role.id, origin: undefined });
    }
    if (!roleIsAtItsShare || beside.inAir >= this.slots.perOrigin) {
      parts.push({ role: role.id, origin });
    }
    return parts;
  }

  /** The parts of the queue of which requests are parked. */
  get parts(): readonly Part[] {
    const waiting = this.#all().filter(({ parked }) => parked.length > 0);
    return waiting.flatMap((lane) => this.#shortOfRoom(lane));
  }

  /** Takes out the next parked request that may begin: of each role in turn, and of each of its lanes in turn. */
  unparkNext(): { readonly lane: Lane; readonly claimed: Claimed } | undefined {
    if (this.#parked === 0 || this.#freeSlots() <= 0) {
      return undefined;
    }
    for (const role of this.#roles.values()) {
      const roomOfRole = this.#roomOfRole(role);
      if (roomOfRole <= 0) {
        continue;
      }
      for (const lane of role.lanes.values()) {
        if (lane.parked.length > 0 && this.#roomOfLane(lane, roomOfRole) > 0) {
          const claimed = lane.parked.shift();
          if (claimed === undefined) {
            continue;
          }
          this.#parked -= 1;
          moveToEnd(this.#roles, role.id, role);
          moveToEnd(role.lanes, lane.origin, lane);
          return { lane, claimed };
        }
      }
    }
    return undefined;
  }

  /** Takes out all parked requests of which the condition holds. */
  unparkWhere(condition: (parked: Claimed) => boolean): readonly Claimed[] {
    const taken: Claimed[] = [];
    for (const lane of this.#all()) {
      const kept = lane.parked.filter((parked) => !condition(parked));
      taken.push(...lane.parked.filter(condition));
      lane.parked.splice(0, lane.parked.length, ...kept);
      this.#dropIfEmpty(lane);
    }
    this.#parked -= taken.length;
    return taken;
  }

  /**
   * How many more requests of that part of the queue should be claimed now: those that can begin at once, and as many as have
   * landed since the last time, so that they are here when others land. Of what does not land, that is none; of a lane of which
   * nothing is here, at least one, so that it has its turns.
   */
  wantedOf({ role: id, origin }: Part): number {
    const role = this.#roles.get(id);
    const roomOfRole = this.#roomOfRole(role ?? nothing);
    const room = Math.min(this.#freeSlots(), roomOfRole);
    const waiting = role === undefined ? 0 : this.#waitingForRole(role, roomOfRole);
    if (origin === undefined) {
      return this.#wanted(room, role ?? nothing, waiting);
    }
    const lane = role?.lanes.get(origin);
    if (lane !== undefined) {
      return this.#wanted(Math.min(room, this.#roomOfLane(lane, roomOfRole)), lane, lane.parked.length);
    }
    const beside = this.#origins.get(origin) ?? { inAir: 0, lanes: 0 };
    const roomOfLane = this.#roomOfLane({ inAir: 0, beside }, roomOfRole);
    return Math.max(Math.min(room, roomOfLane), waiting < this.slots.total ? 1 : 0);
  }

  #wanted(room: number, { landed }: Readonly<Traffic>, parked: number): number {
    const ahead = Math.min(landed, this.slots.total);
    return parked * 2 > ahead ? 0 : Math.max(room, 0) + ahead - parked;
  }

  /** How many of the role are parked that their lanes have room for. */
  #waitingForRole(role: Role, roomOfRole: number): number {
    let waiting = 0;
    for (const lane of role.lanes.values()) {
      if (lane.parked.length > 0 && this.#roomOfLane(lane, roomOfRole) > 0) {
        waiting += lane.parked.length;
      }
    }
    return waiting;
  }

  /** A look for more of that part of the queue begins. */
  looking({ role: id, origin }: Part): void {
    const role = this.#roles.get(id);
    const looked = origin === undefined ? role : role?.lanes.get(origin);
    if (looked !== undefined) {
      looked.landed = 0;
    }
  }
}

function moveToEnd<K, V>(map: Map<K, V>, key: K, value: V): void {
  if (map.size > 1) {
    map.delete(key);
    map.set(key, value);
  }
}
