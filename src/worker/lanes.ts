import type { Verdict } from '../core/breaker.ts';
import type { Standing } from '../core/policy.ts';
import type { QueueRow, UnloadedRow } from '../core/request.ts';
import { originOf } from '../core/urls.ts';
import { type Part, priorityOf, roleOf } from '../store/claim.ts';
import type { Bounds } from './bounds.ts';
import type { Meters } from './meters.ts';

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
type Role = Traffic & { readonly id: number; readonly lanes: Map<string, Lane>; parked: number };

/** What all roles have in the air to one origin; `lanes`: how many of them there are. */
type Origin = { inAir: number; lanes: number };

/** What one role sends to one origin, with one limit_key or none. */
export type Lane = Traffic & {
  readonly role: Role;
  /** The origin and, behind a slash, the limit_key: as {@link Part} has it. */
  readonly name: string;
  readonly origin: string;
  readonly limitKey: string | undefined;
  readonly beside: Origin;
  /** The limits that it obeys; undefined: there are none. */
  bounds: Bounds | undefined;
  /** Claimed and waiting for room, in the order of their claims. */
  /** Claimed and waiting for room: by priority, and in the order of their claims. */
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

/**
 * A role of which so many are parked (behind limits: shares let it come to less) has no more claimed until some of them have
 * gone. Requests take memory, and some of them must be here that nothing holds up.
 */
const parkedPerRoleMax = 1_000;

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
  #meters: Meters | undefined;

  /** `freeSlots` says how many there are now. */
  constructor(freeSlots: () => number) {
    this.#freeSlots = freeSlots;
  }

  /** How many requests are parked. */
  get parked(): number {
    return this.#parked;
  }

  /** The limits; undefined: there are none. What is in the air and parked counts by the new ones from now on. */
  set meters(meters: Meters | undefined) {
    this.#meters = meters;
    for (const lane of this.#all()) {
      this.#bind(lane);
      lane.bounds?.adopt(lane.inAir, lane.parked.length);
    }
  }

  #bind(lane: Lane): void {
    lane.bounds = this.#meters?.boundsOf(lane.origin, lane.limitKey);
    if (lane.bounds !== undefined) lane.bounds.lanes += 1;
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
    const name = laneNameOf(row);
    const known = this.#roles.get(id)?.lanes.get(name);
    if (known !== undefined) {
      return known;
    }
    const origin = originOf(row.url);
    const limitKey = row.extras?.limitKey;
    const role = this.#roles.get(id) ?? { id, lanes: new Map(), inAir: 0, landed: 0, parked: 0 };
    const beside = this.#origins.get(origin) ?? { inAir: 0, lanes: 0 };
    const lane: Lane = { role, name, origin, limitKey, beside, bounds: undefined, inAir: 0, landed: 0, parked: [] };
    this.#bind(lane);
    beside.lanes += 1;
    role.lanes.set(name, lane);
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
  #roomOfLane({ inAir, beside, bounds }: Pick<Lane, 'inAir' | 'beside' | 'bounds'>, roomOfRole: number): number {
    const room = Math.min(share(lanePerFreeSlot, Math.max(roomOfRole, 1), inAir), this.slots.perOrigin - beside.inAir);
    return bounds === undefined ? room : Math.min(room, bounds.room);
  }

  /** How many requests of a role's lane could begin now; those that are parked go before. */
  roomFor(id: number, name: string): number {
    const role = this.#roles.get(id);
    const lane = role?.lanes.get(name);
    const [origin = ''] = name.split('/', 1);
    const beside = this.#origins.get(origin) ?? { inAir: 0, lanes: 0 };
    const roomOfRole = this.#roomOfRole(role ?? nothing);
    const roomOfLane = this.#roomOfLane(lane ?? { inAir: 0, beside, bounds: undefined }, roomOfRole);
    return Math.min(this.#freeSlots(), roomOfRole, roomOfLane) - (lane?.parked.length ?? 0);
  }

  /** One of the lane begins. Returns whether it is the probe of a breaker. */
  enter(lane: Lane): boolean {
    lane.inAir += 1;
    lane.beside.inAir += 1;
    lane.role.inAir += 1;
    return lane.bounds?.enter() === true;
  }

  /** One of the lane has landed, or is given up. */
  leave(lane: Lane, hasLanded: boolean, isProbe: boolean, verdict: Verdict | undefined): void {
    lane.bounds?.leave(verdict, isProbe);
    lane.inAir -= 1;
    lane.beside.inAir -= 1;
    lane.role.inAir -= 1;
    if (hasLanded) {
      lane.landed += 1;
      lane.role.landed += 1;
    }
    this.#dropIfEmpty(lane);
  }

  #dropIfEmpty({ role, name, origin, beside, bounds, inAir, parked }: Lane): void {
    if (inAir > 0 || parked.length > 0) {
      return;
    }
    if (bounds !== undefined) bounds.lanes -= 1;
    role.lanes.delete(name);
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
    const priority = priorityOf(claimed.row);
    const place = priority === 0 ? -1 : lane.parked.findIndex(({ row }) => priorityOf(row) < priority);
    lane.parked.splice(place < 0 ? lane.parked.length : place, 0, claimed);
    this.#leftParked(lane, 1);
    return this.#shortOfRoom(lane);
  }

  /** So many more of the lane are parked, or fewer. */
  #leftParked({ role, bounds }: Lane, requests: number): void {
    this.#parked += requests;
    role.parked += requests;
    bounds?.park(requests);
  }

  #shortOfRoom({ role, name, beside, bounds }: Lane): readonly Part[] {
    const parts: Part[] = [];
    const roleIsAtItsShare = this.#roomOfRole(role) <= 0;
    if (roleIsAtItsShare || role.parked >= parkedPerRoleMax) {
      parts.push({ role: role.id, origin: undefined });
    }
    if (!roleIsAtItsShare || beside.inAir >= this.slots.perOrigin || (bounds !== undefined && bounds.room <= 0)) {
      parts.push({ role: role.id, origin: name });
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
          this.#leftParked(lane, -1);
          moveToEnd(this.#roles, role.id, role);
          moveToEnd(role.lanes, lane.name, lane);
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
      this.#leftParked(lane, kept.length - lane.parked.length);
      lane.parked.splice(0, lane.parked.length, ...kept);
      this.#dropIfEmpty(lane);
    }
    return taken;
  }

  /**
   * How many more requests of that part of the queue should be claimed now: those that can begin at once, and as many as have
   * landed since the last time, so that they are here when others land. Of what does not land, that is none; of a lane of which
   * nothing is here, at least one, so that it has its turns.
   */
  wantedOf({ role: id, origin: name }: Part): number {
    const role = this.#roles.get(id);
    const lane = name === undefined ? undefined : role?.lanes.get(name);
    if (role !== undefined && role.parked >= parkedPerRoleMax && lane === undefined) {
      return 0;
    }
    const roomOfRole = this.#roomOfRole(role ?? nothing);
    const room = Math.min(this.#freeSlots(), roomOfRole);
    if (name === undefined) {
      return this.#wanted(room, role ?? nothing, role === undefined ? 0 : this.#waitingForRole(role, roomOfRole));
    }
    if (lane !== undefined) {
      const roomOfLane = Math.min(room, this.#roomOfLane(lane, roomOfRole));
      return this.#wanted(roomOfLane, lane, lane.parked.length, lane.bounds?.ahead);
    }
    const [origin = ''] = name.split('/', 1);
    const beside = this.#origins.get(origin) ?? { inAir: 0, lanes: 0 };
    const roomOfLane = this.#roomOfLane({ inAir: 0, beside, bounds: undefined }, roomOfRole);
    const mayHaveTurn =
      role === undefined || role.parked < this.slots.total || this.#waitingForRole(role, roomOfRole) < this.slots.total;
    return Math.max(Math.min(room, roomOfLane), mayHaveTurn ? 1 : 0);
  }

  /** `aheadOfLimits`: how many are to be here though none may have landed, because limits let requests begin by themselves. */
  #wanted(room: number, { landed }: Readonly<Traffic>, parked: number, aheadOfLimits = 0): number {
    const ahead = Math.min(Math.max(landed, aheadOfLimits), this.slots.total);
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
  looking({ role: id, origin: name }: Part): void {
    const role = this.#roles.get(id);
    const looked = name === undefined ? role : role?.lanes.get(name);
    if (looked !== undefined) {
      looked.landed = 0;
    }
  }
}

/** A lane's name among those of its role, as the claim writes it: the origin, and the limit key where there is one. */
export function laneNameOf({ url, extras }: Pick<QueueRow, 'url' | 'extras'>): string {
  const limitKey = extras?.limitKey;
  return limitKey === undefined ? originOf(url) : `${originOf(url)}/${limitKey}`;
}

function moveToEnd<K, V>(map: Map<K, V>, key: K, value: V): void {
  if (map.size > 1) {
    map.delete(key);
    map.set(key, value);
  }
}
