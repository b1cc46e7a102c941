import { createWriteStream } from 'node:fs';
import { join } from 'node:path';
import { pipeline } from 'node:stream/promises';
import { pathToFileURL } from 'node:url';
import { createGzip } from 'node:zlib';
import { type Extension, PGlite } from '@electric-sql/pglite';
import pg from 'pg';
import { pack } from 'tar-stream';
import { onTestFinished } from 'vitest';
import { createAddressPolicy } from '../../src/core/addresses.ts';
import { type EchoRequest, startEchoServer } from '../../src/embedded/echo.ts';
import { createHttpClient, type HttpClientOptions } from '../../src/http/client.ts';
import { pgNet } from '../../src/pglite/index.ts';
import type { Database } from '../../src/postgres/database.ts';
import { connectPg } from '../../src/postgres/pg.ts';
import { openPglite } from '../../src/postgres/pglite.ts';
import { extensionFiles } from '../../src/schema/scripts.ts';
import { sessionSettings } from '../../src/store/session.ts';
import type { ConnectCallbacks } from '../../src/worker/callbacks.ts';
import type { Target } from '../../src/worker/opening.ts';
import type { WorkerLog, WorkerParts } from '../../src/worker/parts.ts';
import { Worker } from '../../src/worker/worker.ts';
import {
  availableMajors,
  newestMajors,
  startTestPostgres,
  type TestMajor,
  temporaryDirectory,
  until,
} from '../support/servers.ts';

/**
 * What the suite asks of a backend beyond the API itself. A backend either can do it, or says how it refuses: the text that the
 * refusal must match. `capabilities.test.ts` tries each of them on each backend, so this table cannot be wrong.
 */
export type Capability =
  /** A second session beside the first: two transactions at a time, several workers. */
  | 'severalSessions'
  /** SQL that waits for the worker inside a statement. */
  | 'waitingInsideAStatement'
  /** `ALTER ROLE ... SET` reaches the sessions of that role. (The worker obeys it everywhere.) */
  | 'roleSettingsInSessions'
  /** `ALTER SYSTEM SET pg_net...` of a name that no session has used yet. */
  | 'alterSystem'
  /** What ALTER SYSTEM wrote is in force at once after a reload, and not only at the next start. */
  | 'reload'
  /** A database in another encoding than UTF-8. */
  | 'otherEncodings'
  /** PREPARE TRANSACTION. */
  | 'preparedTransactions';

export type Capabilities = Readonly<Record<Capability, true | RegExp>>;

/** A session in which a test runs SQL as a user would. */
export type Sql = {
  /** Runs what would be pasted into psql, several statements too; returns the rows of the last one. int8 comes as a number. */
  query<R extends object = Record<string, unknown>>(text: string): Promise<R[]>;
  end(): Promise<void>;
};

/** A row of `net._http_response`: the documented columns, and those of ours that tests look at. */
export type ResponseRow = {
  id: number;
  status_code: number | null;
  content_type: string | null;
  headers: Record<string, string> | null;
  content: string | null;
  timed_out: boolean | null;
  error_msg: string | null;
  created: Date;
  error_code: string | null;
  content_bytes: Uint8Array | null;
  truncated: boolean | null;
  final_url: string | null;
  redirects: number | null;
  header_list: [string, string][] | null;
};

export type StageOptions = {
  /** Default UTF8. Only where a server can have another (PostgreSQL). */
  encoding?: 'UTF8' | 'LATIN1';
  /** Default true: a worker serves from the start. On PGlite that is the one inside the extension that the package ships. */
  worker?: boolean;
  /** How the workers that {@link Stage.startWorker} makes send. */
  http?: Partial<HttpClientOptions>;
};

export type Backend = {
  readonly name: string;
  readonly capabilities: Capabilities;
  /** A fresh database with the extension, an echo server and a worker; all gone when the test ends. */
  open(options?: StageOptions): Promise<Stage>;
};

/** Whether the backend can do it, for tests that need it. */
export function can(backend: Backend, capability: Capability): boolean {
  return backend.capabilities[capability] === true;
}

type OpenDatabase = {
  /** What the workers log. */
  readonly log: string[];
  /** A worker serves already. */
  readonly isServed: boolean;
  session(user?: string): Promise<Sql>;
  connect(target: Target): Promise<Database>;
  /** Not on PGlite: its one session is the callbacks', too. */
  readonly connectCallbacks?: ConnectCallbacks;
  drop(): Promise<void>;
};

