import { Connection } from './connection.ts';
import type { Connector, Target } from './connector.ts';
import type { Deadline } from './deadline.ts';
import { type Problem, problems } from './failures.ts';

export type PoolOptions = {
  readonly connect: Connector;
  readonly connectionsPerOriginMax: number;
  readonly responseHeaderBytesMax: number;
};

/** Idle connections over all origins; requests to very many hosts must not exhaust file descriptors. */
const idleConnectionsMax = 512;

type Waiter = {
  readonly deadline: Deadline;
  readonly resolve: (result: Connection | Promise<Connection | Problem>) => void;
};

/** The connections of one origin. */
type Lane = {
  readonly target: Target;
  /** Those being made, in use or idle. */
  open: number;
  /** The last one used is the next to be used: the others may then age and close. */
  readonly idle: Connection[];
  /** In order of arrival. */
  readonly waiters: Set<Waiter>;
};

/**
 * Keep-alive connections by origin.
 *
 * Why not undici's Agent: it dials for the pool, not for a request. So a request that times out while its connection
 * is being made cannot take the socket down with it, a name lookup cannot be charged to the request that waited for
 * it, and after a failed dial undici's Pool keeps using a client that it no longer counts nor closes. Here each dial
 * belongs to one request and its deadline; undici's Client does the HTTP on the socket it is given.
 */
export class Pool {
  readonly #options: PoolOptions;
  readonly #idleMax: number;
  readonly #lanes = new Map<string, Lane>();
  /** The lane of each connection that still counts. */
  readonly #laneOf = new Map<Connection, Lane>();
  #idle = 0;

  constructor(options: PoolOptions) {
    this.#options = options;
    this.#idleMax = Math.max(idleConnectionsMax, options.connectionsPerOriginMax);
  }

  /**
   * A connection to the target that nobody else uses: an idle one (synchronously), a new one, or, at the limit, the
   * next to become free. `fresh` asks for one that has not carried a request yet, where there is room for it.
   */
  acquire(target: Target, deadline: Deadline, fresh: boolean): Connection | Promise<Connection | Problem> {
    if (fresh) this.#makeRoom(target.origin);
    const lane = this.#lane(target);
    const connection = fresh ? undefined : this.#takeIdle(lane);
    if (connection !== undefined) return connection;
    return lane.open < this.#options.connectionsPerOriginMax ? this.#dial(lane, deadline) : wait(lane, deadline);
  }

  /** Takes a connection back after a complete exchange. */
  release(connection: Connection): void {
    const lane = this.#laneOf.get(connection);
    // undici destroys the socket at once when the reply does not allow another request on it.
    if (lane === undefined || connection.socket.destroyed) {
      this.#forget(connection);
      return;
    }
    connection.reused = true;
    const waiter = nextWaiter(lane);
    if (waiter !== undefined) {
      waiter.resolve(connection);
      return;
    }
    connection.idleSinceMs = performance.now();
    lane.idle.push(connection);
    this.#idle += 1;
    if (this.#idle > this.#idleMax) this.#discardOldest();
  }

  /** Closes a connection whose exchange did not complete. */
  discard(connection: Connection): void {
    connection.destroy();
    this.#forget(connection);
  }

  #lane(target: Target): Lane {
    let lane = this.#lanes.get(target.origin);
    if (lane === undefined) {
      lane = { target, open: 0, idle: [], waiters: new Set() };
      this.#lanes.set(target.origin, lane);
    }
    return lane;
  }

  #takeIdle(lane: Lane): Connection | undefined {
    for (;;) {
      const connection = lane.idle.pop();
      if (connection === undefined) return undefined;
      this.#idle -= 1;
      if (!connection.socket.destroyed) return connection;
    }
  }

  /** There are too many idle connections: the one that has been so for longest goes. */
  #discardOldest(): void {
    let oldest: Connection | undefined;
    for (const { idle } of this.#lanes.values()) {
      const [first] = idle;
      if (first !== undefined && (oldest === undefined || first.idleSinceMs < oldest.idleSinceMs)) oldest = first;
    }
    if (oldest !== undefined) this.discard(oldest);
  }

  /** Lets a new connection be dialled at the limit, in the place of the one that has been idle longest. */
  #makeRoom(origin: string): void {
    const lane = this.#lanes.get(origin);
    const spare = lane?.idle[0];
    if (lane !== undefined && spare !== undefined && lane.open >= this.#options.connectionsPerOriginMax) {
      this.discard(spare);
    }
  }

  async #dial(lane: Lane, deadline: Deadline): Promise<Connection | Problem> {
    lane.open += 1;
    const socket = await this.#options.connect(lane.target, deadline);
    if ('kind' in socket) {
      this.#leave(lane);
      return socket;
    }
    const connection = new Connection(lane.target.origin, socket, this.#options.responseHeaderBytesMax);
    this.#laneOf.set(connection, lane);
    socket.once('close', () => this.#forget(connection));
    return connection;
  }

  /** A place in the lane became free: whoever waits longest may dial. */
  #leave(lane: Lane): void {
    lane.open -= 1;
    const waiter = nextWaiter(lane);
    if (waiter !== undefined) waiter.resolve(this.#dial(lane, waiter.deadline));
    else if (lane.open === 0) this.#lanes.delete(lane.target.origin);
  }

  #forget(connection: Connection): void {
    const lane = this.#laneOf.get(connection);
    if (lane === undefined) return;
    this.#laneOf.delete(connection);
    const place = lane.idle.lastIndexOf(connection);
    if (place >= 0) {
      lane.idle.splice(place, 1);
      this.#idle -= 1;
    }
    this.#leave(lane);
  }
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
