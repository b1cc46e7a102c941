import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { readFileSync } from 'node:fs';
import type { Account } from './account.ts';
import { errorCode } from './errors.ts';

/** How PostgreSQL shuts down: waits for clients, disconnects them, or leaves crash recovery to the next start. */
export type StopMode = 'smart' | 'fast' | 'immediate';

/** The signals PostgreSQL documents for the three ways of shutting down. */
export const stopSignals: Readonly<Record<StopMode, NodeJS.Signals>> = Object.freeze({
  smart: 'SIGTERM',
  fast: 'SIGINT',
  immediate: 'SIGQUIT',
});

/** Whether a process with this id exists, ours or another user's. */
export function processIsAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return errorCode(error) === 'EPERM';
  }
}

/**
 * Whether the process is a live PostgreSQL, as far as can be told. Process ids are reused, in containers at once, and one that
 * ended but was never reaped (a container without an init) still counts as alive for `kill`.
 */
export function processIsPostgres(pid: number): boolean {
  if (!processIsAlive(pid)) return false;
  if (process.platform === 'win32') return true;
  try {
    const { name, state } = process.platform === 'linux' ? fromProc(pid) : fromPs(pid);
    return name === 'postgres' && state !== 'Z';
  } catch {
    // It ended meanwhile, or it cannot be looked at: then it counts as PostgreSQL, because that is the safe side.
    return processIsAlive(pid);
  }
}

/** `/proc/<pid>/stat` is `pid (name) state …`; slim containers have no ps. */
function fromProc(pid: number): { name: string | undefined; state: string | undefined } {
  const [, name, state] = /^\d+ \((.*)\) (\S)/s.exec(readFileSync(`/proc/${pid}/stat`, 'utf8')) ?? [];
  return { name, state };
}

function fromPs(pid: number): { name: string | undefined; state: string | undefined } {
  const line = execFileSync('ps', ['-o', 'state=,ucomm=', '-p', String(pid)], { encoding: 'utf8' });
  const [, state, name] = /^\s*(\S)\S*\s+(\S+)/.exec(line) ?? [];
  return { name, state };
}

/** Sends a signal; a process that is already gone is no error. */
export function signal(pid: number, name: NodeJS.Signals): void {
  try {
    process.kill(pid, name);
  } catch (error) {
    if (errorCode(error) !== 'ESRCH') throw error;
  }
}

const children = new Set<ChildProcess>();

/**
 * Starts a program in a process group of its own: a terminal's Ctrl-C reaches us alone, and we decide how the server
 * stops. It is told to stop when this process exits, however that happens short of a crash (for which see {@link watch}).
 */
export function spawnOwned(
  program: string,
  programArguments: readonly string[],
  options: { account: Account | undefined; stdio: ['ignore', number, number]; stopSignal: NodeJS.Signals },
): ChildProcess {
  const child = spawn(program, [...programArguments], {
    cwd: '/',
    env: serverEnvironment(),
    stdio: options.stdio,
    detached: true,
    windowsHide: true,
    ...identity(options.account),
  });
  if (children.size === 0) process.on('exit', stopAll);
  children.add(child);
  const forget = (): void => {
    children.delete(child);
    if (children.size === 0) process.off('exit', stopAll);
  };
  child.once('exit', forget);
  child.once('error', forget);
  childStopSignals.set(child, options.stopSignal);
  return child;
}

const childStopSignals = new WeakMap<ChildProcess, NodeJS.Signals>();

function stopAll(): void {
  for (const child of children) child.kill(childStopSignals.get(child) ?? 'SIGTERM');
}

/**
 * Stops `pid` when this process dies without a chance to do it itself (kill -9, out of memory): a shell waits for the end of
 * a pipe that only we hold open. Best effort: without a shell (Windows, distroless) the next start cleans up instead.
 * Returns what ends the watch; call it when the process is gone, since its id may then be another's.
 */
export function watch(pid: number, account: Account | undefined): () => void {
  if (process.platform === 'win32') return () => {};
  const watcher = spawn('/bin/sh', ['-c', 'while read -r _; do :; done; kill -INT "$0"', String(pid)], {
    cwd: '/',
    env: {},
    stdio: ['pipe', 'ignore', 'ignore'],
    detached: true,
    ...identity(account),
  });
  watcher.on('error', () => {});
  watcher.stdin.on('error', () => {});
  watcher.unref();
  // A pipe's handle keeps the event loop alive as the process's does, and its type does not tell that it can be told not to.
  if ('unref' in watcher.stdin && typeof watcher.stdin.unref === 'function') watcher.stdin.unref();
  return () => {
    watcher.kill('SIGKILL');
  };
}

/** What a program that ran to its end left: its exit status (null: killed by a signal, or never started). */
export function ended(child: ChildProcess): Promise<{ status: number | null; error: Error | undefined }> {
  return new Promise((resolve) => {
    child.once('exit', (status) => resolve({ status, error: undefined }));
    child.once('error', (error) => resolve({ status: null, error }));
  });
}

/** Our environment without what would steer PostgreSQL (PGDATA, PGPORT, PGOPTIONS), and with messages in English. */
function serverEnvironment(): NodeJS.ProcessEnv {
  const kept = Object.entries(process.env).filter(([name]) => !name.startsWith('PG'));
  return { ...Object.fromEntries(kept), LC_ALL: 'C' };
}

function identity(account: Account | undefined): { uid?: number; gid?: number } {
  return account === undefined ? {} : { uid: account.uid, gid: account.gid };
}
