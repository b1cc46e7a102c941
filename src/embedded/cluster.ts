import { createHash, randomBytes } from 'node:crypto';
import {
  accessSync,
  chmodSync,
  chownSync,
  closeSync,
  constants,
  existsSync,
  lstatSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { basename, join } from 'node:path';
import { type Account, canEnter } from './account.ts';
import { EmbeddedServerError, errorText } from './errors.ts';
import { programPath } from './native.ts';
import { ended, processIsAlive, spawnOwned } from './processes.ts';

/** Where root's clusters live whose own directory the server's account cannot enter (`/root/app/.pgfetch`). */
const refugeDirectory = '/var/lib/pgfetch';

/** A cluster's files: all below `home`. */
export type ClusterFiles = {
  readonly home: string;
  readonly major: number;
  readonly dataDirectory: string;
  readonly logFile: string;
  /** Who started the running server, so that the next start can tell one in use from one left behind. */
  readonly starterFile: string;
};

/** What a running server says about itself in `postmaster.pid`. */
export type Postmaster = { readonly pid: number; readonly port: number };

/** Names the files of a cluster of that major version. */
export function clusterFiles(home: string, major: number): ClusterFiles {
  return {
    home,
    major,
    dataDirectory: join(home, `postgres-${major}`),
    logFile: join(home, `postgres-${major}.log`),
    starterFile: join(home, `postgres-${major}.starter.json`),
  };
}

/**
 * Creates `directory` where it is missing and returns where the cluster really lives: there, or, where the server's account cannot
 * enter it, in a directory below /var/lib/pgfetch to which a link `cluster` in it leads.
 */
export function prepareHome(directory: string, account: Account | undefined): string {
  const created = makeDirectory(directory);
  if (existsSync(join(directory, 'PG_VERSION'))) {
    throw new EmbeddedServerError(
      `${directory} is itself a PostgreSQL data directory. Name another directory: pgfetch makes its cluster inside it.`,
    );
  }
  if (account === undefined) return directory;
  if (created) chmodSync(directory, 0o755);
  if (canEnter(directory, account)) return directory;

  const key = createHash('sha256').update(directory).digest('hex').slice(0, 12);
  const refuge = join(refugeDirectory, `${basename(directory).replace(/^\.+/, '')}-${key}`);
  for (const path of [refugeDirectory, refuge]) if (makeDirectory(path)) chmodSync(path, 0o755);
  if (!canEnter(refuge, account)) {
    throw new EmbeddedServerError(
      `PostgreSQL cannot run as root, and the user "${account.name}" can enter neither ${directory} nor ${refuge}. ` +
        `Choose a directory that "${account.name}" can enter, or run pgfetch as an ordinary user.`,
    );
  }
  const link = join(directory, 'cluster');
  if (!isLinkTo(link, refuge)) {
    rmSync(link, { force: true });
    symlinkSync(refuge, link);
  }
  return refuge;
}

/** Refuses a directory that holds another major version's cluster: a new empty one beside it would look like lost data. */
export function refuseOtherMajors(files: ClusterFiles): void {
  for (const entry of readdirSync(files.home)) {
    const other = /^postgres-(\d+)$/.exec(entry)?.[1];
    if (other !== undefined && Number(other) !== files.major) throw otherMajor(files, other);
  }
  if (!existsSync(files.dataDirectory)) return;
  let version: string;
  try {
    version = readFileSync(join(files.dataDirectory, 'PG_VERSION'), 'utf8').trim();
  } catch (error) {
    throw new EmbeddedServerError(
      `The data directory ${files.dataDirectory} cannot be read (${errorText(error)}). If it belongs to another user, run ` +
        'pgfetch as that user; if it is damaged and its data not needed, remove it.',
      { cause: error },
    );
  }
  if (version !== String(files.major)) throw otherMajor(files, version);
}

function otherMajor(files: ClusterFiles, other: string): EmbeddedServerError {
  return new EmbeddedServerError(
    `${files.home} holds a cluster of PostgreSQL ${other}, and the installed binaries are PostgreSQL ${files.major}, which ` +
      'cannot open it. Choose another directory, remove this one if its data is not needed, or install the binaries of ' +
      `version ${other} and name them in nativeDirectory.`,
  );
}

/** Options of a cluster that are fixed when it is created. */
export type ClusterCreation = {
  readonly tree: string;
  readonly account: Account | undefined;
  readonly encoding: string;
  readonly superuser: string;
  readonly durable: boolean;
};

/**
 * Runs initdb, unless there is a cluster already. It appears by one rename, so a killed initdb leaves no half of one, and of two at
 * once one wins.
 */
export async function createCluster(files: ClusterFiles, creation: ClusterCreation): Promise<void> {
  removeAbandonedStaging(files);
  if (existsSync(files.dataDirectory)) return;
  const staging = `${files.dataDirectory}.${process.pid}-${randomBytes(4).toString('hex')}.tmp`;
  const log = `${staging}.log`;
  try {
    makeDirectory(staging);
    chmodSync(staging, 0o700);
    if (creation.account !== undefined) chownSync(staging, creation.account.uid, creation.account.gid);
    await runInitdb(staging, log, creation);
    writeAuthentication(staging);
    renameSync(staging, files.dataDirectory);
  } catch (error) {
    // Another process was faster: use its cluster.
    if (!existsSync(files.dataDirectory)) throw error;
  } finally {
    rmSync(staging, { recursive: true, force: true });
    rmSync(log, { force: true });
  }
}

async function runInitdb(dataDirectory: string, log: string, creation: ClusterCreation): Promise<void> {
  const descriptor = openSync(log, 'w');
  try {
    const child = spawnOwned(
      programPath(creation.tree, 'initdb'),
      [
        `--pgdata=${dataDirectory}`,
        `--username=${creation.superuser}`,
        '--auth=trust',
        `--encoding=${creation.encoding}`,
        // The C locale is the one that every system has and that every encoding works with.
        '--locale=C',
        ...(creation.durable ? [] : ['--no-sync']),
      ],
      { account: creation.account, stdio: ['ignore', descriptor, descriptor], stopSignal: 'SIGTERM' },
    );
    const { status, error } = await ended(child);
    if (error !== undefined) throw cannotSpawn(programPath(creation.tree, 'initdb'), error);
    if (status !== 0) {
      const said = readFileSync(log, 'utf8').trim();
      const hint = said.includes('user does not exist')
        ? '\nPostgreSQL needs a user with a name: run as one that the system knows (in a container: one in /etc/passwd).'
        : '';
      throw new EmbeddedServerError(`initdb could not create a cluster in ${dataDirectory}. It said:\n${said}${hint}`);
    }
  } finally {
    closeSync(descriptor);
  }
}

/** Explains why a program of the tree could not even be started. */
export function cannotSpawn(program: string, error: Error): EmbeddedServerError {
  const hint = existsSync(program)
    ? 'The file is there, so the system cannot run it: it may be for another platform, or need glibc where there is musl ' +
      '(Alpine), or lie on a file system mounted noexec.'
    : 'The file is missing: install pgfetch again.';
  return new EmbeddedServerError(`${program} cannot be started (${error.message}). ${hint}`, { cause: error });
}

/** Nobody but programs on this machine, over TCP on 127.0.0.1, where anybody is trusted. */
function writeAuthentication(dataDirectory: string): void {
  // The file exists and keeps its owner: only its content changes.
  writeFileSync(
    join(dataDirectory, 'pg_hba.conf'),
    [
      '# Written by pgfetch: a development server, open to every program on this machine and to nothing else.',
      '# TYPE  DATABASE     USER  ADDRESS       METHOD',
      'host    all          all   127.0.0.1/32  trust',
      'host    replication  all   127.0.0.1/32  trust',
      '',
    ].join('\n'),
  );
}

/** Reads `postmaster.pid`: line 1 is the process id, line 4 the port. Undefined where there is none, or half of one. */
export function readPostmaster(files: ClusterFiles): Postmaster | undefined {
  let lines: string[];
  try {
    lines = readFileSync(join(files.dataDirectory, 'postmaster.pid'), 'utf8').split('\n');
  } catch {
    return undefined;
  }
  const pid = Number(lines[0]);
  const port = Number(lines[3]);
  return Number.isInteger(pid) && pid > 0 && Number.isInteger(port) ? { pid, port } : undefined;
}

/** Removes a `postmaster.pid` whose process is gone. PostgreSQL does so too, unless the process id has been reused. */
export function removeStalePostmaster(files: ClusterFiles): void {
  rmSync(join(files.dataDirectory, 'postmaster.pid'), { force: true });
}

/** Notes that this process runs the server. */
export function writeStarter(files: ClusterFiles): void {
  writeFileSync(files.starterFile, `${JSON.stringify({ pid: process.pid })}\n`);
}

/** Forgets who runs the server. */
export function removeStarter(files: ClusterFiles): void {
  rmSync(files.starterFile, { force: true });
}

/** Whether the server was started by a pgfetch process that is gone. A server somebody else started is never "left behind". */
export function starterIsGone(files: ClusterFiles): boolean {
  try {
    const starter: unknown = JSON.parse(readFileSync(files.starterFile, 'utf8'));
    if (typeof starter !== 'object' || starter === null || !('pid' in starter)) return false;
    return typeof starter.pid === 'number' && !processIsAlive(starter.pid);
  } catch {
    return false;
  }
}

function removeAbandonedStaging(files: ClusterFiles): void {
  for (const entry of readdirSync(files.home)) {
    const creator = /^postgres-\d+\.(\d+)-[0-9a-f]+\.tmp(\.log)?$/.exec(entry)?.[1];
    if (creator === undefined || processIsAlive(Number(creator))) continue;
    rmSync(join(files.home, entry), { recursive: true, force: true });
  }
}

/** Creates a directory and checks that we can write there. Returns whether it was missing. */
function makeDirectory(path: string): boolean {
  try {
    const missing = !existsSync(path);
    mkdirSync(path, { recursive: true });
    accessSync(path, constants.R_OK | constants.W_OK | constants.X_OK);
    return missing;
  } catch (error) {
    throw new EmbeddedServerError(
      `The directory ${path} cannot be used (${errorText(error)}). Choose one that you can write to, or change its permissions.`,
      { cause: error },
    );
  }
}

function isLinkTo(path: string, target: string): boolean {
  try {
    return lstatSync(path).isSymbolicLink() && readlinkSync(path) === target;
  } catch {
    return false;
  }
}

/** The user id that an existing data directory in `directory` belongs to: the server keeps running as that user. */
export function dataDirectoryOwner(directory: string): number | undefined {
  try {
    const cluster = readdirSync(directory).find((entry) => /^postgres-\d+$/.test(entry));
    return cluster === undefined ? undefined : statSync(join(directory, cluster)).uid;
  } catch {
    return undefined;
  }
}
