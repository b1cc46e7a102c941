import type { Command } from 'commander';
import { version } from '../config/version.ts';
import { type Database, PostgresError } from '../postgres/database.ts';
import { connectPg } from '../postgres/pg.ts';
import { findDrift, isOfRights } from '../schema/drift.ts';
import { readGrants } from '../schema/grants.ts';
import type { Grants } from '../schema/scripts.ts';
import { inspectInstallation } from '../store/installation.ts';
import type { Pause } from '../store/pause.ts';
import { type RoleFacts, readRights } from '../store/rights.ts';
import { readServer, type ServerFacts } from '../store/server.ts';
import { readSettings, readTarget } from '../store/settings.ts';
import { defaultStatusLimits, readQueue, readWorkers, type WorkerStatus } from '../store/status.ts';
import { describePause, explain } from '../worker/explain.ts';
import { lacks } from '../worker/opening.ts';
import { connectionStringOf } from './connection.ts';
import { explainError } from './errors.ts';
import { duration, print, printable, printJson } from './output.ts';
import { redactPasswords, redactUrl } from './redact.ts';

const connectTimeoutMs = 10_000;
const oldestSupported = 13;
const newestSupported = 18;
const clockSkewMaxMs = 5_000;
const waitMaxMs = 60_000;
const driftShownMax = 10;

/** One thing that was looked at. `broken`: requests are not sent, or not as they should be. */
type Check = {
  readonly name: string;
  readonly state: 'ok' | 'warning' | 'broken';
  readonly message: string;
  /** What to do about it. */
  readonly advice?: string;
};

export function addDoctorCommand(program: Command): void {
  program
    .command('doctor')
    .description('look for what keeps requests from being sent, and say what to do about it')
    .option('--json', 'print the checks as JSON')
    .addHelpText(
      'after',
      `
Run it with the worker's connection string: it checks that role's rights. It changes nothing. Exit status 1: something is broken.

Examples:
  pgfetch doctor -d postgres://net_worker_login@db.example.com/app
  pgfetch doctor --json | jq '.checks[] | select(.state != "ok")'
`,
    )
    .action(async (options: { json?: boolean }, command: Command) => {
      const checks = await examine(connectionStringOf(command));
      const isHealthy = checks.every(({ state }) => state !== 'broken');
      if (options.json) printJson({ healthy: isHealthy, checks });
      else print(checks.map(checkText).join('\n'));
      if (!isHealthy) process.exitCode = 1;
    });
}

const marks = { ok: '✓', warning: '!', broken: '✗' } as const;

function checkText({ name, state, message, advice }: Check): string {
  const [first = '', ...more] = [...message.split('\n'), ...(advice === undefined ? [] : [advice])];
  return [`${marks[state]} ${name}: ${printable(first)}`, ...more.map((line) => `    ${printable(line)}`)].join('\n');
}

async function examine(connectionString: string): Promise<readonly Check[]> {
  let db: Database;
  try {
    db = await connectPg({ connectionString, applicationName: `pgfetch ${version}`, connectTimeoutMs });
  } catch (error) {
    return [{ name: 'connection', state: 'broken', message: redactPasswords(explainError(error)) }];
  }
  try {
    const server = await readServer(db);
    const checks = [serverCheck(server), clockCheck(server), await listenCheck(db)];
    return [...checks, ...(await examineInstallation(db, server))];
  } finally {
    await db.close();
  }
}

function serverCheck({ major, version: name, isPglite, database, role, isReadOnly, isStandby }: ServerFacts): Check {
  const product = isPglite ? 'PGlite (PostgreSQL' : 'PostgreSQL';
  const message = `${product} ${name}${isPglite ? ')' : ''}, database ${database}, as ${role}`;
  if (major < oldestSupported) {
    const advice = `Versions ${oldestSupported} to ${newestSupported} are supported: upgrade the server.`;
    return { name: 'connection', state: 'broken', message, advice };
  }
  if (isReadOnly && !isStandby) {
    const advice =
      'default_transaction_read_only is on for this role, database or server, so nothing can be written: turn it off.';
    return { name: 'connection', state: 'broken', message, advice };
  }
  if (major > newestSupported) {
    const advice = `This version of pgfetch was tested with ${oldestSupported} to ${newestSupported}: look for a newer one.`;
    return { name: 'connection', state: 'warning', message, advice };
  }
  return { name: 'connection', state: 'ok', message };
}

function clockCheck({ clockMs }: ServerFacts): Check {
  const skewMs = Math.abs(Date.now() - clockMs);
  if (skewMs <= clockSkewMaxMs) return { name: 'clock', state: 'ok', message: 'the same here as on the server' };
  return {
    name: 'clock',
    state: 'warning',
    message: `this machine's and the server's are ${duration(skewMs)} apart`,
    advice:
      "Leases and expiry go by the server's clock alone, but log lines and signatures will not match: run a time service on both.",
  };
}

