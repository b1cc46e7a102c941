import type { PGliteInterface } from '@electric-sql/pglite';
import { expiryWarnings } from '../config/certificates.ts';
import { version } from '../config/version.ts';
import { ConfigError, readWorkerConfig, type WorkerConfig, type WorkerOptions } from '../config/worker-config.ts';
import { createAddressPolicy } from '../core/addresses.ts';
import { createHttpClient, type HttpClient } from '../http/client.ts';
import { createGetaddrinfo } from '../http/names/getaddrinfo.ts';
import { ConnectionLost, type Database } from '../postgres/database.ts';
import { connectPg } from '../postgres/pg.ts';
import { openPglite } from '../postgres/pglite.ts';
import { createSecrets } from '../secrets/secrets.ts';
import { sessionSettings } from '../store/session.ts';
import type { Target } from './opening.ts';
import type { WorkerLog, WorkerParts } from './parts.ts';
import { Worker } from './worker.ts';

/**
 * What {@link createWorker} uses of a PGlite instance, written out so that this package's types need no other package. Every
 * `PGlite` is one.
 */
export type PgliteInstance = {
  readonly waitReady: Promise<void>;
  readonly ready: boolean;
  readonly closed: boolean;
  runExclusive<T>(work: () => Promise<T>): Promise<T>;
  listen(channel: string, callback: (payload: string) => void): Promise<unknown>;
};

export type CreateWorkerOptions = WorkerOptions & {
  /**
   * Serves this PGlite instance, in the same process, instead of a server; excludes `connectionString`. The instance stays
   * yours: stop the worker before you close it. Not for an instance behind pglite-socket, whose clients' commits wake nobody
   * in-process: give the socket's connection string instead.
   */
  readonly pglite?: PgliteInstance;
  /** Where the worker writes what it does and what keeps it from working. pino's loggers fit. Default: nowhere; see the event `problem`. */
  readonly log?: WorkerLog;
};

/**
 * Makes a worker: it takes requests from the queue of one database, sends them, and records their responses. It does nothing
 * until `start()`, which resolves when it serves; while the database is unreachable or pgfetch is not installed there, it keeps
 * trying and emits `problem`, once for the same one.
 *
 * @example
 * ```ts
 * import { createWorker } from 'pgfetch';
 *
 * const worker = createWorker({ connectionString: process.env.DATABASE_URL, allow: ['10.1.0.0/16'] });
 * worker.on('problem', (error) => console.error(error.message));
 * await worker.start();
 * process.once('SIGTERM', () => void worker.stop());
 * ```
 *
 * @example In tests, until everything that was enqueued has its response:
 * ```ts
 * const worker = createWorker({ pglite: db, allow: ['loopback'] });
 * await worker.start();
 * await db.query(`select net.http_get('http://localhost:8000/')`);
 * await worker.drain();
 * await worker.stop();
 * ```
 *
 * @throws {@link ConfigError} listing every option that makes no sense.
 */
export function createWorker(options: CreateWorkerOptions = {}): Worker {
  const { pglite, log, ...rest } = options;
  const config = readWorkerConfig(rest);
  if (pglite !== undefined && rest.connectionString !== undefined) {
    throw new ConfigError(['pglite and connectionString exclude each other; give one of them']);
  }
  if (pglite !== undefined && rest.callbackDatabaseUrl !== undefined) {
    throw new ConfigError(['callbackDatabaseUrl does not go with pglite: callbacks are called in its one session']);
  }
  const client = createSender(config, log);
  const worker = new Worker({
    connect:
      pglite === undefined
        ? (target) => connectToServer(config, target)
        : (target) => connectToPglite(pglite, target, () => void worker.stop()),
    ...callbacksBy(config),
    send: (request, rules, cancellation) => client.send(request, rules, cancellation),
    dispose: () => client.close(),
    secrets: createSecrets({ bindings: config.secrets, source: config.secretSource }),
    name: config.name,
    version,
    timing: { leaseMs: config.leaseMs, pollEveryMs: config.pollEveryMs },
    stopTimeoutMs: config.stopTimeoutMs,
    ...(log === undefined ? {} : { log }),
  });
  return worker;
}

/** What sends the requests of a worker, or of several. */
export function createSender(config: WorkerConfig, log: WorkerLog | undefined): HttpClient {
  const { ca, clientCertificates } = config;
  for (const warning of expiryWarnings(config, new Date())) log?.warn({}, warning);
  return createHttpClient({
    tls: { ...(ca.length > 0 && { ca }), clientCertificates },
    userAgent: config.userAgent,
    policy: createAddressPolicy(config),
    proxy: config.proxy,
    ...(config.resolver === 'system' ? { lookup: createGetaddrinfo() } : {}),
  });
}

/** What pg_stat_activity shows, as pg_net's worker does: people look for it there. */
const applicationName = `pg_net ${version}`;

/** Opens a session as a worker's: its name, its pinned settings. */
export async function connectToServer(config: WorkerConfig, target: Target): Promise<Database> {
  return await connectPg({
    ...target,
    connectionString: config.connectionString,
    applicationName,
    connectTimeoutMs: config.connectTimeoutMs,
    prepare: config.prepare,
    sessionSettings,
  });
}

/** Where there is a login to call callbacks by, how a worker connects as it. */
export function callbacksBy({
  callbackDatabaseUrl: connectionString,
  connectTimeoutMs,
}: WorkerConfig): Pick<WorkerParts, 'connectCallbacks'> {
  if (connectionString === '') return {};
  return {
    connectCallbacks: async (database, timeoutMs) =>
      await connectPg({
        connectionString,
        database,
        applicationName: `${applicationName} callbacks`,
        connectTimeoutMs,
        // Nothing of ours is kept in a session in which users' functions run, not even prepared statements.
        prepare: false,
        // A worker's own settings suit its own statements alone.
        sessionSettings: { statement_timeout: `${timeoutMs}ms` },
      }),
  };
}

async function connectToPglite(pglite: PgliteInstance, target: Target, onClosed: () => void): Promise<Database> {
  if (pglite.closed) {
    // It never opens again.
    onClosed();
    throw new ConnectionLost('the PGlite instance is closed; stop the worker before closing it');
  }
  if (target.database !== undefined || target.user !== undefined) {
    throw new ConnectionLost('PGlite has one database and one session, and nowhere else to connect to');
  }
  return openPglite(pglite as Partial<PGliteInterface> as PGliteInterface, { applicationName });
}
