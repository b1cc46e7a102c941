import { extensionFiles } from '../schema/scripts.ts';
import {
  type EmbeddedPostgres,
  type EmbeddedPostgresOptions,
  startEmbeddedPostgres as startPlainServer,
} from './postgres.ts';

/**
 * Starts a real PostgreSQL server on 127.0.0.1 that belongs to this process, with the extension `pg_net` at hand: `CREATE
 * EXTENSION pg_net` installs the schema `net` and makes `pg_settings` show its settings. The binaries come from npm.
 *
 * A second start of the same directory throws `EmbeddedServerRunningError`, which says where the running one answers. The server
 * stops when this process exits or is killed; signals are the caller's business.
 *
 * @example
 * ```ts
 * const server = await startEmbeddedPostgres({ directory: '.pgfetch' });
 * console.log(server.connectionString); // postgres://postgres@127.0.0.1:PORT/postgres
 * await server.stop();
 * ```
 *
 * @throws `EmbeddedServerError` with what was wrong and what to do.
 */
export async function startEmbeddedPostgres(options: EmbeddedPostgresOptions): Promise<EmbeddedPostgres> {
  const ours = await extensionFiles({ showSettings: true });
  return await startPlainServer({ ...options, extensionFiles: { ...ours, ...options.extensionFiles } });
}
