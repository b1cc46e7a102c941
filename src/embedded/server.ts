import { type ChildProcess, spawnSync } from 'node:child_process';
import { closeSync, existsSync, fstatSync, openSync, readFileSync, renameSync, statSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import pg from 'pg';
import type { Account } from './account.ts';
import { type ClusterFiles, cannotSpawn, readPostmaster, removeStarter, writeStarter } from './cluster.ts';
import { EmbeddedServerError, EmbeddedServerRunningError, errorText } from './errors.ts';
import { programPath } from './native.ts';
import { choosePort, portError } from './ports.ts';
import { ended, processIsPostgres, type StopMode, signal, spawnOwned, stopSignals, watch } from './processes.ts';

/** How long a server may take until it answers: crash recovery after heavy writing can take a while. */
const readyTimeoutMs = 120_000;
const readyPollMs = 15;
/** How long a shutdown may take before the next harsher one. Smart waits for clients as long as they like. */
const fastStopMs = 20_000;
const immediateStopMs = 10_000;
/** A port may be taken between looking and listening, a crashed server's last backends may still be leaving. */
const launchAttemptsMax = 20;
const leavingBackendsPollMs = 250;
const logBytesMax = 10 * 1024 * 1024;
const logTailLines = 15;

/** All that a start, and every restart, of one server needs. */
export type ServerPlan = {
  readonly files: ClusterFiles;
  readonly tree: string;
  readonly account: Account | undefined;
  readonly superuser: string;
  readonly durable: boolean;
  readonly settings: Readonly<Record<string, string>>;
};

/** One server process that answers. */
export type RunningServer = {
  readonly pid: number;
  readonly port: number;
  /** Resolves when the process is gone. */
  readonly ended: Promise<void>;
  hasEnded(): boolean;
  /** Tells it to stop and waits until it is gone; gets harsher where `fast` and `immediate` do not work. */
  stop(mode: StopMode): Promise<void>;
};

/** Where a server of ours answers. */
export function connectionString(port: number, superuser: string): string {
  return `postgres://${encodeURIComponent(superuser)}@127.0.0.1:${port}/postgres`;
}

/** Starts the server and waits until it answers; where any port will do, it takes another one if this one was taken meanwhile. */
export async function launch(plan: ServerPlan, port: number, anyPort: boolean): Promise<RunningServer> {
  // An old note would make this server look left behind while it starts.
  removeStarter(plan.files);
  for (let attempt = 1; ; attempt += 1) {
    const started = await launchOnce(plan, port);
    if ('server' in started) {
      writeStarter(plan.files);
      return started.server;
    }
    const failure = explainFailure(plan, port, started.log);
    if (failure.kind === 'final' || attempt === launchAttemptsMax) throw failure.error;
    if (failure.kind === 'wait') await sleep(leavingBackendsPollMs);
    if (failure.kind === 'port') {
      if (!anyPort) throw failure.error;
      port = await choosePort(0);
    }
  }
}

async function launchOnce(plan: ServerPlan, port: number): Promise<{ server: RunningServer } | { log: string }> {
  const program = programPath(plan.tree, 'postgres');
  const log = openLog(plan.files.logFile);
  const child = spawnOwned(program, serverArguments(plan, port), {
    account: plan.account,
    stdio: ['ignore', log.descriptor, log.descriptor],
    stopSignal: stopSignals.fast,
  });
  closeSync(log.descriptor);
  const { pid } = child;
  const gone = ended(child);
  if (pid === undefined) {
    const { error } = await gone;
    throw cannotSpawn(program, error ?? new Error('no process was made'));
  }
  const server = superviseServer(plan, child, pid, port, gone);
  try {
    if (await answers(plan, server)) return { server };
  } catch (error) {
    await server.stop('immediate');
    throw error;
  }
  return { log: readFrom(plan.files.logFile, log.offset) };
}

function serverArguments(plan: ServerPlan, port: number): string[] {
  const settings: Record<string, string> = {
    ...(plan.durable ? {} : { fsync: 'off', full_page_writes: 'off' }),
    ...plan.settings,
    // No socket file: paths have length limits and leftovers, and TCP works everywhere.
    unix_socket_directories: '',
    listen_addresses: '127.0.0.1',
    port: String(port),
  };
  return [
    '-D',
    plan.files.dataDirectory,
    ...Object.entries(settings).flatMap(([name, value]) => ['-c', `${name}=${value}`]),
  ];
}

function superviseServer(
  plan: ServerPlan,
  child: ChildProcess,
  pid: number,
  port: number,
  gone: Promise<unknown>,
): RunningServer {
  const endWatch = watch(pid, plan.account);
  let over = false;
  const serverEnded = gone.then(() => {
    over = true;
    endWatch();
  });
  const goneWithin = async (timeoutMs: number): Promise<boolean> => {
    const timer = new AbortController();
    const timeout = sleep(timeoutMs, false, { signal: timer.signal }).catch(() => false);
    const result = await Promise.race([serverEnded.then(() => true), timeout]);
    timer.abort();
    return result;
  };
  return {
    pid,
    port,
    ended: serverEnded,
    hasEnded: () => over,
    stop: async (mode) => {
      if (over) return;
      requestStop(plan, pid, mode);
      if (mode === 'smart') {
        await serverEnded;
        return;
      }
      if (mode === 'fast' && !(await goneWithin(fastStopMs))) requestStop(plan, pid, 'immediate');
      if (!(await goneWithin(immediateStopMs))) child.kill('SIGKILL');
      await serverEnded;
    },
  };
}

function requestStop(plan: ServerPlan, pid: number, mode: StopMode): void {
  if (process.platform === 'win32') {
    // Windows has no such signals; pg_ctl speaks the server's own substitute for them.
    spawnSync(programPath(plan.tree, 'pg_ctl'), ['stop', '-W', '-m', mode, '-D', plan.files.dataDirectory]);
    return;
  }
  signal(pid, stopSignals[mode]);
}

/** Stops a server that is not our child: one whose starter was killed. */
export async function stopLeftover(pid: number): Promise<void> {
  for (const [name, waitMs] of [
    ['SIGINT', fastStopMs],
    ['SIGQUIT', immediateStopMs],
    ['SIGKILL', immediateStopMs],
  ] as const) {
    try {
      signal(pid, name);
    } catch (error) {
      throw new EmbeddedServerError(
        `A server that an earlier pgfetch left behind (pid ${pid}) cannot be stopped: ${errorText(error)}. Stop it as the user that it runs as.`,
        { cause: error },
      );
    }
    const deadline = performance.now() + waitMs;
    while (performance.now() < deadline) {
      if (!processIsPostgres(pid)) return;
      await sleep(readyPollMs);
    }
  }
  throw new EmbeddedServerError(
    `A server that an earlier pgfetch left behind (pid ${pid}) does not stop. Stop it by hand.`,
  );
}

/** Waits until the server answers. False: its process ended instead. */
async function answers(plan: ServerPlan, server: RunningServer): Promise<boolean> {
  const deadline = performance.now() + readyTimeoutMs;
  while (!server.hasEnded()) {
    if (await answersNow(plan, server.port)) return true;
    if (performance.now() > deadline) {
      throw new EmbeddedServerError(
        `PostgreSQL did not answer on 127.0.0.1:${server.port} within ${readyTimeoutMs / 1000} s. Its log is ${plan.files.logFile}.`,
      );
    }
    await Promise.race([sleep(readyPollMs), server.ended]);
  }
  return false;
}

async function answersNow(plan: ServerPlan, port: number): Promise<boolean> {
  const client = new pg.Client({
    host: '127.0.0.1',
    port,
    user: plan.superuser,
    database: 'postgres',
    ssl: false,
    connectionTimeoutMillis: 5_000,
  });
  client.on('error', () => {});
  try {
    await client.connect();
    const result = await client.query<{ data_directory: string }>('SHOW data_directory');
    // Another server may have taken the port between our look and our start; then ours is about to end.
    return result.rows[0]?.data_directory === plan.files.dataDirectory;
  } catch (error) {
    // What the server did not say is the network's: nobody listens yet. 57P03: it is still starting up.
    if (!(error instanceof pg.DatabaseError) || error.code === '57P03') return false;
    throw new EmbeddedServerError(
      `The server of ${plan.files.dataDirectory} runs, but refuses ${connectionString(port, plan.superuser)}: ${errorText(error)}.`,
      { cause: error },
    );
  } finally {
    await client.end().catch(() => {});
  }
}

type LaunchFailure = { readonly kind: 'final' | 'wait' | 'port'; readonly error: EmbeddedServerError };

function explainFailure(plan: ServerPlan, port: number, log: string): LaunchFailure {
  const tail = log.trimEnd().split('\n').slice(-logTailLines).join('\n');
  const error = new EmbeddedServerError(
    `PostgreSQL did not start with the data in ${plan.files.dataDirectory}. The last lines of its log (${plan.files.logFile}):\n${tail}`,
  );
  if (log.includes('lock file "postmaster.pid" already exists')) {
    // Another process started it between our look and our start.
    const running = readPostmaster(plan.files);
    if (running === undefined || !processIsPostgres(running.pid)) return { kind: 'wait', error };
    const url = connectionString(running.port, plan.superuser);
    return {
      kind: 'final',
      error: new EmbeddedServerRunningError(plan.files.home, { ...running, connectionString: url }),
    };
  }
  if (log.includes('pre-existing shared memory block')) return { kind: 'wait', error };
  if (/could not bind|could not create any TCP\/IP sockets/.test(log)) {
    const taken = Object.assign(new Error('Address already in use'), { code: 'EADDRINUSE' });
    return { kind: 'port', error: portError(port, taken) };
  }
  return { kind: 'final', error };
}

/** Opens the log to append; one that has grown large is put aside first, so two of them are the most that is kept. */
function openLog(path: string): { descriptor: number; offset: number } {
  try {
    if (existsSync(path) && statSync(path).size > logBytesMax) renameSync(path, `${path}.old`);
    const descriptor = openSync(path, 'a', 0o600);
    return { descriptor, offset: fstatSync(descriptor).size };
  } catch (error) {
    throw new EmbeddedServerError(
      `The server's log ${path} cannot be written (${errorText(error)}). If it belongs to another user, remove it.`,
      { cause: error },
    );
  }
}

function readFrom(path: string, offset: number): string {
  return readFileSync(path).subarray(offset).toString('utf8');
}
