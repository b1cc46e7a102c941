import { spawnSync } from 'node:child_process';
import { realpathSync } from 'node:fs';
import { resolve } from 'node:path';
import { serverAccount } from './account.ts';
import {
  type ClusterFiles,
  cannotSpawn,
  clusterFiles,
  createCluster,
  dataDirectoryOwner,
  prepareHome,
  readPostmaster,
  refuseOtherMajors,
  removeStalePostmaster,
  removeStarter,
  starterIsGone,
} from './cluster.ts';
import { EmbeddedServerError, EmbeddedServerRunningError } from './errors.ts';
import {
  installedNativeDirectory,
  prepareNativeTree,
  programPath,
  removeOtherTrees,
  writeExtensionFiles,
} from './native.ts';
import { choosePort } from './ports.ts';
import { processIsPostgres, type StopMode } from './processes.ts';
import { connectionString, launch, type RunningServer, type ServerPlan, stopLeftover } from './server.ts';

export { EmbeddedServerError, EmbeddedServerRunningError } from './errors.ts';

/** How to start a PostgreSQL server that belongs to this process. */
export type EmbeddedPostgresOptions = {
  /**
   * Where the cluster lives, e.g. `.pgfetch`; created if missing. The data is in `postgres-<major>` below it, the server's log in
   * `postgres-<major>.log`. Where root starts it in a place that the server's account cannot enter, a link `cluster` leads to
   * where it is instead (`/var/lib/pgfetch/…`).
   */
  directory: string;
  /** TCP port on 127.0.0.1. Default 0: any free one. A port that is taken is an {@link EmbeddedServerError}. */
  port?: number;
  /** The binaries: a directory with `bin`, `lib` and `share`. Default: the installed npm package's (PostgreSQL 18). */
  nativeDirectory?: string;
  /** The encoding of a new cluster. Default `UTF8`. The locale is `C`. An existing cluster keeps its own. */
  encoding?: string;
  /** File name → content, made visible to CREATE EXTENSION; written again when they changed. */
  extensionFiles?: Readonly<Record<string, string>>;
  /** Server settings, as `postgres -c name=value`; they win over ours, except the address and the port. */
  settings?: Readonly<Record<string, string>>;
  /**
   * Default true. False trades the data's safety for speed: what is committed survives a crash of the server, but not one of the
   * machine (fsync and full_page_writes are off). For tests.
   */
  durable?: boolean;
  /** The superuser of a new cluster, and who connects. Default `postgres`. */
  superuser?: string;
};

/** A PostgreSQL server that this process started. */
export type EmbeddedPostgres = {
  /** `postgres://postgres@127.0.0.1:PORT/postgres` */
  readonly connectionString: string;
  readonly port: number;
  /** The server's process id; another one after {@link restart}. */
  readonly pid: number;
  /** The cluster's data directory, symbolic links resolved. */
  readonly dataDirectory: string;
  /** What the server writes about itself. */
  readonly logFile: string;
  /** The major version: 18. */
  readonly major: number;
  /**
   * Stops the server; resolves when its process is gone. `smart` waits for clients to leave, `fast` (the default) disconnects them,
   * `immediate` is a crash. Safe to call twice; a second call may be more impatient. Fast and immediate are bounded: a server that
   * does not stop within 30 s is killed.
   */
  stop(mode?: StopMode): Promise<void>;
  /** Stops the server (default `fast`) if it runs, and starts it again: same port, same data. */
  restart(mode?: 'fast' | 'immediate'): Promise<void>;
  /** Resolves when the server has ended, by {@link stop} or by itself; a {@link restart} in between is no end. */
  readonly exited: Promise<void>;
};

/**
 * Starts a PostgreSQL server on 127.0.0.1, open without a password to the programs of this machine; creates the cluster if there is none.
 *
 * A second start of the same directory throws {@link EmbeddedServerRunningError}, which says where the running one answers. A server
 * whose starter is gone (killed, and its server with no chance to notice) is stopped and started anew.
 *
 * The server stops when this process exits or is killed. Signals are the caller's business: handle them and call `stop`.
 *
 * @throws {@link EmbeddedServerError} with what was wrong and what to do.
 */
