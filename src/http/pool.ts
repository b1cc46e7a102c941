import type { Connection } from './connection.ts';
import type { Connected, Connector, Target } from './connector.ts';
import type { Deadline } from './deadline.ts';
import { type Problem, problems } from './failures.ts';

export type PoolOptions = {
  readonly connect: Connector;
  /** What speaks HTTP on a socket. */
  readonly open: (target: Target, connected: Connected) => Connection;
  readonly connectionsPerOriginMax: number;
  /** A monotonic clock in milliseconds. */
  readonly now: () => number;
};

/** Idle connections over all origins; requests to very many hosts must not exhaust file descriptors. */
const idleConnectionsMax = 512;
/** An older connection is not kept: names move to other addresses, and a balancer's new servers want their share. */
const ageMsMax = 5 * 60_000;
/** After so long without a request the server may well have closed it, and we not have noticed yet. */
const restedMs = 100;
const sweepEveryMs = 1_000;
/** After so long the next request does not wait any longer for the first connection to its origin. */
const probeMs = 250;

type Waiter = {
  readonly deadline: Deadline;
  readonly resolve: (result: Connection | Promise<Connection | Problem>) => void;
};

/** A connection that counts. */
type Member = {
  readonly connection: Connection;
  readonly lane: Lane;
  readonly bornAtMs: number;
  /** Since when it has no request. */
  idleSinceMs: number;
  isIdle: boolean;
  /** It takes many requests at a time, or may: a server can change its mind. */
  readonly isShared: boolean;
};

/** The connections of one origin. */
type Lane = {
  readonly target: Target;
  /** Those being made, in use or idle. */
  open: number;
  /** Whether one has been made, so that it is known what the server speaks. */
  isKnown: boolean;
  /** Until then, whether one more may be dialled: the last has taken long. */
  mayProbe: boolean;
  /** Those without a request that take one at a time. The last one used is the next to be used: the others may then age and close. */
  readonly idle: Member[];
  /** Those that take many requests at a time, busy or not. */
  readonly shared: Member[];
  /** In order of arrival. */
  readonly waiters: Set<Waiter>;
};

/**
 * Keep-alive connections by origin. Each dial belongs to one request and its deadline: what times out takes its socket with
 * it, and a name lookup is charged to the request that waited for it.
 */
export class Pool {
  readonly #options: PoolOptions;
  readonly #idleMax: number;
  readonly #lanes = new Map<string, Lane>();
  readonly #members = new Map<Connection, Member>();
  #idle = 0;
  #sweeper: NodeJS.Timeout | undefined;

  constructor(options: PoolOptions) {
    this.#options = options;
    this.#idleMax = Math.max(idleConnectionsMax, options.connectionsPerOriginMax);
  }

  /**
   * A connection to the target that has room for an exchange: one that is there (synchronously, as a rule), a new one, or, at
   * the limit, the next to become free. `fresh` asks for one that has not carried a request yet. To be given back with
   * {@link release}, once, whatever became of the exchange.
   */
  acquire(target: Target, deadline: Deadline, fresh: boolean): Connection | Promise<Connection | Problem> {
    const lane = this.#lane(target);
    if (fresh) {
      this.#makeRoom(lane);
    } else {
      const nowMs = this.#options.now();
      const member = withRoom(lane) ?? this.#takeIdle(lane, nowMs);
      if (member !== undefined) {
        const isRested = member.isIdle && nowMs - member.idleSinceMs > restedMs;
        this.#busy(member);
        return isRested ? this.#stillThere(member, deadline) : member.connection;
      }
    }
    return this.#mayDial(lane) ? this.#dial(lane, deadline) : wait(lane, deadline);
  }