/** Where a test plays: a database, its first session, an echo server, and workers. */
export class Stage {
  /** The session of the superuser who created the extension. */
  readonly sql: Sql;
  /** `http://127.0.0.1:PORT` of the echo server. */
  readonly echoUrl: string;
  /** What the echo server has received so far. */
  readonly received: readonly EchoRequest[];
  /** What the workers have logged. */
  readonly log: readonly string[];
  readonly #database: OpenDatabase;
  readonly #http: Partial<HttpClientOptions>;

  constructor(
    parts: { sql: Sql; echoUrl: string; received: readonly EchoRequest[]; database: OpenDatabase },
    http: Partial<HttpClientOptions>,
  ) {
    this.sql = parts.sql;
    this.echoUrl = parts.echoUrl;
    this.received = parts.received;
    this.log = parts.database.log;
    this.#database = parts.database;
    this.#http = http;
  }

  /** A further session, ended with the test. */
  async session(user?: string): Promise<Sql> {
    const session = await this.#database.session(user);
    onTestFinished(() => session.end());
    return session;
  }

  /** A connection as a program has it; closed with the test. */
  async connect(): Promise<Database> {
    const database = await this.#database.connect({});
    onTestFinished(() => database.close());
    return database;
  }

  /** A worker that serves this database; stopped with the test. Notifications of the channel `deafTo` do not reach it. */
  async startWorker(
    parts: Partial<WorkerParts> = {},
    options: { readonly wait?: boolean; readonly deafTo?: string } = {},
  ): Promise<Worker> {
    const client = createHttpClient({
      userAgent: 'pg_net/contract',
      policy: createAddressPolicy({ allow: ['loopback'] }),
      connectionsPerOriginMax: 200,
      ...this.#http,
    });
    const worker = new Worker({
      ...(this.#database.connectCallbacks && { connectCallbacks: this.#database.connectCallbacks }),
      connect: async (target) => deaf(await this.#database.connect(target), options.deafTo),
      send: (request, rules, cancellation) => client.send(request, rules, cancellation),
      dispose: () => client.close(),
      name: 'contract',
      version: '0',
      stopTimeoutMs: 500,
      log: writeTo(this.#database.log),
      ...parts,
    });
    onTestFinished(() => worker.stop());
    await worker.start(options);
    return worker;
  }

  /** Runs SQL that enqueues one request; returns its id, taken from the first column. */
  async enqueue(text: string): Promise<number> {
    const [row] = await this.sql.query(text);
    const [id] = Object.values(row ?? {});
    if (typeof id !== 'number') throw new Error(`no request id came back: ${JSON.stringify(row)}`);
    return id;
  }

  /** Enqueues a GET of a URL, or of a path of the echo server; returns its id. */
  get(target: string, timeoutMs: number = 10_000): Promise<number> {
    const url = target.startsWith('/') ? this.echoUrl + target : target;
    return this.enqueue(`select net.http_get('${url}', timeout_milliseconds := ${timeoutMs})`);
  }

  /** Waits for the response to a request. */
  response(id: number): Promise<ResponseRow> {
    return this.until(
      async () => (await this.sql.query<ResponseRow>(`select * from net._http_response where id = ${id}`))[0],
      `request ${id} has its response`,
    );
  }

  /** Waits until there are `count` responses in all. */
  async responses(count: number): Promise<void> {
    await this.until(async () => (await this.count('net._http_response')) === count, `there are ${count} responses`);
  }

  /** Waits for a condition; where it does not come, what the workers logged may tell why. */
  async until<T>(probe: () => Promise<T | undefined | false> | T | undefined | false, what: string): Promise<T> {
    try {
      return await until(probe, what, 30_000);
    } catch (error) {
      throw new Error(`${String(error)}; the workers' last lines: ${JSON.stringify(this.log.slice(-5))}`, {
        cause: error,
      });
    }
  }

  async count(table: string): Promise<number> {
    const [row] = await this.sql.query<{ count: number }>(`select count(*) as count from ${table}`);
    return row?.count ?? 0;
  }

  /** The paths that the echo server has seen, in the order of their arrival. */
  get receivedPaths(): readonly string[] {
    return this.received.map((request) => request.path);
  }
}

/** The session, which hears nothing of that channel. */
function deaf(db: Database, channel: string | undefined): Database {
  if (channel === undefined) return db;
  const listen: Database['listen'] = async (name, onNotify) => name === channel || (await db.listen(name, onNotify));
  return new Proxy(db, {
    get: (target, key) => {
      const value: unknown = key === 'listen' ? listen : Reflect.get(target, key, target);
      return typeof value === 'function' ? value.bind(target) : value;
    },
  });
}

async function openStage(database: OpenDatabase, options: StageOptions): Promise<Stage> {
  onTestFinished(() => database.drop());
  const received: EchoRequest[] = [];
  const echo = await startEchoServer({ onRequest: (request) => received.push(request) });
  onTestFinished(() => echo.close());
  const sql = await database.session();
  onTestFinished(() => sql.end());
  await sql.query('CREATE EXTENSION IF NOT EXISTS pg_net');
  const stage = new Stage({ sql, echoUrl: echo.url, received, database }, options.http ?? {});
  if (options.worker !== false && !database.isServed) await stage.startWorker();
  return stage;
}

function writeTo(lines: string[]): WorkerLog {
  const write = (_fields: object, message: string): void => {
    lines.push(message);
  };
  return { info: write, warn: write, error: write };
}

const applicationName = 'pgfetch contract test';
/** The worker's login: nothing but a member of net_worker, as a careful user would have it. */
const workerRole = 'contract_worker';
/** The callbacks': the same with net_callback. */
const callbackRole = 'contract_callback';

const parseAsNumber: pg.CustomTypesConfig = {
  // pg's own overloads tell the parsers of text and of bytes apart; this one asks for whatever was asked for.
  getTypeParser: (oid: number, format?: 'text' | 'binary') =>
    oid === pg.types.builtins.INT8 ? Number : pg.types.getTypeParser(oid, format as 'text'),
};

async function pgSession(url: string, user?: string): Promise<Sql> {
  const client = new pg.Client({
    connectionString: url,
    types: parseAsNumber,
    ...(user === undefined ? {} : { user }),
  });
  client.on('error', () => {});
  await client.connect();
  return {
    async query<R extends object>(text: string): Promise<R[]> {
      const results: pg.QueryResult<R> | pg.QueryResult<R>[] = await client.query<R>(text);
      return (Array.isArray(results) ? results.at(-1) : results)?.rows ?? [];
    },
    end: () => client.end(),
  };
}

let databases = 0;

async function openPgDatabase(major: TestMajor, encoding: 'UTF8' | 'LATIN1'): Promise<OpenDatabase> {
  const server = await startTestPostgres({
    major,
    encoding,
    extensionFiles: await extensionFiles({ showSettings: true }),
    settings: { max_prepared_transactions: '10' },
  });
  const admin = await pgSession(server.connectionString);
  databases += 1;
  const name = `contract_${databases}`;
  await admin.query(`CREATE DATABASE ${name}`);
  const url = new URL(server.connectionString);
  url.pathname = `/${name}`;
  let roleGranted = false;
  return {
    log: [],
    isServed: false,
    session: (user) => pgSession(url.href, user),
    async connect(target) {
      // Here and not before, because CREATE EXTENSION makes the role that it is granted.
      if (!roleGranted) await admin.query(grantWorkerRole);
      roleGranted = true;
      return connectPg({
        connectionString: url.href,
        applicationName,
        connectTimeoutMs: 10_000,
        sessionSettings,
        user: workerRole,
        ...target,
      });
    },
    connectCallbacks: (database, timeoutMs) =>
      connectPg({
        connectionString: url.href,
        applicationName,
        connectTimeoutMs: 10_000,
        sessionSettings: { statement_timeout: `${timeoutMs}ms` },
        prepare: false,
        user: callbackRole,
        database,
      }),
    async drop() {
      await until(
        async () => (await admin.query(`select from pg_stat_activity where datname = '${name}'`)).length === 0,
        'everybody has left the database',
      );
      await admin.query(`DROP DATABASE ${name}`);
      // Roles and ALTER SYSTEM are the server's, and the next test shall not see them.
      await admin.query('ALTER ROLE postgres RESET ALL');
      await admin.query('ALTER SYSTEM RESET ALL');
      await admin.query('SELECT pg_reload_conf()');
      await admin.end();
    },
  };
}

const grantWorkerRole = `
  do $$
  begin
    if not exists (select from pg_roles where rolname = '${workerRole}') then
      create role ${workerRole} login;
    end if;
    if not exists (select from pg_roles where rolname = '${callbackRole}') then
      create role ${callbackRole} login;
    end if;
    grant net_worker to ${workerRole};
    grant net_callback to ${callbackRole};
  end
  $$`;

function pgBackend(major: TestMajor): Backend {
  return {
    name: `PostgreSQL ${major}`,
    capabilities: {
      severalSessions: true,
      waitingInsideAStatement: true,
      roleSettingsInSessions: true,
      alterSystem: major >= 17 ? true : /unrecognized configuration parameter "pg_net\.ttl"/,
      reload: true,
      otherEncodings: true,
      preparedTransactions: true,
    },
    open: async (options = {}) => openStage(await openPgDatabase(major, options.encoding ?? 'UTF8'), options),
  };
}

/** The state that all tests of a file begin with: made once, because a fresh start takes seconds. */
let installed: Promise<{ bundle: URL; data: Blob }> | undefined;

async function installPglite(): Promise<{ bundle: URL; data: Blob }> {
  const bundle = await bundleExtension();
  const db = await PGlite.create({ extensions: { pg_net: withoutWorker(bundle) } });
  await db.exec('CREATE EXTENSION pg_net');
  const data = await db.dumpDataDir('none');
  await db.close();
  return { bundle, data };
}

/** The bundle as the build makes it, of the SQL as it is now, and with `pg_settings` showing the settings. */
async function bundleExtension(): Promise<URL> {
  const bundle = join(temporaryDirectory('pglite-bundle'), 'pg_net.tar.gz');
  const tar = pack();
  for (const [name, content] of Object.entries(await extensionFiles({ showSettings: true }))) {
    tar.entry({ name: `share/postgresql/extension/${name}` }, content);
  }
  tar.finalize();
  await pipeline(tar, createGzip(), createWriteStream(bundle));
  return pathToFileURL(bundle);
}

/** The extension alone, for tests that start workers when they want them. */
function withoutWorker(bundlePath: URL): Extension {
  return { name: 'pg_net', setup: async (_pg, emscriptenOpts) => ({ emscriptenOpts, bundlePath }) };
}

/** The extension that the package ships, worker included. */
function withWorker(bundlePath: URL, log: string[]): Extension {
  const shipped = pgNet({ allow: ['loopback'], log: writeTo(log) });
  return {
    name: shipped.name,
    setup: async (...parameters) => ({ ...(await shipped.setup(...parameters)), bundlePath }),
  };
}

async function openPgliteDatabase(options: StageOptions): Promise<OpenDatabase> {
  const { encoding = 'UTF8', worker = true, http } = options;
  if (encoding !== 'UTF8') throw new Error(`PGlite's encoding is UTF8 and cannot be ${encoding}`);
  installed ??= installPglite();
  const { bundle, data } = await installed;
  const log: string[] = [];
  const isServed = worker && http === undefined;
  const extension = isServed ? withWorker(bundle, log) : withoutWorker(bundle);
  const db = await PGlite.create({ extensions: { pg_net: extension }, loadDataDir: data });
  let sessions = 0;
  return {
    log,
    isServed,
    async session() {
      sessions += 1;
      if (sessions > 1) throw new Error('PGlite has one session, and the test has it already');
      return {
        async query<R extends object>(text: string): Promise<R[]> {
          const results = await db.exec(text);
          return (results.at(-1)?.rows ?? []) as R[];
        },
        end: async () => {},
      };
    },
    async connect(target) {
      if (Object.keys(target).length > 0) throw new Error('PGlite has one database and one user');
      return openPglite(db, { applicationName });
    },
    drop: () => db.close(),
  };
}

const pgliteBackend: Backend = {
  name: 'PGlite',
  capabilities: {
    severalSessions: /PGlite has one session/,
    waitingInsideAStatement: /could only last for ever: this server has one session/,
    roleSettingsInSessions: /in the session pg_net\.ttl is ""/,
    alterSystem: true,
    reload: /pg_reload_conf\(\) returned false/,
    otherEncodings: /PGlite's encoding is UTF8/,
    preparedTransactions: /prepared transactions are disabled/,
  },
  open: async (options = {}) => openStage(await openPgliteDatabase(options), options),
};

/** Every PostgreSQL that is asked for (PGFETCH_TEST_MAJORS), and PGlite. */
export const backends: readonly Backend[] = [...availableMajors().map(pgBackend), pgliteBackend];

/** The newest PostgreSQL (unless majors are asked for) and PGlite: for what differs little from one to the next. */
export const newestBackends: readonly Backend[] = [...newestMajors().map(pgBackend), pgliteBackend];