export async function startEmbeddedPostgres(options: EmbeddedPostgresOptions): Promise<EmbeddedPostgres> {
  const { durable = true, encoding = 'UTF8', superuser = 'postgres', port = 0 } = options;
  const directory = resolve(options.directory);
  const account = serverAccount(dataDirectoryOwner(directory));
  const home = realpathSync(prepareHome(directory, account));
  const tree = prepareNativeTree(resolve(options.nativeDirectory ?? installedNativeDirectory()), home);
  const files = clusterFiles(home, majorOf(tree));
  refuseOtherMajors(files);
  await refuseSecondServer(files, superuser);
  removeOtherTrees(home, tree);
  writeExtensionFiles(tree, options.extensionFiles ?? {});
  const firstPort = await choosePort(port);
  await createCluster(files, { tree, account, encoding, superuser, durable });
  const plan: ServerPlan = { files, tree, account, superuser, durable, settings: options.settings ?? {} };
  const server = await launch(plan, firstPort, port === 0);
  return new OwnedPostgres(plan, server);
}

/** Throws if a server runs on this data directory; clears away one that was left behind. */
async function refuseSecondServer(files: ClusterFiles, superuser: string): Promise<void> {
  const postmaster = readPostmaster(files);
  if (postmaster === undefined) return;
  if (!processIsPostgres(postmaster.pid)) {
    removeStalePostmaster(files);
    return;
  }
  if (!starterIsGone(files)) {
    throw new EmbeddedServerRunningError(files.home, {
      ...postmaster,
      connectionString: connectionString(postmaster.port, superuser),
    });
  }
  await stopLeftover(postmaster.pid);
}

/** Asks the binaries themselves; this also shows early whether they run on this system at all. */
function majorOf(tree: string): number {
  const program = programPath(tree, 'postgres');
  const answer = spawnSync(program, ['--version'], { encoding: 'utf8', env: { LC_ALL: 'C' }, cwd: '/' });
  if (answer.error !== undefined) throw cannotSpawn(program, answer.error);
  const major = /\(PostgreSQL\) (\d+)/.exec(answer.stdout)?.[1];
  if (major === undefined) {
    throw new EmbeddedServerError(
      `${program} does not run on this system. It said: ${answer.stderr.trim() || answer.stdout.trim() || 'nothing'}`,
    );
  }
  return Number(major);
}

class OwnedPostgres implements EmbeddedPostgres {
  readonly port: number;
  readonly dataDirectory: string;
  readonly logFile: string;
  readonly major: number;
  readonly connectionString: string;
  readonly #plan: ServerPlan;
  #server: RunningServer;
  #restarting: Promise<void> | undefined;
  #exited: Promise<void>;
  #announceExit: () => void = () => {};

  constructor(plan: ServerPlan, server: RunningServer) {
    this.#plan = plan;
    this.#server = server;
    this.port = server.port;
    this.dataDirectory = plan.files.dataDirectory;
    this.logFile = plan.files.logFile;
    this.major = plan.files.major;
    this.connectionString = connectionString(server.port, plan.superuser);
    this.#exited = this.#live(server);
  }

  get pid(): number {
    return this.#server.pid;
  }

  get exited(): Promise<void> {
    return this.#exited;
  }

  async stop(mode: StopMode = 'fast'): Promise<void> {
    // A restart under way would start what was just stopped.
    await this.#restarting?.catch(() => {});
    await this.#server.stop(mode);
    await this.#exited;
  }

  restart(mode: 'fast' | 'immediate' = 'fast'): Promise<void> {
    this.#restarting ??= this.#restart(mode).finally(() => {
      this.#restarting = undefined;
    });
    return this.#restarting;
  }

  async #restart(mode: 'fast' | 'immediate'): Promise<void> {
    const alreadyEnded = this.#server.hasEnded();
    await this.#server.stop(mode);
    try {
      const server = await launch(this.#plan, this.port, false);
      this.#server = server;
      if (alreadyEnded) this.#exited = this.#live(server);
      else void this.#announceEndOf(server);
    } catch (error) {
      this.#announceExit();
      throw error;
    }
  }

  #live(server: RunningServer): Promise<void> {
    const exited = new Promise<void>((resolveExited) => {
      this.#announceExit = resolveExited;
    });
    void this.#announceEndOf(server);
    return exited;
  }

  async #announceEndOf(server: RunningServer): Promise<void> {
    await server.ended;
    if (this.#restarting !== undefined && this.#server === server) return;
    removeStarter(this.#plan.files);
    this.#announceExit();
  }
}