async function listenCheck(db: Database): Promise<Check> {
  if (await db.listen('pgfetch_doctor', () => {})) {
    return { name: 'notifications', state: 'ok', message: 'LISTEN works on this connection' };
  }
  return {
    name: 'notifications',
    state: 'warning',
    message:
      'they do not arrive on this connection (a transaction-mode pooler, a socket-served PGlite, or no second connection to be had), so a worker polls',
    advice: 'For low latency, give the worker the direct or session-mode connection string.',
  };
}

async function examineInstallation(db: Database, server: ServerFacts): Promise<readonly Check[]> {
  const installation = await inspectInstallation(db);
  if (
    installation.kind === 'missing' ||
    installation.kind === 'foreign' ||
    installation.kind === 'other_version' ||
    installation.kind === 'lesser_owner'
  ) {
    return [{ name: 'schema', state: 'broken', message: explain(installation) }];
  }
  const checks: Check[] = [];
  if (installation.kind === 'ready') {
    const how = installation.isExtension ? 'as the extension pg_net' : 'as plain SQL';
    checks.push({ name: 'schema', state: 'ok', message: `pgfetch ${installation.version}, installed ${how}` });
  } else {
    const name = installation.kind === 'no_rights' ? 'schema' : installation.kind;
    checks.push({ name, state: 'broken', message: explain(installation) });
  }
  const paused = installation.kind === 'ready' ? installation.paused : null;
  if (paused !== null) checks.push(pauseCheck(paused));
  if (installation.kind === 'no_rights') return checks;
  const rights = await readRights(db);
  checks.push(...rightsChecks(rights));
  checks.push(...(await asFarAsAllowed('grants', async () => [grantsCheck(await readGrants(db))])));
  checks.push(...(await asFarAsAllowed('drift', async () => [await driftCheck(db)])));
  checks.push(...(await asFarAsAllowed('settings', () => settingsChecks(db))));
  checks.push(...(await asFarAsAllowed('queue', () => trafficChecks(db, server, paused))));
  return checks;
}

/** What the server refuses to show to this role does not keep the rest from being looked at. */
async function asFarAsAllowed(name: string, look: () => Promise<readonly Check[]>): Promise<readonly Check[]> {
  try {
    return await look();
  } catch (error) {
    if (!(error instanceof PostgresError)) throw error;
    return [{ name, state: 'warning', message: `could not be looked at: ${explainError(error)}` }];
  }
}

async function driftCheck(db: Database): Promise<Check> {
  const drift = await findDrift(db);
  if (drift.length === 0) return { name: 'drift', state: 'ok', message: 'the schema is as it was installed' };
  const shown = drift.slice(0, driftShownMax).map(({ message }) => message);
  const more = drift.length > shown.length ? [`and ${drift.length - shown.length} more`] : [];
  // Something of the user's beside ours harms nothing; something of ours that is gone or changed may.
  const isHarmless = drift.every(({ kind }) => kind === 'added');
  return {
    name: 'drift',
    state: isHarmless ? 'warning' : 'broken',
    message: [...shown, ...more].join('; '),
    advice: isHarmless
      ? 'Keep objects of your own in a schema of your own: uninstalling and upgrading do not expect them here.'
      : drift.every(isOfRights)
        ? 'Set every right anew, as the owner of the schema, with the profile you want: pgfetch install --grants public, members or none.'
        : 'Undo those changes; or, when the queue is empty, uninstall and install again.',
  };
}

function grantsCheck(grants: Grants): Check {
  const who = {
    public: 'every role may enqueue (public)',
    members: 'members of net_user may enqueue (members)',
    none: 'the owner may enqueue, and whom it was granted to (none)',
  };
  return { name: 'grants', state: 'ok', message: who[grants] };
}

