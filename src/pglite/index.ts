import type { Extension, PGliteInterface } from '@electric-sql/pglite';
import type { ProxyOptions } from '../core/proxies.ts';
import type { SecretBindings } from '../core/secret-bindings.ts';
import type { SecretSource } from '../core/secret-values.ts';
import type { Row, Session, Statement } from '../postgres/database.ts';
import type { WorkerLog } from '../worker/parts.ts';
import type { Timing } from '../worker/timing.ts';
import type { Worker } from '../worker/worker.ts';

/** How the worker inside a PGlite instance works. Everything has a default. */
export type PgNetOptions = {
  /**
   * Hosts that may be reached although they are private: CIDR blocks, addresses, names, or `loopback`, `private`, `all`
   * (see `AddressPolicyOptions`). Default: none, so that SQL cannot reach into the network that the program runs in.
   */
  readonly allow?: readonly string[];
  /** Hosts that are refused, whatever `allow` says. Default: none. */
  readonly deny?: readonly string[];
  /** The only hosts, ports and schemes that may be reached; see `WorkerOptions`. Default: no restriction. */
  readonly only?: readonly string[];
  readonly ports?: readonly (number | string)[];
  readonly schemes?: readonly ('http' | 'https')[];
  /** Proxies; see `WorkerOptions`. Default: none. */
  readonly proxy?: ProxyOptions;
  /** Secrets that requests may refer to, each bound to hosts and roles; see `WorkerOptions`. Default: none. */
  readonly secrets?: SecretBindings;
  /** Where the values of `secrets` come from. Default: nowhere. */
  readonly secretSource?: SecretSource;
  /** The User-Agent of requests that bring none. Default `pg_net/<version> (pgfetch)`. */
  readonly userAgent?: string;
  /** The times that the worker runs by, in milliseconds. */
  readonly timing?: Partial<Timing>;
  /** Where the worker writes its lines; pino's loggers fit. Default: nowhere. */
  readonly log?: WorkerLog;
};

/** What the extension adds to the instance: `db.pg_net`. */
export type PgNetNamespace = {
  /**
   * Resolves when everything that was committed before the call has been sent and its response recorded. Call it before
   * `db.close()`, which ends what is in flight (it is sent again when the same data directory is opened next).
   * Resolves at once where CREATE EXTENSION pg_net has not been run. Not inside a transaction: what it waits for would
   * wait for that.
   */
  drain(): Promise<void>;
};

/**
 * The extension for `new PGlite({ extensions: { pg_net } })`. After `CREATE EXTENSION pg_net` requests go out from this
 * process when their transaction commits. For options, see {@link pgNet}.
 */
export const pg_net: Extension<PgNetNamespace> = pgNet();

/**
 * The same with options: `extensions: { pg_net: pgNet({ allow: ['loopback'] }) }`. Runs on Node; elsewhere the extension's
 * SQL is there but `PGlite.create` rejects, because only Node can vet the addresses that it dials.
 */
export function pgNet(options: PgNetOptions = {}): Extension<PgNetNamespace> {
  return {
    name: 'pg_net',
    async setup(pg, emscriptenOpts, clientOnly) {
      // A client of another tab's instance: the extension and its worker are there.
      if (clientOnly === true) {
        return { emscriptenOpts, namespaceObj: { drain: async () => {} } };
      }
      const resident = new Resident(pg, options);
      return {
        emscriptenOpts,
        bundlePath: bundleUrl(import.meta.url),
        namespaceObj: { drain: () => resident.drain() },
        init: () => resident.init(),
        close: () => resident.close(),
      };
    },
  };
}

/** Beside the compiled module; sources run by a test runner use what the build made. */
function bundleUrl(moduleUrl: string): URL {
  return new URL(moduleUrl.endsWith('.ts') ? '../../dist/pglite/pg_net.tar.gz' : './pg_net.tar.gz', moduleUrl);
}

/** Notified by every enqueuing transaction while no worker has promised to look; nobody has before there is a worker. */
const wakeChannel = 'net_wake';

/**
 * The worker that lives in a PGlite instance. It serves from when the extension has been created: looked for when the
 * instance opens, and then whenever a request has been enqueued; so nothing is asked while there is nothing to serve.
 */
