import { EventEmitter } from 'node:events';
import { backoffMs } from '../core/backoff.ts';
import type { Database } from '../postgres/database.ts';
import { Members, withFields } from './members.ts';
import type { WorkerLog } from './parts.ts';
import { explainFailure } from './problems.ts';
import { Signal } from './signal.ts';
import type { Worker } from './worker.ts';

/** A database of a server. */
export type FleetDatabase = {
  /** `host:port` */
  readonly server: string;
  readonly database: string;
};

export type FleetEvents = {
  /** The worker of a database serves for the first time. */
  ready: [FleetDatabase];
  /** The worker of a database has stopped: it was dropped, or pgfetch is not installed there any more. */
  left: [FleetDatabase];
  /** A server cannot be looked at (`database` is null), or a database not be served. Emitted once for the same problem. */
  problem: [Error, { readonly server: string; readonly database: string | null }];
  /** It has stopped; nothing follows. */
  stopped: [];
};

export type FleetServer = {
  /** `host:port` */
  readonly name: string;
  /** Where to ask first which databases there are. */
  readonly database: string;
  readonly connect: (database: string) => Promise<Database>;
  readonly createWorker: (database: string, log: WorkerLog) => Worker;
};

export type FleetParts = {
  readonly servers: readonly FleetServer[];
  /** How often to look for databases that have come or gone, in milliseconds. */
  readonly rescanEveryMs: number;
  /** Called once, when every worker has stopped. */
  readonly dispose: () => Promise<void>;
  readonly log: WorkerLog;
};

/** A look that nobody called for, but an event: any role may ask for restarts, and each look connects to many databases. */
const unaskedEveryMs = 5_000;
const retry = { firstMs: 50, lastMs: 5_000 };

/**
 * Serves every database of its servers in which pgfetch is installed, each by a {@link Worker} of its own, until it is
 * stopped. It looks which those are when it starts, every `rescanEveryMs`, on `rescan()`, and when a database's workers are
 * told to restart; in between it makes no statement. What happens to one database does not disturb the others.
 */
export class Fleet extends EventEmitter<FleetEvents> {
  readonly #parts: FleetParts;
  readonly #rounds: readonly Rounds[];
  #life: Promise<void> | undefined;
  #stopping: Promise<void> | undefined;

  constructor(parts: FleetParts) {
    super();
    this.#parts = parts;
    this.#rounds = parts.servers.map((server) => new Rounds(server, parts, this, parts.servers.length > 1));
  }

  /** The databases that have a worker. */
  get databases(): readonly FleetDatabase[] {
    return this.#rounds.flatMap(({ server, members }) =>
      members.databases.map((database) => ({ server: server.name, database })),
    );
  }

  /** How many requests the workers hold at the moment. */
  get held(): number {
    return this.#rounds.reduce((sum, { members }) => sum + members.held, 0);
  }

  /** Begins to serve. Resolves when every server has been looked at, or did not answer; see the events for what follows. */
  async start(): Promise<void> {
    if (this.#life !== undefined || this.#stopping !== undefined) {
      throw new Error('the fleet has been started already; make a new one after stop()');
    }
    const first = this.#rounds.map((rounds) => rounds.next());
    this.#life = Promise.all(this.#rounds.map((rounds) => rounds.run())).then(() => {});
    await Promise.all(first);
  }

  /** Looks now which databases there are. Resolves when that is done; their workers may still be connecting. */
  async rescan(): Promise<void> {
    if (this.#life === undefined || this.#stopping !== undefined) {
      throw new Error('the fleet does not run');
    }
    await Promise.all(this.#rounds.map((rounds) => rounds.next()));
  }

  /** Stops every worker: each waits for what is in flight, and gives the rest back. Safe to call twice. */
  async stop(): Promise<void> {
    this.#stopping ??= this.#stop();
    await this.#stopping;
  }

  async #stop(): Promise<void> {
    await Promise.all(this.#rounds.map((rounds) => rounds.stop()));
    await this.#life;
    await this.#parts.dispose();
    this.emit('stopped');
  }
}

/** The looks at one server, one after the other. */
class Rounds {
  readonly server: FleetServer;
  readonly members: Members;
  readonly #parts: FleetParts;
  readonly #fleet: Fleet;
  readonly #log: WorkerLog;
  readonly #signal = new Signal();
  #asked: (() => void)[] = [];
  #isWanted = false;
  #isStopping = false;
  #ended: Promise<void> = Promise.resolve();
  #said: string | undefined;

  constructor(server: FleetServer, parts: FleetParts, fleet: Fleet, isOneOfSeveral: boolean) {
    this.server = server;
    this.#parts = parts;
    this.#fleet = fleet;
    this.#log = isOneOfSeveral ? withFields(parts.log, { server: server.name }) : parts.log;
    const { name, database: firstDatabase, connect, createWorker } = server;
    this.members = new Members({
      firstDatabase,
      connect,
      createWorker,
      log: this.#log,
      onReady: (database) => fleet.emit('ready', { server: name, database }),
      onLeft: (database) => fleet.emit('left', { server: name, database }),
      onProblem: (error, database) => fleet.emit('problem', error, { server: name, database }),
      onScanWanted: () => {
        this.#isWanted = true;
        this.#signal.raise();
      },
    });
  }

  /** Resolves when a look that begins after this has ended, whether or not the server answered. */
  next(): Promise<void> {
    const done = new Promise<void>((resolve) => this.#asked.push(resolve));
    this.#signal.raise();
    return done;
  }

  /** Looks again and again, until it is stopped. */
  run(): Promise<void> {
    this.#ended = this.#run();
    return this.#ended;
  }

  async stop(): Promise<void> {
    this.#isStopping = true;
    this.#signal.raise();
    await Promise.all([this.members.stop(), this.#ended]);
    this.#answer();
  }

  async #run(): Promise<void> {
    let failures = 0;
    while (!this.#isStopping) {
      const asked = this.#asked.splice(0);
      this.#isWanted = false;
      failures = (await this.#scan()) ? 0 : failures + 1;
      for (const done of asked) done();
      const restMs = failures === 0 ? this.#parts.rescanEveryMs : backoffMs(failures - 1, retry);
      await this.#rest(restMs);
    }
  }

  async #rest(forMs: number): Promise<void> {
    const now = (): number => performance.now();
    const beganMs = now();
    for (;;) {
      const leftMs = beganMs + (this.#isWanted ? Math.min(forMs, unaskedEveryMs) : forMs) - now();
      if (this.#isStopping || this.#asked.length > 0 || leftMs <= 0) return;
      await this.#signal.wait(leftMs);
    }
  }

  async #scan(): Promise<boolean> {
    try {
      await this.members.scan();
      this.#said = undefined;
      return true;
    } catch (error) {
      const message = explainFailure(error);
      if (message !== this.#said) {
        this.#said = message;
        this.#log.error({}, `cannot look which databases there are: ${message}`);
        this.#fleet.emit('problem', error instanceof Error ? error : new Error(message), {
          server: this.server.name,
          database: null,
        });
      }
      return false;
    }
  }

  #answer(): void {
    for (const done of this.#asked.splice(0)) done();
  }
}
