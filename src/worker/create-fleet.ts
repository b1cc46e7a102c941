import { type FleetOptions, readFleetConfig } from '../config/fleet-config.ts';
import { version } from '../config/version.ts';
import { ConfigError, type WorkerConfig } from '../config/worker-config.ts';
import { type Endpoint, endpointOf, serverOf } from '../postgres/endpoint.ts';
import { createSecrets, type Secrets } from '../secrets/secrets.ts';
import { callbacksBy, connectToServer, createSender } from './create.ts';
import { Fleet, type FleetServer } from './fleet.ts';
import type { WorkerLog } from './parts.ts';
import type { Send } from './pipeline.ts';
import { explainFailure } from './problems.ts';
import { Worker } from './worker.ts';

export type CreateFleetOptions = FleetOptions & {
  /** Where the fleet and its workers write what they do; each line of a worker has the field `database`. Default: nowhere. */
  readonly log?: WorkerLog;
};

/**
 * Makes a fleet: it serves every database of a server, or of several, in which pgfetch is installed, each by a worker of its
 * own, and finds by itself which those are. It does nothing until `start()`.
 *
 * The same role serves all of them; `pg_net.concurrency` counts for each database. Requests of all of them share one pool of
 * connections: at most 1,000 to one origin, beyond which they wait, on their own deadlines. `pg_net.database_name` is not obeyed.
 *
 * @example
 * ```ts
 * import { createFleet } from 'pgfetch';
 *
 * const fleet = createFleet({ connectionStrings: [process.env.DATABASE_URL], allow: ['10.1.0.0/16'] });
 * fleet.on('ready', ({ database }) => console.log('serving', database));
 * fleet.on('problem', (error, { database }) => console.error(database, error.message));
 * await fleet.start();
 * process.once('SIGTERM', () => void fleet.stop());
 * ```
 *
 * @throws {@link ConfigError} for options that make no sense.
 */
export function createFleet(options: CreateFleetOptions = {}): Fleet {
  const { log = silentLog, ...rest } = options;
  const { servers, rescanEveryMs } = readFleetConfig(rest);
  if (servers.length > 1 && servers[0].callbackDatabaseUrl !== '') {
    throw new ConfigError(['callbackDatabaseUrl is a login of one server; give one connection string']);
  }
  const client = createSender(servers[0], log);
  const secrets = createSecrets({ bindings: servers[0].secrets, source: servers[0].secretSource });
  const known = new Map<string, FleetServer>();
  for (const config of servers) {
    const send: Send = (request, rules, cancellation) => client.send(request, rules, cancellation);
    const server = makeServer(config, send, secrets);
    if (known.has(server.name)) {
      log.warn({ server: server.name }, `the server ${server.name} is named more than once; it is served once`);
    } else {
      known.set(server.name, server);
    }
  }
  return new Fleet({ servers: [...known.values()], rescanEveryMs, dispose: () => client.close(), log });
}

const silentLog: WorkerLog = { info: () => {}, warn: () => {}, error: () => {} };

function makeServer(config: WorkerConfig, send: Send, secrets: Secrets): FleetServer {
  const endpoint = endpointFor(config);
  return {
    name: serverOf(endpoint),
    database: endpoint.database,
    connect: (database) => connectToServer(config, { database }),
    createWorker: (database, log) =>
      new Worker({
        connect: (target) => connectToServer(config, { ...target, database }),
        staysInDatabase: true,
        ...callbacksBy(config),
        send,
        secrets,
        name: config.name,
        version,
        timing: { leaseMs: config.leaseMs, pollEveryMs: config.pollEveryMs },
        stopTimeoutMs: config.stopTimeoutMs,
        log,
      }),
  };
}

/** A string that names a certificate's file may be wrong in a way that its form does not show. */
function endpointFor({ connectionString }: WorkerConfig): Endpoint {
  try {
    return endpointOf(connectionString);
  } catch (cause) {
    throw new ConfigError([`connectionString cannot be used: ${explainFailure(cause)}`]);
  }
}