class Resident {
  readonly #pg: PGliteInterface;
  readonly #options: PgNetOptions;
  readonly #closing = new AbortController();
  #worker: Worker | undefined;
  /** Resolves at the next request, or when the instance closes. */
  #nextRequest: { readonly promise: Promise<void>; readonly resolve: () => void } = withResolver();

  constructor(pg: PGliteInterface, options: PgNetOptions) {
    this.#pg = pg;
    this.#options = options;
  }

  /** Runs inside the instance's start, which waits for it: so nothing here may wait for the instance to be ready. */
  async init(): Promise<void> {
    await this.#pg.listen(wakeChannel, () => this.#announceRequest());
    this.#worker = await this.#createWorker();
    await this.#worker.start({ wait: false });
  }

  async drain(): Promise<void> {
    const { openPglite } = await import('../postgres/pglite.ts');
    const db = openPglite(this.#pg, { applicationName: 'pg_net' });
    try {
      if (await isInstalled(db)) {
        this.#announceRequest();
        await this.#worker?.drain();
      }
    } finally {
      await db.close();
    }
  }

  /** The instance answers no more when this is called: the worker can only let go of what it holds. */
  async close(): Promise<void> {
    this.#closing.abort();
    const stopped = this.#worker?.stop();
    this.#announceRequest();
    await stopped;
  }

  #announceRequest(): void {
    const { resolve } = this.#nextRequest;
    this.#nextRequest = withResolver();
    resolve();
  }

  async #createWorker(): Promise<Worker> {
    const [
      { Worker: WorkerClass },
      { createHttpClient },
      { createAddressPolicy },
      { openPglite },
      { packageVersion },
      { createSecrets },
    ] = await Promise.all([
      import('../worker/worker.ts'),
      import('../http/client.ts'),
      import('../core/addresses.ts'),
      import('../postgres/pglite.ts'),
      import('../schema/scripts.ts'),
      import('../secrets/secrets.ts'),
    ]);
    const { proxy, secrets = {}, secretSource, timing, log } = this.#options;
    const version = await packageVersion();
    const client = createHttpClient({
      userAgent: this.#options.userAgent ?? `pg_net/${version} (pgfetch)`,
      policy: createAddressPolicy(this.#options),
      proxy,
    });
    return new WorkerClass({
      connect: async () => {
        const db = openPglite(this.#pg, { applicationName: `pg_net ${version}` });
        await this.#untilInstalled(db);
        return db;
      },
      send: (request, rules, cancellation) => client.send(request, rules, cancellation),
      dispose: () => client.close(),
      secrets: createSecrets({ bindings: secrets, source: secretSource ?? { read: async () => undefined } }),
      name: 'PGlite',
      version,
      // By the time the instance tells us that it closes, nothing can be recorded any more.
      stopTimeoutMs: 0,
      ...(timing === undefined ? {} : { timing }),
      ...(log === undefined ? {} : { log: untilAborted(log, this.#closing.signal) }),
    });
  }

  /** Returns when the schema is there; rejects when the instance closes. */
  async #untilInstalled(db: Session): Promise<void> {
    for (;;) {
      const request = this.#nextRequest.promise;
      if (this.#closing.signal.aborted) {
        throw new Error('the PGlite instance is closed');
      }
      if (await isInstalled(db)) {
        return;
      }
      await request;
    }
  }
}

const installedStatement: Statement = {
  name: 'pgfetch_pglite_installed',
  text: `select pg_catalog.to_regclass('net.installation') is not null as installed`,
};

async function isInstalled(db: Session): Promise<boolean> {
  const [row] = await db.query<Row & { installed: boolean }>(installedStatement);
  return row?.installed === true;
}

/** A worker whose instance closes loses its connection: no problem that anybody need hear of. */
function untilAborted(log: WorkerLog, signal: AbortSignal): WorkerLog {
  const line =
    (level: 'info' | 'warn' | 'error') =>
    (fields: object, message: string): void => {
      if (!signal.aborted) {
        log[level](fields, message);
      }
    };
  return { info: line('info'), warn: line('warn'), error: line('error') };
}

function withResolver(): { promise: Promise<void>; resolve: () => void } {
  let resolve: () => void = () => {};
  const promise = new Promise<void>((done) => {
    resolve = done;
  });
  return { promise, resolve };
}