function rightsChecks(role: RoleFacts): readonly Check[] {
  if (role.missing.length > 0) {
    const quoted = JSON.stringify(role.name);
    return [
      {
        name: 'rights',
        state: 'broken',
        message: `role ${quoted} cannot run a worker; ${lacks(role.missing)}`,
        advice: role.hasWorkerRole
          ? `As a superuser or the role that installed: GRANT net_worker TO ${quoted};`
          : 'The role net_worker does not exist here (the installer may not create roles): connect the worker as the owner of the schema net.',
      },
    ];
  }
  // Where there is no such role the worker has to be the owner, with what an owner needs elsewhere.
  const excess = role.hasWorkerRole
    ? [...role.excess, ...(role.ownsSchema ? ['owns the schema net'] : [])]
    : role.excess.filter((what) => !role.ownsSchema || ['is a superuser', 'has BYPASSRLS'].includes(what));
  const [first] = excess;
  if (first !== undefined) {
    return [
      {
        name: 'rights',
        state: 'warning',
        message: `role ${JSON.stringify(role.name)} can run a worker, but ${first === 'is a superuser' ? first : excess.join(', ')}`,
        advice: role.hasWorkerRole
          ? 'A worker needs less: CREATE ROLE pgfetch_worker LOGIN PASSWORD ...; GRANT net_worker TO pgfetch_worker;'
          : 'A worker needs less: connect it as an owner of the schema net that has nothing of this.',
      },
    ];
  }
  return [{ name: 'rights', state: 'ok', message: `role ${JSON.stringify(role.name)} can run a worker` }];
}

async function settingsChecks(db: Database): Promise<readonly Check[]> {
  const settings = await readSettings(db);
  const target = await readTarget(db, settings);
  const checks: Check[] = settings.problems.map((problem) => ({
    name: 'settings',
    state: 'warning',
    message: problem,
    advice: 'Correct it where "select * from net.settings" says it comes from, then: select net.worker_restart();',
  }));
  if (checks.length === 0) {
    const { batchSize, concurrency, ttlMs } = settings;
    const message = `batch_size ${batchSize}, concurrency ${concurrency}, ttl ${duration(ttlMs)}`;
    checks.push({ name: 'settings', state: 'ok', message });
  }
  if (target !== null) {
    const where = [
      ...(target.database === undefined ? [] : [`database ${JSON.stringify(target.database)}`]),
      ...(target.user === undefined ? [] : [`role ${JSON.stringify(target.user)}`]),
    ];
    checks.push({
      name: 'settings',
      state: 'warning',
      message: `a worker with this connection string goes elsewhere: pg_net.database_name and pg_net.username say ${where.join(', ')}`,
      advice:
        'That may be meant. If not: ALTER SYSTEM RESET pg_net.database_name (or pg_net.username), then select net.worker_restart();',
    });
  }
  return checks;
}

async function trafficChecks(db: Database, server: ServerFacts, paused: Pause | null): Promise<readonly Check[]> {
  const workers = await readWorkers(db, defaultStatusLimits.workersMax);
  const queue = await readQueue(db, defaultStatusLimits.queueRowsMax);
  const alive = workers.filter(({ isAlive }) => isAlive);
  const depth = `${queue.isEstimate ? 'about ' : ''}${queue.waiting} waiting, ${queue.inFlight} in flight`;
  const { oldest } = queue;
  const waitsMs = oldest?.ageMs ?? 0;
  if (oldest === null || waitsMs <= waitMaxMs) {
    return [workerCheck(alive, server, paused), { name: 'queue', state: 'ok', message: depth }];
  }
  return [
    workerCheck(alive, server, paused),
    {
      name: 'queue',
      state: 'warning',
      message: `${depth}; request ${oldest.id} to ${redactUrl(oldest.url)} has waited for ${duration(waitsMs)}`,
      advice:
        alive.length === 0
          ? paused !== null
            ? 'It is sent after: pgfetch resume'
            : 'It is sent as soon as a worker runs.'
          : 'The workers do not keep up, or rows were put in by hand (then: select net.wake();). See pgfetch status for slow or failing targets; raise pg_net.concurrency or start another worker. Or they wait for a limit (net.limits), a breaker (net.breakers) or their ordering key.',
    },
  ];
}

function pauseCheck(paused: Pause): Check {
  return {
    name: 'pause',
    state: 'broken',
    message: `the workers are ${describePause(paused)}: requests wait`,
    advice: 'When what it was made for is done: pgfetch resume',
  };
}

function workerCheck(alive: readonly WorkerStatus[], { database }: ServerFacts, paused: Pause | null): Check {
  if (alive.length === 0 && paused !== null) {
    return { name: 'worker', state: 'ok', message: 'none is connected, because of the pause' };
  }
  if (alive.length === 0) {
    return {
      name: 'worker',
      state: 'broken',
      message: `none serves database ${JSON.stringify(database)}; requests are kept until one does`,
      advice: 'Start one: pgfetch worker --database-url ...',
    };
  }
  const names = alive.map((worker) => `${worker.name} (${worker.version})`).join(', ');
  const others = alive.filter((worker) => worker.version !== version);
  if (others.length === 0) return { name: 'worker', state: 'ok', message: names };
  return {
    name: 'worker',
    state: 'warning',
    message: `${names}; this is version ${version}`,
    advice: 'Update the workers and this command to the same version.',
  };
}
