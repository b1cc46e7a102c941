import type { Socket } from 'node:net';
import { Client, type Dispatcher } from 'undici';
import type { Connector, Target } from './connector.ts';
import type { Deadline } from './deadline.ts';
import { type Problem, problems } from './failures.ts';

/**
 * Keep-alive connections by origin.
 *
 * Why not undici's Agent: it dials for the pool, not for a request. So a request that times out while its connection
 * is being made cannot take the socket down with it, a name lookup cannot be charged to the request that waited for
 * it, and after a failed dial undici's Pool keeps using a client that it no longer counts nor closes. Here each dial
 * belongs to one request and its deadline; undici's Client does the HTTP on the socket it is given.
 */
export type Pool = {
  /**
   * A connection to the target that nobody else uses: an idle one (synchronously), a new one, or, at the limit, the
   * next to become free. `fresh` asks for one that has not carried a request yet.
   */
  acquire(target: Target, deadline: Deadline, fresh: boolean): Connection | Promise<Connection | Problem>;
  /** Gives a connection back after a complete exchange. */
  release(connection: Connection): void;
  /** Closes a connection whose exchange did not complete. */
  discard(connection: Connection): void;
  /** Connections in use, idle or being made. */
  readonly openConnections: number;
};

export type PoolOptions = {
  readonly connect: Connector;
  readonly connectionsPerOriginMax: number;
  readonly responseHeaderBytesMax: number;
};

/** How long an idle connection is kept, unless the server announces less. */
const keepAliveMs = 30_000;
/** Margin before the end that a server announces, so that a request does not cross its FIN. */
const keepAliveMarginMs = 1_000;
/** Idle connections over all origins; requests to very many hosts must not exhaust file descriptors. */
const idleConnectionsMax = 512;

/** One socket with the HTTP client that owns it. */
export class Connection {
  readonly socket: Socket;
  readonly lane: Lane;
  /** It has carried a request before, so the server may have closed it meanwhile. */
  reused = false;
  /** No longer counted by the pool. */
  forgotten = false;
  readonly #client: Client;

  constructor(lane: Lane, socket: Socket, responseHeaderBytesMax: number) {
    this.lane = lane;
    this.socket = socket;
    let given = false;
    this.#client = new Client(lane.origin, {
      // A client asks again when its socket has closed under a waiting request; that request is then ours to retry.
      connect: (_options, callback) => {
        const first = !given;
        given = true;
        queueMicrotask(() => (first ? callback(null, socket) : callback(new StaleConnection(), null)));
      },
      pipelining: 1,
      headersTimeout: 0,
      bodyTimeout: 0,
      keepAliveTimeout: keepAliveMs,
      keepAliveMaxTimeout: keepAliveMs,
      keepAliveTimeoutThreshold: keepAliveMarginMs,
      maxHeaderSize: responseHeaderBytesMax,
    });
    // undici emits this for an error inside a handler; without a listener it would end the process.
    this.#client.on('error' as 'drain', () => undefined);
  }

  dispatch(options: Dispatcher.DispatchOptions, handler: Dispatcher.DispatchHandler): void {
    this.#client.dispatch(options, handler);
  }

  destroy(): void {
    this.#client.destroy(null, () => undefined);
    this.socket.destroy();
  }
}

/** The socket closed before the request could be written to it. */
export class StaleConnection extends Error {
  override readonly name = 'StaleConnection';
}

type Waiter = {
  readonly deadline: Deadline;
  readonly resolve: (result: Connection | Promise<Connection | Problem>) => void;
};

/** The connections of one origin. */
type Lane = {
  readonly origin: string;
  readonly target: Target;
  /** Being made, in use or idle. */
  open: number;
  /** The last one used is the next to be used: the others may then age and close. */
  readonly idle: Connection[];
  /** In order of arrival. */
  readonly waiters: Set<Waiter>;
};

export function createPool(options: PoolOptions): Pool {
  const lanes = new Map<string, Lane>();
  /** All idle connections, the longest idle first. */
  const idle = new Set<Connection>();
  const idleMax = Math.max(idleConnectionsMax, options.connectionsPerOriginMax);

  function laneOf(target: Target): Lane {
    let lane = lanes.get(target.origin);
    if (lane === undefined) {
      lane = { origin: target.origin, target, open: 0, idle: [], waiters: new Set() };
      lanes.set(target.origin, lane);
    }
    return lane;
  }

  function takeIdle(lane: Lane): Connection | undefined {
    for (;;) {
      const connection = lane.idle.pop();
      if (connection === undefined) return undefined;
      idle.delete(connection);
      if (!connection.socket.destroyed) return connection;
    }
  }

  async function dial(lane: Lane, deadline: Deadline): Promise<Connection | Problem> {
    lane.open += 1;
    const socket = await options.connect(lane.target, deadline);
    if ('kind' in socket) {
      leave(lane);
      return socket;
    }
    const connection = new Connection(lane, socket, options.responseHeaderBytesMax);
    socket.once('close', () => forget(connection));
    if (socket.destroyed) forget(connection);
    return connection;
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

  /** A place in the lane became free: whoever waits longest may dial. */
  function leave(lane: Lane): void {
    lane.open -= 1;
    const waiter = nextWaiter(lane);
    if (waiter !== undefined) waiter.resolve(dial(lane, waiter.deadline));
    else if (lane.open === 0) lanes.delete(lane.origin);
  }

  function forget(connection: Connection): void {
    if (connection.forgotten) return;
    connection.forgotten = true;
    const { lane } = connection;
    if (idle.delete(connection)) {
      const index = lane.idle.indexOf(connection);
      if (index !== -1) lane.idle.splice(index, 1);
    }
    leave(lane);
  }

  function discard(connection: Connection): void {
    connection.destroy();
    forget(connection);
  }

  /** Lets a new connection be dialled at the limit, in the place of the one that has been idle longest. */
  function makeRoom(target: Target): void {
    const lane = laneOf(target);
    const spare = lane.idle[0];
    if (lane.open >= options.connectionsPerOriginMax && spare !== undefined) discard(spare);
  }

  return {
    get openConnections() {
      let open = 0;
      for (const lane of lanes.values()) open += lane.open;
      return open;
    },

    acquire(target, deadline, fresh) {
      if (fresh) makeRoom(target);
      const lane = laneOf(target);
      const connection = fresh ? undefined : takeIdle(lane);
      if (connection !== undefined) return connection;
      return lane.open < options.connectionsPerOriginMax ? dial(lane, deadline) : wait(lane, deadline);
    },

    release(connection) {
      // undici destroys the socket at once when the reply does not allow another request on it.
      if (connection.socket.destroyed || connection.forgotten) return forget(connection);
      connection.reused = true;
      const waiter = nextWaiter(connection.lane);
      if (waiter !== undefined) return waiter.resolve(connection);
      connection.lane.idle.push(connection);
      idle.add(connection);
      const oldest = idle.size > idleMax ? idle.values().next().value : undefined;
      if (oldest !== undefined) discard(oldest);
    },

    discard,
  };
}
