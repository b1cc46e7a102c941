import { type Command, InvalidArgumentError, Option } from 'commander';
import type { Database } from '../postgres/database.ts';
import {
  type Redelivery,
  type RedeliveryFilter,
  type RedeliveryOptions,
  redeliver,
  redeliverWhere,
} from '../store/redeliver.ts';
import { wholeNumber } from './arguments.ts';
import { withDatabase } from './connection.ts';
import { UsageError } from './errors.ts';
import { requireReadable } from './installation.ts';
import { duration, print, printable, printJson, table } from './output.ts';

const shownMax = 20;

type RedeliverCommandOptions = Omit<RedeliveryFilter, 'until'> & {
  readonly until?: Date;
  readonly perSecond?: number;
  readonly max?: number;
  readonly yes?: boolean;
  readonly json?: boolean;
};

export function addRedeliverCommand(program: Command): void {
  program
    .command('redeliver')
    .description('send requests again that failed: some by their ids, or all that fit')
    .argument('[ids...]', 'requests to send again at once', (text: string, sofar?: readonly bigint[]) => [
      ...(sofar ?? []),
      requestId(text),
    ])
    .option('--host <host>', 'those to this host (any port), or host:port')
    .option(
      '--status <statuses>',
      'those with this status: 503, 5xx, 500-504, error (no answer), or several with commas',
    )
    .option('--since <time>', 'those that finished since then: 2h, 3d (ago), or 2026-11-21T10:00 (UTC)', instant)
    .option('--until <time>', 'those that finished before then', instant)
    .option('--label <label>', 'those with this label')
    .addOption(
      new Option('--state <state>', 'those in this state; default: failed and dead').choices([
        'failed',
        'dead',
        'cancelled',
        'succeeded',
      ]),
    )
    .option('--per-second <n>', 'how many of them to send in a second (default: 10)', rate)
    .option('--max <n>', 'how many to choose at most, the oldest first (default: 1000)', wholeNumber(1, 100_000))
    .option('--yes', 'do it: without, those that fit are only shown')
    .option('--json', 'print the report as JSON')
    .addHelpText(
      'after',
      `
Requests that failed are kept for a week (pg_net.keep_requests, pg_net.keep_requests_ttl). Each is sent again as a new request
for the role that made it. What was sent again already is not chosen again. For whoever has the rights of that role, net_admin
and the owner of the schema.

Examples:
  pgfetch redeliver 4711 4712                            these two, now
  pgfetch redeliver --host api.example.com --since 2h    show what failed there
  pgfetch redeliver --host api.example.com --status 5xx --per-second 5 --yes
`,
    )
    .action(async (ids: readonly bigint[], options: RedeliverCommandOptions, command: Command) => {
      const { host, status, since, until, label, state, perSecond, max, yes, json = false } = options;
      const filter = { host, status, since, until, label, state };
      const criteria = Object.values(filter).filter((value) => value !== undefined).length;
      if (ids.length > 0 && criteria + (perSecond === undefined ? 0 : 1) + (max === undefined ? 0 : 1) > 0) {
        throw new UsageError('Give ids, which are sent again now, or what to choose by; not both.');
      }
      if (ids.length === 0 && criteria === 0) {
        throw new UsageError(
          'Say which requests: ids, or at least one of --host, --status, --since, --until, --label and --state. See: pgfetch redeliver --help',
        );
      }
      await withDatabase(command, async (db) => {
        await requireReadable(db);
        if (ids.length > 0) await byIds(db, ids, json);
        else await byFilter(db, filter, { dryRun: yes !== true, perSecond, requestsMax: max }, json);
      });
    });
}

async function byIds(db: Database, ids: readonly bigint[], json: boolean): Promise<void> {
  const newIds = await redeliver(db, ids);
  const requests = ids.map((id, i) => ({ id, newId: newIds[i] ?? id }));
  if (json) printJson({ dryRun: false, requests });
  else print(requests.map(({ id, newId }) => `Request ${id} is sent again as request ${newId}.`).join('\n'));
}

