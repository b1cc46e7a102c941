import type { BackoffOptions } from '../core/backoff.ts';
import type { Database } from '../postgres/database.ts';
import type { Secrets } from '../secrets/secrets.ts';
import type { ConnectCallbacks } from './callbacks.ts';
import type { Target } from './opening.ts';
import type { Send } from './pipeline.ts';
import type { Timing } from './timing.ts';

/** The lines that a worker writes. pino's loggers fit. */
export type WorkerLog = {
  info(fields: object, message: string): void;
  warn(fields: object, message: string): void;
  error(fields: object, message: string): void;
};

export type WorkerEvents = {
  /** The worker is connected, registered, and serves the queue. */
  ready: [{ readonly workerId: bigint; readonly database: string; readonly listens: boolean }];
  /** These requests have their responses recorded. */
  recorded: [ids: readonly bigint[]];
  /** It cannot serve; it goes on trying. Emitted once for the same problem; its message says what to do, its cause is the error. */
  problem: [Error];
  /** The database is paused: it finishes what is in flight, stays away, and is `ready` again when the pause has ended. */
  paused: [{ readonly database: string; readonly since: Date; readonly by: string | null }];
  /** It has stopped; nothing follows. */
  stopped: [];
};

export type WorkerParts = {
  /** Opens a database session. Called again after every loss. */
  readonly connect: (target: Target) => Promise<Database>;
  /** Opens a session of the login that callbacks are called by. Default: none; on a server callbacks then wait. */
  readonly connectCallbacks?: ConnectCallbacks;
  /** Sends one request; see `src/http`. */
  readonly send: Send;
  /** What requests may refer to. Default: nothing. */
  readonly secrets?: Secrets;
  /** Called once, when the worker has stopped. */
  readonly dispose?: () => Promise<void>;
  /** Serves where `connect({})` leads, whatever `pg_net.database_name` says. Default false. */
  readonly staysInDatabase?: boolean;
  /** Where it runs, for people (`net.worker.name`). */
  readonly name: string;
  readonly version: string;
  readonly timing?: Partial<Timing>;
  /** How long `stop` waits for requests in flight before it gives them back to the queue, in milliseconds. */
  readonly stopTimeoutMs: number;
  readonly reconnect?: BackoffOptions;
  readonly log?: WorkerLog;
  /** A monotonic clock, in milliseconds. */
  readonly now?: () => number;
  /** Milliseconds since 1970. */
  readonly clock?: () => number;
  readonly random?: () => number;
};
