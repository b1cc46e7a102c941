import { EventEmitter } from 'node:events';
import { backoffMs } from '../core/backoff.ts';
import { ConnectionLost, type Database } from '../postgres/database.ts';
import { noSecrets, type Secrets } from '../secrets/secrets.ts';
import { cancelChannel } from '../store/cancel.ts';
import { readPause } from '../store/pause.ts';
import { reclaim, reclaimLost, reclaimOrphans } from '../store/reclaim.ts';
import { deregister, detach, type Registration, register } from '../store/register.ts';
import { breakersChannel, promiseChannel, restartChannel, wakeChannel } from '../store/wake.ts';
import { Callbacks } from './callbacks.ts';
import { ConnectionOrders } from './connection-orders.ts';
import { Flights } from './flights.ts';
import { type Opened, openServed, type Ready } from './opening.ts';
import type { Orders } from './orders.ts';
import type { WorkerEvents, WorkerLog, WorkerParts } from './parts.ts';
import { Pausing } from './pausing.ts';
import { Problems } from './problems.ts';
import { hasNewOrder, RestartNotices } from './restart-notices.ts';
import { Service } from './service.ts';
import { Signal } from './signal.ts';
import { Standings } from './standings.ts';
import { defaultTiming, type Timing } from './timing.ts';
import { watched } from './watchdog.ts';

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
  readonly #secrets: Secrets;
  readonly #signal = new Signal();
  readonly #orders: Pick<Orders, 'stopping' | 'drains'> = { stopping: false, drains: 0 };
  #service: Service | undefined;
  #life: Promise<void> | undefined;
  #workerId: bigint | null = null;
  readonly #problems: Problems;
  #drained: (() => void)[] = [];
  #stopDeadline: NodeJS.Timeout | undefined;
  #db: Database | undefined;
  #serviceSignal: Signal | undefined;
  /** Requests that are still claimed could not be given back: the registration stays, so that others see who held them. */
  #leavesBehind = false;
  #hasGivenUp = false;
  /** A connection was lost: a claim may have been committed whose answer did not arrive. */
  #mayHaveLostClaims = false;
  #orphansLeft = false;
  readonly #pausing: Pausing;
  #leaveTimer: NodeJS.Timeout | undefined;

  constructor(parts: WorkerParts) {
    super();
    this.#parts = parts;
    this.#timing = { ...defaultTiming, ...parts.timing };
    this.#log = parts.log ?? silentLog;
    this.#problems = new Problems(this.#log, (problem) => this.emit('problem', problem));
    this.#secrets = parts.secrets ?? noSecrets;
    this.#flights = new Flights({
      furnish: this.#secrets.furnish,
      send: parts.send,
      clock: parts.clock ?? Date.now,
      random: parts.random ?? Math.random,
    });
    this.#pausing = new Pausing({
      stopTimeoutMs: parts.stopTimeoutMs,
      log: this.#log,
      now: () => this.#now(),
      onPaused: (database, pause) => this.emit('paused', { database, ...pause }),
    });
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
   * Resolves when everything that was committed before the call has been sent and recorded, nothing is held, and callbacks have
   * been called. Requests that another worker holds, and those that are due later, are not waited for.
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
          this.#problems.forget();
        }
        this.#mayHaveLostClaims = true;
        this.#report(error);
        await this.#rest(backoffMs(failures, backoff, this.#parts.random));
        failures += 1;
      }
    }
    clearTimeout(this.#stopDeadline);
    await this.#parts.dispose?.();
    this.#log.info({}, 'stopped');
    this.emit('stopped');
    void this.#tellDrained();
  }

  /** Tells those who have asked so far, when the callbacks that are due have been called. */
  async #tellDrained(called?: Promise<void>): Promise<void> {
    const asked = this.#drained.splice(0);
    await called;
    for (const drained of asked) {
      drained();
    }
  }

  /** Waits before the next look at the database, or until the worker is told to stop. */
  async #rest(forMs: number): Promise<void> {
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

  /** Serves until the connection ends or the database is paused, and then waits before the next look. */
  async #serveOneConnection(): Promise<void> {
    const opened = await openServed({
      connect: this.#parts.connect,
      staysInDatabase: this.#parts.staysInDatabase === true,
      secretRoles: this.#secrets.roleNames,
      warn: (message) => this.#log.warn({}, message),
      report: (error) => this.#report(error),
    });
    const { database, paused } = opened.installation;
    this.#pausing.note(database, paused, this.#flights.held);
    if (paused !== null && this.#flights.held === 0) {
      await this.#stayAway(opened.db);
    } else {
      await this.#serve(opened);
    }
    if (this.#workerId === null) {
      await this.#rest(this.#timing.pausedEveryMs);
    }
  }

  /** Serves over this connection until it ends; of a paused database only what is in flight. */
  async #serve({ db: opened, settings, installation, hasPolicies, asked }: Opened): Promise<void> {
    // PGlite answers when its user's transaction has ended, however long that takes.
    const db = opened.kind === 'pg' ? watched(opened, unansweredMs, () => this.#now()) : opened;
    // Each connection has a signal of its own: what is left of an ended one must not take a wake-up from the next.
    const signal = new Signal();
    this.#db = db;
    this.#serviceSignal = signal;
    let service: Service | undefined;
    const callbacks = new Callbacks({
      db,
      database: installation.database,
      connect: this.#parts.connectCallbacks,
      timeoutMs: this.#timing.callbackTimeoutMs,
      ttlMs: settings.ttlMs,
      now: () => this.#now(),
      warn: (message) => this.#log.warn({}, message),
    });
    const orders = new ConnectionOrders(this.#orders, () => void this.#obeyRestart(db, installation.database, orders));
    const restarts = new RestartNotices(db, orders);
    try {
      const listens = await this.#listen(db, restarts, () => service);
      if (listens && asked.limits !== null) {
        await db.listen(breakersChannel, () => service?.breakersChanged());
      }
      const registration = await this.#register(db, listens);
      const obeyed = { ...asked, isPaused: installation.paused !== null, hasPolicies };
      restarts.obeyed(obeyed);
      if (hasNewOrder(registration.asked, obeyed)) orders.restart = true;
      const standings = new Standings({ db, hasPolicies, roleNames: this.#secrets.roleNames, now: () => this.#now() });
      await this.#flights.renewStandings(standings);
      service = new Service({
        db,
        workerId: registration.workerId,
        obeyed,
        settings,
        timing: this.#timing,
        listens,
        flights: this.#flights,
        standings,
        orphansLeft: this.#orphansLeft,
        signal,
        orders,
        now: () => this.#now(),
        random: this.#parts.random ?? Math.random,
        onRecorded: (ids) => this.emit('recorded', ids),
        lookForCallbacks: () => callbacks.look(),
        onDrained: () => void this.#tellDrained(callbacks.idle()),
        warn: (message) => this.#log.warn({}, message),
      });
      this.#service = service;
      if (installation.paused === null) {
        this.#announceReady(installation, registration.workerId, listens);
        callbacks.look();
      } else {
        this.#leave(orders);
      }
      const ended = db.ended.then((reason) => {
        throw reason ?? new ConnectionLost('the connection was closed');
      });
      const end = await Promise.race([service.run(), ended]);
      if (end === 'stopped' && !this.#leavesBehind) {
        await deregister(db, registration.workerId);
        this.#workerId = null;
      } else if (end === 'restart') {
        await detach(db, registration.workerId, this.#timing.leaseMs);
      } else if (end === 'fenced') {
        this.#log.warn(
          {},
          'the registration of this worker is gone: it was taken for dead, and what it held has been given to others, or the schema was replaced',
        );
      }
    } finally {
      clearTimeout(this.#leaveTimer);
      restarts.close();
      this.#service = undefined;
      this.#serviceSignal = undefined;
      this.#db = undefined;
      await callbacks.end();
      await db.close();
      await service?.finish();
    }
  }

  #announceReady({ database, role }: Ready, workerId: bigint, listens: boolean): void {
    this.#log.info(
      { database, role, worker: Number(workerId), listens },
      listens ? 'serving' : 'serving by polling: notifications do not arrive on this connection',
    );
    this.emit('ready', { workerId, database, listens });
  }

  /** Paused, and nothing in flight: no registration and no session remain, and a short connection looks whether it goes on. */
  async #stayAway(db: Database): Promise<void> {
    try {
      if (this.#workerId !== null) {
        await deregister(db, this.#workerId);
        this.#workerId = null;
      }
    } finally {
      await db.close();
    }
  }

  /** A restart has been asked for, or a pause. */
  async #obeyRestart(db: Database, database: string, orders: ConnectionOrders): Promise<void> {
    const paused = await readPause(db).catch(() => null);
    if (this.#db !== db) {
      return;
    }
    if (paused === null) {
      orders.obeyRestart();
    } else {
      this.#pausing.note(database, paused, this.#flights.held);
      this.#leave(orders);
    }
    this.#raise();
  }

  /** Of a paused database only what is in flight is finished; what takes too long is given back. */
  #leave(orders: ConnectionOrders): void {
    orders.leave();
    clearTimeout(this.#leaveTimer);
    this.#leaveTimer = setTimeout(() => void this.#giveBack(), this.#pausing.leftMs ?? 0);
  }

  async #giveBack(): Promise<void> {
    try {
      const released = await this.#service?.releaseAll();
      this.#log.warn({ released }, `paused with ${released} requests in flight: they are given back to the queue`);
    } catch (error) {
      // The connection is at its end. What could not be given back comes free when a worker starts after the pause.
      this.#report(error);
    }
    this.#raise();
  }

  async #listen(db: Database, restarts: RestartNotices, service: () => Service | undefined): Promise<boolean> {
    const listens = await db.listen(wakeChannel, () => service()?.wake());
    if (listens) {
      await db.listen(promiseChannel, () => service()?.promiseAnnounced());
      await db.listen(restartChannel, () => restarts.noticed());
      await db.listen(cancelChannel, (payload) => service()?.cancels.noticed(payload));
    }
    return listens;
  }

  /** Registers, under the old id where that still stands; frees what dead workers held. */
  async #register(db: Database, ownsSession: boolean): Promise<Registration> {
    const { name, version } = this.#parts;
    const options = { name, version, ownsSession, leaseMs: this.#timing.leaseMs };
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
    const { freed: freedByDeath, buried } = await reclaim(db, registration.workerId);
    const orphans = kept === null || buried > 0 || this.#orphansLeft ? await reclaimOrphans(db) : undefined;
    this.#orphansLeft = orphans?.areLeft === true;
    const lost = kept !== null && this.#mayHaveLostClaims ? await reclaimLost(db, kept.workerId, this.#flights.ids) : 0;
    this.#mayHaveLostClaims = false;
    const freed = freedByDeath + (orphans?.freed ?? 0) + lost;
    if (freed > 0) {
      this.#log.info({ freed }, `${freed} requests of workers or connections that are gone are free again`);
    }
    return registration;
  }

  #report(error: unknown): void {
    this.#problems.report(error, this.#workerId);
  }
}
