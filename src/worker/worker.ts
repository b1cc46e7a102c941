import { EventEmitter } from 'node:events';
import { type BackoffOptions, backoffMs } from '../core/backoff.ts';
import { ConnectionLost, type Database, PostgresError } from '../postgres/database.ts';
import { type Installation, inspectInstallation } from '../store/installation.ts';
import { reclaim, reclaimOrphans } from '../store/reclaim.ts';
import { deregister, register } from '../store/register.ts';
import { readMissingRights } from '../store/rights.ts';
import { readSettings, readTarget, type Settings } from '../store/settings.ts';
import { promiseChannel, restartChannel, wakeChannel } from '../store/wake.ts';
import { explain } from './explain.ts';
import { Flights } from './flights.ts';
import type { Send } from './pipeline.ts';
import { type Orders, Service } from './service.ts';
import { Signal } from './signal.ts';
import { defaultTiming, type Timing } from './timing.ts';
import { watched } from './watchdog.ts';

/** Where a session goes; what is missing is as in the connection string. */
export type Target = { readonly database?: string; readonly user?: string };

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
  /** It cannot serve; it goes on trying. Emitted once for the same problem. */
  problem: [Error];
  /** It has stopped; nothing follows. */
  stopped: [];
};

export type WorkerParts = {
  /** Opens a database session. Called again after every loss. */
  readonly connect: (target: Target) => Promise<Database>;
  /** Sends one request; see `src/http`. */
  readonly send: Send;
  /** Called once, when the worker has stopped. */
  readonly dispose?: () => Promise<void>;
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
  readonly random?: () => number;
};

/** Raised within, for what keeps a worker from serving: it says so once and tries again. */
export class NotReady extends Error {
  override readonly name = 'NotReady';
}

/** A connection that served this long was sound: what ends it is a new problem, and the backoff begins anew. */
const healthyMs = 10_000;

/** A statement without an answer for this long: the connection leads nowhere. More than the session's statement_timeout. */
const unansweredMs = 40_000;
/** How long giving requests back may take when a stop has run out of time. */
const giveUpMs = 3_000;

const silentLog: WorkerLog = { info: () => {}, warn: () => {}, error: () => {} };

/**
 * Takes requests from the queue of one database, sends them, and records their responses, until it is stopped. Survives
 * whatever the database does: it reconnects with backoff, and what is in flight meanwhile is recorded afterwards.
 */
export class Worker extends EventEmitter<WorkerEvents> {
  readonly #parts: WorkerParts;
  readonly #timing: Timing;
  readonly #log: WorkerLog;
  readonly #flights: Flights;
  readonly #signal = new Signal();
  readonly #orders: Orders = { stopping: false, restart: false, drains: 0 };
  #service: Service | undefined;
  #life: Promise<void> | undefined;
  #workerId: bigint | null = null;
  /** What it has said since it last served soundly. */
  readonly #said = new Set<string>();
  #drained: (() => void)[] = [];
  #stopDeadline: NodeJS.Timeout | undefined;
  #db: Database | undefined;
  #serviceSignal: Signal | undefined;
  /** Requests that are still claimed could not be given back: the registration stays, so that others see who held them. */
  #leavesBehind = false;
  #hasGivenUp = false;

  constructor(parts: WorkerParts) {
    super();
    this.#parts = parts;
    this.#timing = { ...defaultTiming, ...parts.timing };
    this.#log = parts.log ?? silentLog;
    this.#flights = new Flights(parts.send);
  }

  /** How many requests this worker holds at the moment. */
  get held(): number {
    return this.#flights.held;
  }

  /** Begins to serve. Resolves when the worker is ready; use `start({ wait: false })` to let it try in the background. */
  async start(options: { readonly wait?: boolean } = {}): Promise<void> {
    if (this.#life !== undefined) {
      throw new Error('the worker has been started already; make a new one after stop()');
    }
    const ready = new Promise<void>((resolve) => {
      this.once('ready', () => resolve());
      this.once('stopped', () => resolve());
    });
    this.#life = this.#live();
    if (options.wait !== false) {
      await ready;
    }
  }

