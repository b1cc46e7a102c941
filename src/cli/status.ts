import type { Command } from 'commander';
import type { Database } from '../postgres/database.ts';
import type { Installation } from '../store/installation.ts';
import { readStatus, type Status } from '../store/status.ts';
import { describePause, explain } from '../worker/explain.ts';
import { wholeNumber } from './arguments.ts';
import { withDatabase } from './connection.ts';
import { requireReadable } from './installation.ts';
import { duration, print, printable, printJson, table } from './output.ts';
import { redactUrl, redactUrls } from './redact.ts';
import { untilStopSignal } from './signals.ts';

const defaultIntervalMs = 2_000;

type StatusCommandOptions = { watch?: boolean; interval: number; json?: boolean };

export function addStatusCommand(program: Command): void {
  program
    .command('status')
    .description('show the queue, the workers, the rates and the last errors of a database')
    .option('-w, --watch', 'show it again and again, until Ctrl-C')
    .option('--interval <ms>', 'how often with --watch', wholeNumber(100, 3_600_000), defaultIntervalMs)
    .option('--json', 'print JSON; with --watch, one line each time')
    .addHelpText(
      'after',
      `
It looks at the 100,000 oldest requests and the 100,000 latest responses at most, so it is cheap on any queue; of a longer
one it shows the server's estimate. It shows no headers, bodies, passwords or query values.

Examples:
  pgfetch status
  pgfetch status --watch
  pgfetch status --json | jq .queue.waiting
`,
    )
    .action(async (options: StatusCommandOptions, command: Command) => {
      await withDatabase(command, async (db) => {
        if (options.watch) await watch(db, options);
        else show(await look(db), options);
      });
    });
}

type Look = { readonly installation: Installation; readonly status: Status; readonly at: Date };

async function look(db: Database): Promise<Look> {
  const installation = await requireReadable(db);
  return { installation, status: await readStatus(db), at: new Date() };
}

async function watch(db: Database, options: StatusCommandOptions): Promise<void> {
  const stop = untilStopSignal();
  let stopped = false;
  const signal = stop.signal.then(() => {
    stopped = true;
  });
  while (!stopped) {
    const seen = await look(db);
    if (process.stdout.isTTY && !options.json) process.stdout.write('\x1b[H\x1b[2J');
    show(seen, options);
    await new Promise<void>((resolve) => {
      const timer = setTimeout(resolve, options.interval);
      void signal.then(() => {
        clearTimeout(timer);
        resolve();
      });
    });
  }
  stop.ignore();
}

function show(seen: Look, options: StatusCommandOptions): void {
  if (options.json) printJson(statusJson(seen), options.watch === true ? 0 : 2);
  else print(statusText(seen));
}

function statusJson({ installation, status, at }: Look): object {
  const { oldest } = status.queue;
  return {
    at,
    database: installation.database,
    state: installation.kind,
    paused: installation.kind === 'ready' ? installation.paused : null,
    queue: { ...status.queue, oldest: oldest === null ? null : { ...oldest, url: redactUrl(oldest.url) } },
    workers: status.workers,
    responses: status.responses,
    failures: status.failures,
    lastErrors: status.lastErrors.map((error) => ({ ...error, message: redactUrls(error.message) })),
  };
}

function statusText({ installation, status, at }: Look): string {
  const sections = [
    `Database ${printable(installation.database)}, ${at.toISOString().slice(0, 19).replace('T', ' ')} UTC`,
    stateText(installation),
    queueText(status),
    workersText(installation, status),
    responsesText(status),
    errorsText(status, at),
  ];
  return sections.filter((section) => section !== undefined).join('\n\n');
}

function stateText(installation: Installation): string | undefined {
  if (installation.kind !== 'ready') return `! ${explain(installation)}`;
  const { paused } = installation;
  if (paused === null) return undefined;
  return `! The workers are ${printable(describePause(paused))}: requests wait. To let them go on: pgfetch resume`;
}

function queueText({ queue }: Status): string {
  const about = queue.isEstimate ? 'about ' : '';
  const orMore = queue.isEstimate ? ' or more' : '';
  const cameBack = queue.cameBack === 0 ? '' : `, ${queue.cameBack}${orMore} of them came back or fell due`;
  const lines = [`Queue: ${about}${queue.waiting} waiting${cameBack}, ${queue.inFlight} in flight`];
  if (queue.later > 0) lines.push(`  ${about}${queue.later} due later: scheduled, or to be tried again`);
  if (queue.blocking > 0) {
    lines.push(`  ${queue.blocking}${orMore} failed and hold up their ordering key: redeliver or cancel them`);
  }
  if (queue.oldest !== null) {
    const { id, method, url, ageMs } = queue.oldest;
    const age = ageMs === null ? '' : ` for ${duration(ageMs)}`;
    lines.push(`  oldest waits${age}: request ${id}, ${printable(`${method} ${redactUrl(url)}`)}`);
  }
  if (queue.isEstimate) lines.push('  (an estimate: the queue is longer than the 100,000 requests that were counted)');
  return lines.join('\n');
}

function workersText(installation: Installation, { workers }: Status): string {
  if (workers.length === 0) {
    const isPaused = installation.kind === 'ready' && installation.paused !== null;
    return isPaused
      ? 'Workers: none is connected, because of the pause'
      : 'Workers: none. Requests wait until one runs: pgfetch worker';
  }
  const rows = workers.map(({ id, name, version, role, isAlive, leaseMs, started }) => [
    `  ${isAlive ? '✓ alive' : '✗ gone'}`,
    String(id),
    printable(name),
    printable(version),
    `role ${printable(role ?? '(dropped)')}`,
    leaseMs > 0 ? `lease ${duration(leaseMs)}` : 'idle',
    `since ${started.toISOString().slice(0, 19).replace('T', ' ')}`,
  ]);
  return `Workers:\n${table(rows)}`;
}

function responsesText({ responses }: Status): string {
  const { last1Minute, last5Minutes } = responses.perMinute;
  const span = responses.spanMs === null ? '' : ` of the last ${duration(responses.spanMs)}`;
  return [
    `Responses: ${rate(last1Minute)} a minute in the last minute, ${rate(last5Minutes)} in the last five`,
    `  looked at ${responses.isCapped ? 'the latest ' : ''}${responses.sampled}${span}; ${responses.httpErrors} have a status of 400 or above`,
  ].join('\n');
}

function rate(perMinute: number): string {
  return perMinute < 10 ? String(Math.round(perMinute * 10) / 10) : String(Math.round(perMinute));
}

function errorsText({ failures, lastErrors }: Status, at: Date): string {
  if (failures.length === 0) return 'Failures: none';
  const counts = failures.map(({ code, count, last }) => [
    `  ${printable(code)}`,
    String(count),
    `last ${duration(at.getTime() - last.getTime())} ago`,
  ]);
  const errors = lastErrors.map(({ id, created, code, message }) => [
    `  ${id ?? ''}`,
    created.toISOString().slice(0, 19).replace('T', ' '),
    printable(code),
    printable(redactUrls(message)),
  ]);
  return `Failures:\n${table(counts)}\n\nLast errors:\n${table(errors)}`;
}