async function byFilter(
  db: Database,
  filter: RedeliveryFilter,
  options: RedeliveryOptions & { readonly dryRun: boolean },
  json: boolean,
): Promise<void> {
  const requests = await redeliverWhere(db, filter, options);
  if (json) printJson({ dryRun: options.dryRun, requests });
  else if (requests.length === 0)
    print('No request that is kept, and was not sent again already, fits. Nothing was changed.');
  else print([...(options.dryRun ? [shown(requests)] : []), summary(requests, options)].join('\n\n'));
}

function summary(requests: readonly Redelivery[], { dryRun, requestsMax = 1_000 }: RedeliveryOptions): string {
  const last = requests.at(-1)?.runAt ?? new Date(0);
  const spreadMs = last.getTime() - (requests[0]?.runAt.getTime() ?? 0);
  const count = `${requests.length} ${requests.length === 1 ? 'request' : 'requests'}`;
  const lines = dryRun
    ? [`Nothing was changed. To send ${count} again, over ${duration(spreadMs)}: the same with --yes`]
    : [`Sending ${count} again, the last one at ${when(last)} UTC.`];
  if (requests.length === requestsMax) {
    lines.push(`There may be more: ${requestsMax} are chosen at a time (--max), and the next ones after these.`);
  }
  return lines.join('\n');
}

/** How many for which reason, the most frequent first, and the first of them one by one. */
function shown(requests: readonly Redelivery[]): string {
  const counts = new Map<string, { readonly cells: readonly string[]; count: number }>();
  for (const request of requests) {
    const cells = [printable(request.host ?? ''), reason(request)];
    const key = cells.join('\n');
    const entry = counts.get(key) ?? { cells, count: 0 };
    entry.count += 1;
    counts.set(key, entry);
  }
  const frequent = [...counts.values()].sort((a, b) => b.count - a.count);
  const first = requests.slice(0, shownMax);
  return [
    table([
      ['requests', 'host', 'ended with'],
      ...frequent.slice(0, shownMax).map(({ cells, count }) => [String(count), ...cells]),
      ...(frequent.length > shownMax ? [['...']] : []),
    ]),
    table([
      ['id', 'method', 'host', 'ended with', 'at (UTC)', 'label'],
      ...first.map((request) => [
        String(request.id),
        printable(request.method),
        printable(request.host ?? ''),
        reason(request),
        when(request.finished),
        printable(request.label ?? ''),
      ]),
      ...(requests.length > shownMax ? [['...']] : []),
    ]),
  ].join('\n\n');
}

function reason({ statusCode, errorCode }: Redelivery): string {
  return statusCode === null ? printable(errorCode ?? '') : String(statusCode);
}

function when(instantShown: Date): string {
  return instantShown.toISOString().slice(0, 19).replace('T', ' ');
}

function requestId(text: string): bigint {
  if (!/^\d{1,18}$/.test(text)) throw new InvalidArgumentError('It must be the id of a request: a whole number.');
  return BigInt(text);
}

function rate(text: string): number {
  const value = Number(text);
  if (!/^\d+(\.\d+)?$/.test(text) || value < 0.001 || value > 10_000) {
    throw new InvalidArgumentError('It must be a number from 0.001 to 10000.');
  }
  return value;
}

const unitsMs: Readonly<Record<string, number>> = { s: 1_000, m: 60_000, h: 3_600_000, d: 86_400_000 };

/** `2h`: so long ago; or an instant as ISO 8601 has it, in UTC where it does not say. */
function instant(text: string): Date {
  const [, count, unit = ''] = /^(\d{1,6})([smhd])$/.exec(text) ?? [];
  if (count !== undefined) return new Date(Date.now() - Number(count) * (unitsMs[unit] ?? 0));
  const [, date, time = '00:00', zone = 'Z'] =
    /^(\d{4}-\d{2}-\d{2})(?:[T ](\d{2}:\d{2}(?::\d{2}(?:\.\d{1,3})?)?)(Z|[+-]\d{2}:\d{2})?)?$/.exec(text) ?? [];
  const value = new Date(`${date}T${time}${zone}`);
  if (date === undefined || Number.isNaN(value.getTime())) {
    throw new InvalidArgumentError('It must be like 30m, 2h or 3d (ago), 2026-11-21, or 2026-11-21T10:00+01:00.');
  }
  return value;
}
