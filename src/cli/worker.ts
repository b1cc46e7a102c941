import { type Command, Option } from 'commander';
import { ConfigError } from '../config/worker-config.ts';
import { createWorker } from '../worker/create.ts';
import type { Worker } from '../worker/worker.ts';
import { collect } from './arguments.ts';
import { connectionStringsOf } from './connection.ts';
import { UsageError } from './errors.ts';
import { createLog, type LogFormat } from './log.ts';
import { untilStopSignal } from './signals.ts';

type WorkerCommandOptions = {
  allow?: readonly string[];
  deny?: readonly string[];
  stopTimeout?: number;
  lease?: number;
  poll?: number;
  prepare: boolean;
  name?: string;
  responseLimit?: number;
  logFormat?: LogFormat;
};

/** How the problems of a configuration name the options of this command. */
const flags: Readonly<Record<string, string>> = {
  connectionString: '--database-url',
  allow: '--allow',
  deny: '--deny',
  stopTimeoutMs: '--stop-timeout',
  leaseMs: '--lease',
  pollEveryMs: '--poll',
  responseBytesMax: '--response-limit',
  name: '--name',
};

export function addWorkerCommand(program: Command): void {
  program
    .command('worker')
    .description('send the requests of one database or several and record their responses, until it is stopped')
    .option(
      '--allow <network>',
      'let requests reach it: CIDR block, host name, loopback, private, all; repeatable',
      collect,
    )
    .option('--deny <network>', 'refuse it whatever is allowed; repeatable', collect)
    .option('--stop-timeout <ms>', 'how long a stop waits for requests in flight (default: 10000)', Number)
    .option('--lease <ms>', 'how long claimed requests are its own without a sign of life (default: 15000)', Number)
    .option('--poll <ms>', 'how often to look where notifications do not arrive (default: 500)', Number)
    .option('--response-limit <bytes>', 'how much of a body is kept (default: 8388608)', Number)
    .option('--no-prepare', 'for a transaction-mode pooler that is not recognised by itself')
    .option('--name <text>', 'where it runs, for people (default: host:pid)')
    .addOption(
      new Option('--log-format <format>', 'of the log on stderr (default: pretty on a terminal, else json)').choices([
        'pretty',
        'json',
      ]),
    )
    .addHelpText(
      'after',
      `
Only the public internet can be reached unless --allow says more. SIGTERM and SIGINT stop it: it claims no more, waits for
what is in flight, and gives the rest back; a second signal ends it at once. What concerns the queue itself is set in the
database: ALTER ROLE ... SET pg_net.batch_size, pg_net.concurrency, pg_net.ttl (select * from net.settings).

Examples:
  pgfetch worker -d postgres://net_worker_login@db.example.com/app
  pgfetch worker -d postgres://host/app -d postgres://host/shop      several databases, one process
  pgfetch worker --allow 10.1.0.0/16 --allow api.internal
  pgfetch worker --allow loopback             for development
  pgfetch worker --stop-timeout 25000         below the 30 s that Kubernetes waits
`,
    )
    .action(async (options: WorkerCommandOptions, command: Command) => {
      const log = createLog(options.logFormat);
      // One worker a database, each with a session, slots and a log of its own: one that is down disturbs none of the others.
      const workers = connectionStringsOf(command).map((connectionString) =>
        makeWorker(options, connectionString, log),
      );
      const stop = untilStopSignal();
      const stopped = Promise.all(
        workers.map((worker) => new Promise<void>((resolve) => worker.once('stopped', resolve))),
      );
      await Promise.all(workers.map((worker) => worker.start({ wait: false })));
      const reason = await Promise.race([stop.signal, stopped.then(() => 'stopped' as const)]);
      if (reason !== 'stopped') {
        log.info({ held: workers.reduce((sum, worker) => sum + worker.held, 0) }, `${reason}: stopping`);
      }
      await Promise.all(workers.map((worker) => worker.stop()));
      stop.ignore();
    });
}

function makeWorker(
  options: WorkerCommandOptions,
  connectionString: string,
  log: ReturnType<typeof createLog>,
): Worker {
  const { allow = [], deny = [], stopTimeout, lease, poll, responseLimit, prepare, name } = options;
  try {
    return createWorker({
      connectionString,
      allow,
      deny,
      prepare,
      log,
      ...(stopTimeout === undefined ? {} : { stopTimeoutMs: stopTimeout }),
      ...(lease === undefined ? {} : { leaseMs: lease }),
      ...(poll === undefined ? {} : { pollEveryMs: poll }),
      ...(responseLimit === undefined ? {} : { responseBytesMax: responseLimit }),
      ...(name === undefined ? {} : { name }),
    });
  } catch (error) {
    if (!(error instanceof ConfigError)) throw error;
    const given: Readonly<Record<string, readonly string[]>> = { allow, deny };
    const problems = error.problems.map((problem) =>
      problem.replace(/^(\w+)(?:\[(\d+)\])?/, (whole, option: string, index: string | undefined) => {
        const entry = index === undefined ? undefined : given[option]?.[Number(index)];
        return `${flags[option] ?? whole}${entry === undefined ? '' : ` ${JSON.stringify(entry)}`}`;
      }),
    );
    throw new UsageError(problems.join('\n'));
  }
}
