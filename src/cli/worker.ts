import { type Command, Option } from 'commander';
import { ConfigError, type WorkerOptions } from '../config/worker-config.ts';
import { endpointOf, serverOf } from '../postgres/endpoint.ts';
import { createWorker } from '../worker/create.ts';
import { createFleet } from '../worker/create-fleet.ts';
import { withFields } from '../worker/members.ts';
import type { WorkerLog } from '../worker/parts.ts';
import { collect, list, wholeNumber } from './arguments.ts';
import { type CertificateFlags, passphraseVariable, readCertificates } from './certificates.ts';
import { connectionStringsOf, withTlsOfEnvironment } from './connection.ts';
import { UsageError } from './errors.ts';
import { createLog, type LogFormat } from './log.ts';
import { logProxies, proxiesOfEnvironment } from './proxy-environment.ts';
import { logSecretProblems, readSecrets, type SecretFlags } from './secrets.ts';
import { untilStopSignal } from './signals.ts';

type WorkerCommandOptions = CertificateFlags &
  SecretFlags & {
    allDatabases?: boolean;
    rescan?: number;
    allow?: readonly string[];
    deny?: readonly string[];
    only?: readonly string[];
    ports?: readonly string[];
    schemes?: readonly string[];
    stopTimeout?: number;
    lease?: number;
    poll?: number;
    prepare: boolean;
    callbackUrl?: string;
    name?: string;
    resolver?: 'auto' | 'system';
    logFormat?: LogFormat;
  };

/** How the problems of a configuration name the options of this command. */
const flags: Readonly<Record<string, string>> = {
  connectionString: '--database-url',
  callbackDatabaseUrl: '--callback-url',
  allow: '--allow',
  deny: '--deny',
  only: '--only',
  ports: '--ports',
  schemes: '--schemes',
  ca: '--ca',
  clientCertificates: '--client-cert',
  secrets: '--secret',
  stopTimeoutMs: '--stop-timeout',
  leaseMs: '--lease',
  pollEveryMs: '--poll',
  name: '--name',
};