  /**
   * Resolves when everything that was committed before the call has been sent and recorded, and nothing is held. Requests
   * that another worker holds, and those that are due later, are not waited for.
   */
  async drain(): Promise<void> {
    if (this.#life === undefined || this.#orders.stopping) {
      throw new Error('the worker does not run');
    }
    const drained = new Promise<void>((resolve) => this.#drained.push(resolve));
    this.#orders.drains += 1;
    this.#raise();
    await drained;
  }

  /**
   * Stops: claims no more, waits for what is in flight (at most `stopTimeoutMs`), gives the rest back to the queue, and
   * ends the session. Safe to call twice.
   */
  async stop(): Promise<void> {
    if (!this.#orders.stopping) {
      this.#orders.stopping = true;
      this.#stopDeadline = setTimeout(() => void this.#giveUp(), this.#parts.stopTimeoutMs);
      this.#raise();
    }
    await this.#life;
  }

  /** Something has changed that the loops should know: the one of the connection, and the one that waits for the next. */
  #raise(): void {
    this.#signal.raise();
    this.#serviceSignal?.raise();
  }

  async #giveUp(): Promise<void> {
    // The database may not answer any more; stopping must not wait for it.
    this.#stopDeadline = setTimeout(() => {
      this.#hasGivenUp = true;
      void this.#db?.close();
      this.#raise();
    }, giveUpMs);
    try {
      const released = (await this.#service?.releaseAll()) ?? this.#flights.giveUp().length;
      this.#log.warn({ released }, `stopped with ${released} requests in flight: they are given back to the queue`);
    } catch (error) {
      this.#leavesBehind = true;
      this.#log.warn(
        { error: String(error) },
        'requests in flight could not be given back; they come free with the lease',
      );
    }
    this.#leavesBehind ||= this.#flights.held > 0;
    this.#flights.abandon();
    this.#raise();
  }

  async #live(): Promise<void> {
    const backoff = this.#parts.reconnect ?? { firstMs: 50, lastMs: 5_000 };
    let failures = 0;
    while (!(this.#orders.stopping && (this.#flights.held === 0 || this.#workerId === null || this.#hasGivenUp))) {
      const beganMs = this.#now();
      try {
        await this.#serveOneConnection();
      } catch (error) {
        if (this.#now() - beganMs >= healthyMs) {
          failures = 0;
          this.#said.clear();
        }
        this.#report(error);
        await this.#pause(backoffMs(failures, backoff, this.#parts.random));
        failures += 1;
      }
    }
    clearTimeout(this.#stopDeadline);
    await this.#parts.dispose?.();
    this.#log.info({}, 'stopped');
    this.emit('stopped');
    for (const drained of this.#drained.splice(0)) {
      drained();
    }
  }

  /** Waits before the next try, or until the worker is told to stop. */
  async #pause(forMs: number): Promise<void> {
    const until = this.#now() + forMs;
    let left = forMs;
    while (left > 0 && !(this.#orders.stopping && (this.#flights.held === 0 || this.#hasGivenUp))) {
      await this.#signal.wait(left);
      left = until - this.#now();
    }
  }

  #now(): number {
    return (this.#parts.now ?? ((): number => performance.now()))();
  }

  async #serveOneConnection(): Promise<void> {
    const { db: opened, settings, installation } = await this.#open();
    // PGlite answers when its user's transaction has ended, however long that takes.
    const db = opened.kind === 'pg' ? watched(opened, unansweredMs, () => this.#now()) : opened;
    // Each connection has a signal of its own: what is left of an ended one must not take a wake-up from the next.
    const signal = new Signal();
    this.#db = db;
    this.#serviceSignal = signal;
    let service: Service | undefined;
    try {
      const listens = await this.#listen(db, () => service);
      const registration = await this.#register(db, listens);
      this.#orders.restart = false;
      service = new Service({
        db,
        ...registration,
        settings,
        timing: this.#timing,
        listens,
        flights: this.#flights,
        signal,
        orders: this.#orders,
        now: () => this.#now(),
        onRecorded: (ids) => this.emit('recorded', ids),
        onDrained: () => {
          for (const drained of this.#drained.splice(0)) {
            drained();
          }
        },
        warn: (message) => this.#log.warn({}, message),
      });
      this.#service = service;
      this.#log.info(
        { database: installation.database, role: installation.role, worker: Number(registration.workerId), listens },
        listens ? 'serving' : 'serving by polling: notifications do not arrive on this connection',
      );
      this.emit('ready', { workerId: registration.workerId, database: installation.database, listens });
      const ended = db.ended.then((reason) => {
        throw reason ?? new ConnectionLost('the connection was closed');
      });
      const end = await Promise.race([service.run(), ended]);
      if (end === 'stopped' && !this.#leavesBehind) {
        await deregister(db, registration.workerId);
      } else if (end === 'fenced') {
        this.#log.warn(
          {},
          'the registration of this worker is gone: it was taken for dead, and what it held has been given to others, or the schema was replaced',
        );
      }
    } finally {
      this.#service = undefined;
      this.#serviceSignal = undefined;
      this.#db = undefined;
      await db.close();
      await service?.finish();
    }
  }

  /** Connects, and once more to where the server's settings say; refuses what is not to be served. */
  async #open(): Promise<{ db: Database; settings: Settings; installation: Ready }> {
    let db = await this.#parts.connect({});
    try {
      let found = await examine(db);
      const target = await readTarget(db, found.settings);
      const other = target === null ? null : await this.#connectTo(target);
      if (other !== null) {
        await db.close();
        db = other;
        found = await examine(db);
      }
      if (found.settings === null) {
        throw new NotReady(explain(found.installation));
      }
      for (const problem of found.settings.problems) {
        this.#log.warn({}, problem);
      }
      return { db, ...found };
    } catch (error) {
      await db.close();
      throw error;
    }
  }

  /** The session that the server's settings ask for; null, and a word about it, where that fails. */
  async #connectTo(target: Target): Promise<Database | null> {
    try {
      return await this.#parts.connect(target);
    } catch (error) {
      this.#report(
        new NotReady(
          `pg_net.database_name and pg_net.username name ${JSON.stringify(target)}, where connecting failed (${messageOf(error)}); keeping the connection string's. Correct or reset those settings, then call net.worker_restart().`,
        ),
      );
      return null;
    }
  }

  async #listen(db: Database, service: () => Service | undefined): Promise<boolean> {
    const listens = await db.listen(wakeChannel, () => service()?.wake());
    if (listens) {
      await db.listen(promiseChannel, () => service()?.promiseAnnounced());
      await db.listen(restartChannel, () => {
        this.#orders.restart = true;
        this.#raise();
      });
    }
    return listens;
  }

  /** Registers, under the old id where that still stands; frees what dead workers held. */
  async #register(db: Database, ownsSession: boolean): Promise<{ workerId: bigint; restartSeen: bigint }> {
    const options = {
      name: this.#parts.name,
      version: this.#parts.version,
      ownsSession,
      leaseMs: this.#timing.leaseMs,
    };
    const kept = this.#workerId === null ? null : await register(db, { ...options, workerId: this.#workerId });
    const registration = kept ?? (await register(db, { ...options, workerId: null }));
    if (registration === null) {
      throw new Error('registering returned no row');
    }
    this.#workerId = registration.workerId;
    const dropped = this.#flights.dropAllBut(registration.workerId);
    if (dropped > 0) {
      this.#log.warn({ dropped }, `${dropped} requests that this worker held have been given to others meanwhile`);
    }
    // Whoever keeps its registration has looked for orphans before: any role may ask for restarts, and the look reads all.
    const orphans = kept === null ? await reclaimOrphans(db) : 0;
    const freed = orphans + (await reclaim(db, registration.workerId)).freed;
    if (freed > 0) {
      this.#log.info({ freed }, `${freed} requests of workers that are gone are free again`);
    }
    return registration;
  }

  /** Says what is wrong, once for the same problem. */
  #report(error: unknown): void {
    const message = messageOf(error);
    if (!this.#said.has(message)) {
      this.#said.add(message);
      this.#log.error({}, message);
      this.emit('problem', error instanceof Error ? error : new Error(message));
    }
  }
}

type Ready = Extract<Installation, { kind: 'ready' }>;

/** What a database has to serve, and the settings to do it by; null where it is not to be served, or not by this role. */
type Found =
  | { readonly installation: Ready; readonly settings: Settings }
  | { readonly installation: Exclude<Installation, { kind: 'ready' }>; readonly settings: null };

async function examine(db: Database): Promise<Found> {
  const installation = await inspectInstallation(db);
  if (installation.kind !== 'ready') {
    return { installation, settings: null };
  }
  const missing = await readMissingRights(db);
  if (missing.length > 0) {
    const message = `it lacks ${missing.join(', ')}`;
    return { installation: { ...installation, kind: 'no_rights', message }, settings: null };
  }
  return { installation, settings: await readSettings(db) };
}

function messageOf(error: unknown): string {
  if (error instanceof PostgresError) {
    return `${error.message} (SQLSTATE ${error.code})${error.hint === undefined ? '' : `. ${error.hint}`}`;
  }
  return error instanceof Error ? error.message : String(error);
}
