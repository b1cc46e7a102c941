import type { Command } from 'commander';
import type { Database } from '../postgres/database.ts';
import { PostgresError } from '../postgres/database.ts';
import type { Installation } from '../store/installation.ts';
import { readWorkerSessions, setPaused, type WorkerSession } from '../store/pause.ts';
import { describePause } from '../worker/explain.ts';
import { wholeNumber } from './arguments.ts';
import { withDatabase } from './connection.ts';
import { CliError } from './errors.ts';
import { requireReadable } from './installation.ts';
import { print, printable, printJson } from './output.ts';
import { untilStopSignal } from './signals.ts';

const defaultTimeoutS = 60;
const lookEveryMs = 100;
/** A worker that polls may have looked between our asking and our commit: it is asked again. */
const askEveryMs = 5_000;
const shownMax = 10;

type PauseOptions = { timeout: number; json?: boolean };

export function addPauseCommand(program: Command): void {
  program
    .command('pause')
    .description(
      'make every worker leave a database, and wait until they have, so that it can be dropped, copied or upgraded',
    )
    .option(
      '--timeout <seconds>',
      'how long to wait until the last worker has left',
      wholeNumber(1, 86_400),
      defaultTimeoutS,
    )
    .option('--json', 'print the report as JSON')
    .addHelpText(
      'after',
      `
The workers claim no more, finish what is in flight (for their --stop-timeout; they give back the rest), and end their
sessions. They look every 3 s, for a moment, whether they may go on; until then requests can be enqueued, and wait. A pause
is kept in the database: it outlasts restarts of the server and of the workers. For the schema's owner, or net_admin.

Examples:
  pgfetch pause -d postgres://localhost/app && dropdb app
  pgfetch pause && createdb --template app staging; pgfetch resume
`,
    )
    .action(async (options: PauseOptions, command: Command) => {
      await withDatabase(command, (db) => pause(db, options));
    });
}

export function addResumeCommand(program: Command): void {
  program
    .command('resume')
    .description('let the workers of a paused database go on')
    .option('--json', 'print the report as JSON')
    .addHelpText(
      'after',
      `
The workers look every 3 s. What was enqueued meanwhile is sent then.

Examples:
  pgfetch resume -d postgres://localhost/app
`,
    )
    .action(async (options: { json?: boolean }, command: Command) => {
      await withDatabase(command, (db) => resume(db, options));
    });
}

async function pause(db: Database, options: PauseOptions): Promise<void> {
  await setState(db, true);
  const stop = untilStopSignal();
  try {
    const left = await untilLeft(db, options.timeout * 1_000, stop.signal);
    const installation = await requireReadable(db);
    const database = JSON.stringify(installation.database);
    if (left.length > 0) {
      throw new CliError(
        `database ${database} is paused, but not every worker has left: ${shown(left)}. Those finish what is in flight, for their --stop-timeout at most: wait for them with another "pgfetch pause". One that does not answer any more: stop it, or select pg_terminate_backend(pid). To take the pause back: pgfetch resume`,
      );
    }
    if (options.json) {
      printJson({ database: installation.database, paused: pausedOf(installation), sessions: left });
      return;
    }
    print(`Database ${database} is ${pauseText(installation)}, and no worker is connected to it.`);
    print(
      'Requests can still be enqueued, and wait. Nothing of pgfetch is in the way of DROP DATABASE, CREATE DATABASE ...',
    );
    print('TEMPLATE, pg_upgrade or a migration now. Afterwards, or to take it back: pgfetch resume');
  } finally {
    stop.ignore();
  }
}

async function resume(db: Database, options: { json?: boolean }): Promise<void> {
  const before = await requireReadable(db);
  await setState(db, false);
  const wasPaused = pausedOf(before);
  if (options.json) {
    printJson({ database: before.database, wasPaused });
  } else if (wasPaused === null) {
    print(`Database ${JSON.stringify(before.database)} was not paused; nothing was changed.`);
  } else {
    print(
      `Database ${JSON.stringify(before.database)} was ${pauseText(before)}. Its workers go on within a few seconds.`,
    );
  }
}

async function setState(db: Database, paused: boolean): Promise<void> {
  const { database } = await requireReadable(db);
  try {
    await setPaused(db, paused);
  } catch (error) {
    if (!(error instanceof PostgresError) || error.code !== '42501') throw error;
    throw new CliError(
      `this role may not ${paused ? 'pause' : 'resume'} the workers of database ${JSON.stringify(database)} (${error.message}). Connect as the owner of the schema net, or as a role that was granted net_admin.`,
      { cause: error },
    );
  }
}

/** Which workers are still connected in the end; shows, on stderr, whom it waits for. */
async function untilLeft(db: Database, timeoutMs: number, stopped: Promise<string>): Promise<readonly WorkerSession[]> {
  const beganMs = performance.now();
  let askedMs = beganMs;
  let said = '';
  let isStopped = false;
  const signal = stopped.then(() => {
    isStopped = true;
  });
  for (;;) {
    const sessions = await readWorkerSessions(db, shownMax + 1);
    const now = performance.now();
    if (sessions.length === 0 || isStopped || now - beganMs >= timeoutMs) return sessions;
    if (now - askedMs >= askEveryMs) {
      await setPaused(db, true);
      askedMs = now;
    }
    const line = `Waiting for ${shown(sessions)}`;
    if (line !== said) process.stderr.write(`${line}\n`);
    said = line;
    await Promise.race([signal, new Promise((resolve) => setTimeout(resolve, lookEveryMs))]);
  }
}

function shown(sessions: readonly WorkerSession[]): string {
  const names = sessions
    .slice(0, shownMax)
    .map(({ name, pid }) => `${printable(name)}${pid === null ? ' (through a pooler)' : ` (server process ${pid})`}`);
  return `${names.join(', ')}${sessions.length > shownMax ? ', and more' : ''}`;
}

function pausedOf(installation: Installation): { since: Date; by: string | null } | null {
  return installation.kind === 'ready' ? installation.paused : null;
}

function pauseText(installation: Installation): string {
  const paused = pausedOf(installation);
  return paused === null ? 'paused' : printable(describePause(paused));
}
