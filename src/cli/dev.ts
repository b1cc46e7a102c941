import { relative, resolve } from 'node:path';
import { type Command, Option } from 'commander';
import { type EchoServer, startEchoServer } from '../embedded/echo.ts';
import { EmbeddedServerRunningError } from '../embedded/errors.ts';
import { startEmbeddedPostgres } from '../embedded/pg-net-server.ts';
import { startEmbeddedPglite } from '../embedded/pglite.ts';
import type { Database } from '../postgres/database.ts';
import { connectPg } from '../postgres/pg.ts';
import { inspectInstallation } from '../store/installation.ts';
import { createWorker } from '../worker/create.ts';
import { explain } from '../worker/explain.ts';
import type { Worker } from '../worker/worker.ts';
import { collect, port } from './arguments.ts';
import { defaultEchoPort } from './echo.ts';
import { findEcho, leaveEchoNote, removeEchoNote } from './echo-note.ts';
import { CliError, UsageError, withPortOption } from './errors.ts';
import { showFirstRequest } from './first-request.ts';
import { createLog } from './log.ts';
import { print } from './output.ts';
import { proxiesBeyondLoopback } from './proxy-environment.ts';
import { logSecretProblems, readSecrets, type SecretFlags } from './secrets.ts';
import { untilStopSignal } from './signals.ts';

/** Like the echo server's: claimed by no well-known service, and never given to an outgoing connection. */
const defaultPort = 26_432;
const connectTimeoutMs = 10_000;
/** The one session of a socket-served PGlite hears no notifications; looking costs a developer's machine nothing. */
const pgliteLookEveryMs = 50;

type Engine = 'postgres' | 'pglite';
type DevOptions = {
  directory: string;
  engine: Engine;
  port: number;
  echoPort: number;
  firstRequest?: boolean;
} & SecretFlags;

export function addDevCommand(program: Command): void {
  program
    .command('dev')
    .description('start a PostgreSQL 18 server, a worker and an echo server, to try it out; Ctrl-C stops everything')
    .option('--directory <path>', 'where the data is kept', '.pgfetch')
    .addOption(
      new Option('--engine <name>', 'postgres: a real server from npm; pglite: in this process')
        .choices(['postgres', 'pglite'])
        .default('postgres'),
    )
    .option('-p, --port <port>', "the database's port on 127.0.0.1; 0: any free one", port, defaultPort)
    .option('--echo-port <port>', "the echo server's port on 127.0.0.1; 0: any free one", port, defaultEchoPort)
    .option('--secret <name=hosts@roles>', 'a secret, where it may be sent and for whom; repeatable', collect)
    .option('--secrets-dir <directory>', 'where the values of secrets are, each in a file named as it is')
    .option('--first-request', 'send a first request, and show how')
    .configureHelp({ showGlobalOptions: false })
    .addHelpText(
      'after',
      `
The extension pg_net is created in the database "postgres". Requests may reach this machine (loopback) and the public
internet. The data stays in the directory; a second start of the same directory says where the running server is.

Examples:
  pgfetch dev
  pgfetch dev --first-request
  pgfetch dev --port 0 --echo-port 0          beside another one, on any free ports
  pgfetch dev --engine pglite                 needs: npm install @electric-sql/pglite @electric-sql/pglite-socket
`,
    )
    .action(async (options: DevOptions, command: Command) => {
      if (command.optsWithGlobals<{ databaseUrl?: readonly string[] }>().databaseUrl !== undefined) {
        throw new UsageError('dev starts a server of its own. To serve the database of --database-url: pgfetch worker');
      }
      await dev(options);
    });
}