export function addWorkerCommand(program: Command): void {
  program
    .command('worker')
    .description('send the requests of one database or several and record their responses, until it is stopped')
    .option('--all-databases', 'serve every database of the server in which pgfetch is installed')
    .option(
      '--rescan <seconds>',
      'with --all-databases: how often to look for new ones (default: 300)',
      wholeNumber(1, 86_400),
    )
    .option(
      '--allow <network>',
      'let requests reach it: CIDR block, host name, loopback, private, all; repeatable',
      collect,
    )
    .option('--deny <network>', 'refuse it whatever is allowed; repeatable', collect)
    .option(
      '--only <host>',
      'let requests reach no other hosts: name, *.name, address, CIDR block; repeatable',
      collect,
    )
    .option('--ports <list>', 'let requests reach no other ports: 443,8000-8999', list)
    .option('--schemes <list>', 'send requests no other way: https', list)
    .option('--ca <file>', 'trust the authorities in this PEM file, too; repeatable', collect)
    .option('--client-cert <host=cert,key>', 'show that host this certificate (PEM files); repeatable', collect)
    .option('--secret <name=hosts@roles>', 'a secret, where it may be sent and for whom; repeatable', collect)
    .option('--secrets-dir <directory>', 'where the values of secrets are, each in a file named as it is')
    .option('--callback-url <url>', 'the login that calls on_success and on_error (default: $PGFETCH_CALLBACK_URL)')
    .option('--stop-timeout <ms>', 'how long a stop waits for requests in flight (default: 10000)', Number)
    .option('--lease <ms>', 'how long claimed requests are its own without a sign of life (default: 15000)', Number)
    .option('--poll <ms>', 'how often to look where notifications do not arrive (default: 500)', Number)
    .addOption(
      new Option('--resolver <which>', 'of host names; system: getaddrinfo, which may block (default: auto)').choices([
        'auto',
        'system',
      ]),
    )
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

Requests go through the proxies that $http_proxy and $https_proxy name, but for the hosts in $no_proxy.

on_success and on_error functions are called by the login of --callback-url, a member of net_callback and of nothing else, in
each database that is served. Without it they wait.

Requests may use the secrets that --secret declares: {{secret.stripe}} in a header. The value of stripe is what the file stripe in
--secrets-dir holds, else $PGFETCH_SECRET_STRIPE. The role "public" is every role.

With --all-databases each -d names a server, by any database of it. SIGHUP makes it look at once which databases there are.

Examples:
  pgfetch worker -d postgres://net_worker_login@db.example.com/app
  pgfetch worker -d postgres://host/app -d postgres://host/shop      several databases, one process
  pgfetch worker --all-databases -d postgres://host/postgres         every database of a server
  pgfetch worker --allow 10.1.0.0/16 --allow api.internal
  pgfetch worker --allow loopback             for development
  pgfetch worker --only '*.stripe.com' --schemes https --ports 443
  pgfetch worker --ca /etc/ssl/ours.pem       a private authority
  pgfetch worker --client-cert api.bank.example=client.pem,client.key
  pgfetch worker --secret stripe=api.stripe.com@billing --secrets-dir /run/secrets
  pgfetch worker --callback-url postgres://hooks:secret@db.example.com/
  pgfetch worker --stop-timeout 25000         below the 30 s that Kubernetes waits
`,
    )
    .action(async (options: WorkerCommandOptions, command: Command) => {
      const connectionStrings = connectionStringsOf(command);
      const log = createLog(options.logFormat);
      logProxies(proxiesOfEnvironment(), log);
      if (options.allDatabases === true) {
        await serveServers(options, connectionStrings, log);
        return;
      }
      if (options.rescan !== undefined) throw new UsageError('--rescan goes with --all-databases.');
      await serveDatabases(options, connectionStrings, log);
    });
}

/** One worker a database, each with a session, slots and a log of its own: one that is down disturbs none of the others. */
async function serveDatabases(
  options: WorkerCommandOptions,
  connectionStrings: readonly string[],
  log: WorkerLog,
): Promise<void> {
  const databases = distinct(connectionStrings, log);
  const isOneServer = databases.every(({ fields }) => !('server' in fields));
  if (!isOneServer && callbackLogin(options).callbackDatabaseUrl !== undefined) {
    throw new UsageError('--callback-url is a login of one server. Run a worker for each server.');
  }
  const workers = databases.map(({ connectionString, fields }) =>
    checked(options, () => createWorker({ ...workerOptions(options), connectionString, log: withFields(log, fields) })),
  );
  await logSecretProblems(options, log);
  const stop = untilStopSignal();
  const stopped = Promise.all(workers.map((worker) => new Promise<void>((resolve) => worker.once('stopped', resolve))));
  await Promise.all(workers.map((worker) => worker.start({ wait: false })));
  const reason = await Promise.race([stop.signal, stopped.then(() => 'stopped' as const)]);
  if (reason !== 'stopped') {
    log.info({ held: workers.reduce((sum, worker) => sum + worker.held, 0) }, `${reason}: stopping`);
  }
  await Promise.all(workers.map((worker) => worker.stop()));
  stop.ignore();
}

/** Every database of each server. */
async function serveServers(
  options: WorkerCommandOptions,
  connectionStrings: readonly string[],
  log: WorkerLog,
): Promise<void> {
  const { rescan } = options;
  const fleet = checked(options, () =>
    createFleet({
      ...workerOptions(options),
      ...(rescan === undefined ? {} : { rescanEveryMs: rescan * 1_000 }),
      connectionStrings,
      log,
    }),
  );
  await logSecretProblems(options, log);
  const stop = untilStopSignal({
    onHangup: () => {
      log.info({}, 'SIGHUP: looking which databases there are');
      // One that arrives while it stops is too late.
      void fleet.rescan().catch(() => {});
    },
  });
  const started = fleet.start().then(() => {
    const { databases } = fleet;
    log.info(
      { databases: databases.length },
      databases.length === 0
        ? 'pgfetch is installed in no database that this role may connect to; waiting for one'
        : `found ${databases.length} to serve`,
    );
  });
  const reason = await stop.signal;
  log.info({ held: fleet.held }, `${reason}: stopping`);
  await fleet.stop();
  await started;
  stop.ignore();
}

/** The databases that are meant, and what names them in the log; one that is given twice is served once. */
function distinct(
  connectionStrings: readonly string[],
  log: WorkerLog,
): readonly { readonly connectionString: string; readonly fields: object }[] {
  const known = new Map<string, { connectionString: string; server?: string; database?: string }>();
  for (const connectionString of connectionStrings) {
    const name = nameOf(connectionString);
    const key = name === undefined ? connectionString : JSON.stringify([name.server, name.database]);
    if (known.has(key)) {
      log.warn({ ...name }, 'this database is given more than once; it is served once');
    } else {
      known.set(key, { connectionString, ...name });
    }
  }
  const hasSeveralServers = new Set([...known.values()].map(({ server }) => server)).size > 1;
  return [...known.values()].map(({ connectionString, server, database }) => ({
    connectionString,
    fields: { ...(hasSeveralServers && { server }), database },
  }));
}

/** Undefined where the string names a file that is not there (yet): its worker will say so. */
function nameOf(connectionString: string): { server: string; database: string } | undefined {
  try {
    const endpoint = endpointOf(connectionString);
    return { server: serverOf(endpoint), database: endpoint.database };
  } catch {
    return undefined;
  }
}

function workerOptions(options: WorkerCommandOptions): Omit<WorkerOptions, 'connectionString'> {
  const {
    allow = [],
    deny = [],
    only = [],
    ports = [],
    schemes = [],
    stopTimeout,
    lease,
    poll,
    resolver,
    prepare,
    name,
  } = options;
  return {
    allow,
    deny,
    only,
    ports,
    // The configuration says what is none.
    schemes: schemes as NonNullable<WorkerOptions['schemes']>,
    ...readCertificates(options),
    ...readSecrets(options),
    prepare,
    proxy: proxiesOfEnvironment(),
    ...callbackLogin(options),
    ...(stopTimeout === undefined ? {} : { stopTimeoutMs: stopTimeout }),
    ...(lease === undefined ? {} : { leaseMs: lease }),
    ...(poll === undefined ? {} : { pollEveryMs: poll }),
    ...(resolver === undefined ? {} : { resolver }),
    ...(name === undefined ? {} : { name }),
  };
}

/** As whom callbacks are called; nobody is a choice, too. */
function callbackLogin({ callbackUrl }: WorkerCommandOptions): Pick<WorkerOptions, 'callbackDatabaseUrl'> {
  if (callbackUrl === '') throw new UsageError('--callback-url is empty. Is the variable set that it was made from?');
  const url = callbackUrl ?? process.env['PGFETCH_CALLBACK_URL'] ?? '';
  return url === '' ? {} : { callbackDatabaseUrl: withTlsOfEnvironment(url) };
}

/** Says what is wrong with the configuration in terms of this command's options. */
function checked<T>({ allow, deny, only, ports, schemes, ca, clientCert }: WorkerCommandOptions, make: () => T): T {
  try {
    return make();
  } catch (error) {
    if (!(error instanceof ConfigError)) throw error;
    const given: Readonly<Record<string, readonly string[] | undefined>> = {
      allow,
      deny,
      only,
      ports,
      schemes,
      ca,
      clientCertificates: clientCert,
    };
    const problems = error.problems.map((problem) =>
      problem.replace(/^(\w+)(?:\[(\d+)\][.\w[\]]*)?/, (whole, option: string, index: string | undefined) => {
        const entry = index === undefined ? undefined : given[option]?.[Number(index)];
        return `${flags[option] ?? whole}${entry === undefined ? '' : ` ${JSON.stringify(entry)}`}`;
      }),
    );
    throw new UsageError(
      problems.join('\n').replace('give its passphrase', `give its passphrase in ${passphraseVariable}`),
    );
  }
}
