export type { FleetOptions } from './config/fleet-config.ts';
export { ConfigError, type WorkerOptions } from './config/worker-config.ts';
export type { ClientCertificate } from './core/client-certificate.ts';
export type { ProxyOptions } from './core/proxies.ts';
export type { SecretBinding, SecretBindings } from './core/secret-bindings.ts';
export type { SecretSource } from './core/secret-values.ts';
export { type EchoOptions, type EchoRequest, type EchoServer, startEchoServer } from './embedded/echo.ts';
export { EmbeddedServerError, EmbeddedServerRunningError } from './embedded/errors.ts';
export { startEmbeddedPostgres } from './embedded/pg-net-server.ts';
export type { EmbeddedPostgres, EmbeddedPostgresOptions } from './embedded/postgres.ts';
export {
  ConnectionLost,
  type Database,
  type Parameter,
  PostgresError,
  type Row,
  type Session,
  type Statement,
} from './postgres/database.ts';
export { connectPg, type PgConnectOptions } from './postgres/pg.ts';
export { type AdoptOptions, type AdoptReport, adopt } from './schema/adopt.ts';
export { SchemaError } from './schema/errors.ts';
export { type InstallOptions, type InstallReport, install } from './schema/install.ts';
export type { Grants, ScriptOptions } from './schema/scripts.ts';
export { type UninstallOptions, type UninstallReport, uninstall } from './schema/uninstall.ts';
export { secretDirectory } from './secrets/directory.ts';
export { type AwaitedResponse, type AwaitOptions, awaitResponses } from './store/await-responses.ts';
export {
  type Redelivery,
  type RedeliveryFilter,
  type RedeliveryOptions,
  redeliver,
  redeliverWhere,
} from './store/redeliver.ts';
export { type CreateWorkerOptions, createWorker, type PgliteInstance } from './worker/create.ts';
export { type CreateFleetOptions, createFleet } from './worker/create-fleet.ts';
export type { Fleet, FleetDatabase, FleetEvents } from './worker/fleet.ts';
export type { WorkerEvents, WorkerLog } from './worker/parts.ts';
export type { Worker } from './worker/worker.ts';