async function dev(options: DevOptions): Promise<void> {
  // What is wrong with them is said before anything is started.
  const secrets = readSecrets(options);
  const stop = untilStopSignal();
  let server: DevServer;
  try {
    server = await startServer(options);
  } catch (error) {
    if (!(error instanceof EmbeddedServerRunningError)) throw withPortOption(error, '--port');
    stop.ignore();
    print(`Already running in ${shownPath(options.directory)} (pid ${error.pid}); nothing was started.\n`);
    print(`  Database  ${error.connectionString}`);
    const url = await findEcho(options.directory);
    if (url !== undefined) print(`  Echo      ${url}`);
    return;
  }
  let echo: EchoServer | undefined;
  let worker: Worker | undefined;
  try {
    echo = await startEchoServer({ port: options.echoPort }).catch((error: unknown) => {
      throw withPortOption(error, '--echo-port');
    });
    const db = await connectPg({
      connectionString: server.connectionString,
      applicationName: 'pgfetch dev',
      connectTimeoutMs,
    });
    try {
      await createExtension(db);
      await createCallbackLogin(db);
      worker = await makeWorker(server, options, secrets);
      if ((await Promise.race([worker.start(), stop.signal])) !== undefined) return;
      leaveEchoNote(options.directory, localhost(echo));
      showRunning(options, server, echo);
      await showFirstRequest(
        db,
        { database: server.connectionString, echo: localhost(echo) },
        options.firstRequest === true,
      );
    } finally {
      await db.close();
    }
    print('\nCtrl-C stops everything; the data is kept.');
    const end = await Promise.race([stop.signal, server.exited]);
    if (end === 'exited') {
      throw new CliError(`the PostgreSQL server has ended by itself; its log: ${shownPath(server.logFile ?? '')}`);
    }
    print('\nStopping ...');
  } finally {
    await worker?.stop();
    if (echo !== undefined) removeEchoNote(options.directory);
    await echo?.close();
    await server.stop();
    stop.ignore();
  }
}

type DevServer = {
  readonly connectionString: string;
  readonly exited: Promise<'exited'>;
  /** PGlite has none, and does not end by itself. */
  readonly logFile?: string;
  stop(): Promise<void>;
};

async function startServer(options: DevOptions): Promise<DevServer> {
  const { directory } = options;
  if (options.engine === 'pglite') {
    const server = await startEmbeddedPglite({ directory, port: options.port });
    return { connectionString: server.connectionString, exited: new Promise(() => {}), stop: () => server.stop() };
  }
  const server = await startEmbeddedPostgres({ directory, port: options.port });
  return {
    connectionString: server.connectionString,
    logFile: server.logFile,
    exited: server.exited.then(() => 'exited' as const),
    stop: () => server.stop(),
  };
}

async function createExtension(db: Database): Promise<void> {
  const before = await inspectInstallation(db);
  if (before.kind === 'missing') await db.execute('create extension pg_net');
  const installation = before.kind === 'missing' ? await inspectInstallation(db) : before;
  if (installation.kind !== 'ready') throw new CliError(explain(installation));
}

/** Callbacks just work here. Whoever reaches this server is a superuser anyway. */
async function createCallbackLogin(db: Database): Promise<void> {
  await db.execute(`
    do $$
    begin
      if not exists (select from pg_catalog.pg_roles where rolname = 'pgfetch_callbacks') then
        create role pgfetch_callbacks login in role net_callback;
      end if;
    end
    $$`);
}

async function makeWorker(
  server: DevServer,
  options: DevOptions,
  secrets: ReturnType<typeof readSecrets>,
): Promise<Worker> {
  const log = createLog(undefined, 'warn');
  const worker = createWorker({
    connectionString: server.connectionString,
    callbackDatabaseUrl: asCallbackLogin(server.connectionString),
    allow: ['loopback'],
    proxy: proxiesBeyondLoopback(),
    log,
    ...secrets,
    ...(options.engine === 'pglite' ? { prepare: false, pollEveryMs: pgliteLookEveryMs } : {}),
  });
  await logSecretProblems(options, log);
  return worker;
}

function asCallbackLogin(connectionString: string): string {
  const url = new URL(connectionString);
  url.username = 'pgfetch_callbacks';
  return url.href;
}

function showRunning(options: DevOptions, server: DevServer, echo: EchoServer): void {
  const engine = options.engine === 'pglite' ? 'PGlite' : 'PostgreSQL 18';
  print(`pgfetch is running: ${engine} with the extension pg_net, a worker, and an echo server.\n`);
  print(`  Database  ${server.connectionString}`);
  print(`  Echo      ${localhost(echo)}`);
  print(`  Data      ${shownPath(options.directory)}`);
  print('  Requests may reach this machine (--allow loopback) and the public internet, and no other private network.');
}

function localhost(echo: EchoServer): string {
  return `http://localhost:${echo.port}`;
}

function shownPath(path: string): string {
  const short = relative(process.cwd(), resolve(path));
  return short === '' || short.startsWith('..') ? resolve(path) : short;
}