  /** Takes a connection back after an exchange, complete or not. */
  release(connection: Connection): void {
    const member = this.#members.get(connection);
    if (member === undefined) return;
    const { lane } = member;
    const nowMs = this.#options.now();
    if (!connection.isUsable || isOld(member, nowMs)) {
      this.#retire(member);
      return;
    }
    let room = connection.exchangesMax - connection.exchanges;
    for (let waiter = room > 0 ? nextWaiter(lane) : undefined; waiter !== undefined; waiter = nextWaiter(lane)) {
      waiter.resolve(connection);
      room -= 1;
      if (room === 0) return;
    }
    if (connection.exchanges === 0) this.#keep(member, nowMs);
  }

  #lane(target: Target): Lane {
    let lane = this.#lanes.get(target.origin);
    if (lane === undefined) {
      lane = { target, open: 0, isKnown: false, mayProbe: false, idle: [], shared: [], waiters: new Set() };
      this.#lanes.set(target.origin, lane);
    }
    return lane;
  }

  /** The first connection to an https origin tells whether one is enough for all: the others wait for it, but not for long. */
  #mayDial(lane: Lane): boolean {
    const { secure } = lane.target;
    const isSure = lane.isKnown || !secure || lane.open === 0 || lane.mayProbe;
    return isSure && lane.open < this.#options.connectionsPerOriginMax;
  }

  #keep(member: Member, nowMs: number): void {
    if (member.isIdle) return;
    member.isIdle = true;
    member.idleSinceMs = nowMs;
    if (!member.isShared) member.lane.idle.push(member);
    this.#idle += 1;
    if (this.#idle > this.#idleMax) this.#discardOldest();
    this.#sweeper ??= setInterval(() => this.#sweep(), sweepEveryMs).unref();
  }

  #busy(member: Member): void {
    if (!member.isIdle) return;
    member.isIdle = false;
    this.#idle -= 1;
  }

  /** The one that was used last, taken from the idle ones; still marked so. */
  #takeIdle(lane: Lane, nowMs: number): Member | undefined {
    for (;;) {
      const member = lane.idle.pop();
      if (member === undefined) return undefined;
      if (member.connection.isUsable && !isOver(member, nowMs)) return member;
      this.#retire(member);
    }
  }

  /**
   * What the kernel knows of a connection we hear only when the event loop has asked it, which it does between two immediates.
   * That first: a request that is not written to a dead connection need not be repeated, which for a POST nobody could do safely.
   */
  #stillThere(member: Member, deadline: Deadline): Promise<Connection | Problem> {
    return new Promise((resolve) => {
      const decide = (): void => {
        const { connection, lane } = member;
        if (connection.isUsable) {
          resolve(connection);
        } else {
          this.#retire(member);
          resolve(this.acquire(lane.target, deadline, false));
        }
      };
      setImmediate(() => setImmediate(decide));
    });
  }

  /** Closes those that have been idle for too long. */
  #sweep(): void {
    const nowMs = this.#options.now();
    for (const lane of [...this.#lanes.values()]) {
      for (const member of [...lane.idle, ...lane.shared]) {
        if (member.isIdle && (isOver(member, nowMs) || !member.connection.isUsable)) this.#retire(member);
      }
    }
    if (this.#idle === 0) {
      clearInterval(this.#sweeper);
      this.#sweeper = undefined;
    }
  }

  /** There are too many idle connections: the one that has been so for longest goes. */
  #discardOldest(): void {
    let oldest: Member | undefined;
    for (const { idle, shared } of this.#lanes.values()) {
      for (const member of [idle[0], ...shared]) {
        if (member?.isIdle && (oldest === undefined || member.idleSinceMs < oldest.idleSinceMs)) oldest = member;
      }
    }
    if (oldest !== undefined) this.#retire(oldest);
  }

  /** Lets a new connection be dialled at the limit, in the place of the one that has been idle longest. */
  #makeRoom(lane: Lane): void {
    const [spare] = lane.idle;
    if (spare !== undefined && lane.open >= this.#options.connectionsPerOriginMax) this.#retire(spare);
  }

  async #dial(lane: Lane, deadline: Deadline): Promise<Connection | Problem> {
    lane.open += 1;
    lane.mayProbe = false;
    // It may just have lost its last connection.
    this.#lanes.set(lane.target.origin, lane);
    const probe = lane.isKnown || !lane.target.secure ? undefined : setTimeout(() => this.#probe(lane), probeMs);
    let connected: Connected | Problem | undefined;
    let member: Member | undefined;
    try {
      connected = await this.#options.connect(lane.target, deadline);
      if ('kind' in connected) return connected;
      member = this.#join(lane, connected);
      return member.connection;
    } catch (error) {
      if (connected !== undefined && 'socket' in connected) connected.socket.destroy();
      throw error;
    } finally {
      clearTimeout(probe);
      if (member === undefined) lane.open -= 1;
      else lane.isKnown = true;
      this.#serveWaiters(lane);
    }
  }

  #join(lane: Lane, connected: Connected): Member {
    const connection = this.#options.open(lane.target, connected);
    const nowMs = this.#options.now();
    const isShared = connection.exchangesMax > 1;
    const member: Member = { connection, lane, bornAtMs: nowMs, idleSinceMs: nowMs, isIdle: false, isShared };
    this.#members.set(connection, member);
    if (isShared) lane.shared.push(member);
    connected.socket.once('close', () => this.#retire(member));
    return member;
  }

  /** A dial takes long: it may be the only one that does. */
  #probe(lane: Lane): void {
    lane.mayProbe = !lane.isKnown;
    this.#serveWaiters(lane);
  }

  /** There may be room for those who wait: on a connection that is there, or for one more. */
  #serveWaiters(lane: Lane): void {
    while (lane.waiters.size > 0) {
      const shared = withRoom(lane);
      // Each of those who are given a connection begins its exchange in a moment, and counts only then.
      let room = shared === undefined ? 0 : shared.connection.exchangesMax - shared.connection.exchanges - 1;
      if (shared !== undefined && room > 0) {
        this.#busy(shared);
        for (; room > 0; room -= 1) nextWaiter(lane)?.resolve(shared.connection);
      }
      if (!this.#mayDial(lane)) return;
      const waiter = nextWaiter(lane);
      if (waiter !== undefined) waiter.resolve(this.#dial(lane, waiter.deadline));
      // One more may be enough for all that are left.
      if (lane.shared.length > 0) return;
    }
    if (lane.open === 0 && this.#lanes.get(lane.target.origin) === lane) this.#lanes.delete(lane.target.origin);
  }

  /** Takes no more requests; ends when those that are under way have ended. */
  #retire(member: Member): void {
    const { connection, lane } = member;
    remove(lane.idle, member);
    remove(lane.shared, member);
    this.#busy(member);
    if (connection.exchanges === 0) {
      connection.destroy();
      if (this.#members.delete(connection)) lane.open -= 1;
    }
    this.#serveWaiters(lane);
  }
}

/** A connection that takes many requests, and another one now. */
function withRoom(lane: Lane): Member | undefined {
  return lane.shared.find(({ connection }) => connection.isUsable && connection.exchanges < connection.exchangesMax);
}

/** It has been idle for as long as it may, or is old. */
function isOver(member: Member, nowMs: number): boolean {
  return nowMs - member.idleSinceMs > member.connection.idleMsMax || isOld(member, nowMs);
}

function isOld(member: Member, nowMs: number): boolean {
  return nowMs - member.bornAtMs > ageMsMax;
}

function remove(list: Member[], member: Member): void {
  const place = list.lastIndexOf(member);
  if (place >= 0) list.splice(place, 1);
}

function wait(lane: Lane, deadline: Deadline): Promise<Connection | Problem> {
  return new Promise((resolve) => {
    const waiter: Waiter = { deadline, resolve };
    lane.waiters.add(waiter);
    deadline.onEnd(() => {
      lane.waiters.delete(waiter);
      resolve(problems.cancelled);
    });
  });
}

function nextWaiter(lane: Lane): Waiter | undefined {
  const waiter = lane.waiters.values().next().value;
  if (waiter === undefined) return undefined;
  lane.waiters.delete(waiter);
  waiter.deadline.onEnd(undefined);
  return waiter;
}
