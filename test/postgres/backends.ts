import { PGlite } from '@electric-sql/pglite';
import pg from 'pg';
import type { Database } from '../../src/postgres/database.ts';
import { connectPg } from '../../src/postgres/pg.ts';
import { openPglite } from '../../src/postgres/pglite.ts';
import { availableMajors, createDatabase, startTestPostgres } from '../support/servers.ts';

/** What a backend cannot do is declared here and nowhere else in the contract suite. */
export type Capabilities = {
  /** Another session exists: it can notify, lock and terminate. */
  readonly severalSessions: boolean;
  /** `ALTER ROLE ... SET` is applied at login. */
  readonly roleDefaults: boolean;
};

export type Backend = {
  readonly name: string;
  readonly capabilities: Capabilities;
  start(): Promise<RunningBackend>;
};

export type RunningBackend = {
  /** Opens a Database on the backend's test database; as another `user` only where there are role defaults. */
  open(user?: string): Promise<Database>;
  /** Runs SQL as the user's own code would, beside the Databases opened. */
  asUser(sql: string, values?: readonly unknown[]): Promise<readonly Record<string, unknown>[]>;
  stop(): Promise<void>;
};

function pgBackend(name: string, major: ReturnType<typeof availableMajors>[number], prepare: boolean): Backend {
  return {
    name,
    capabilities: { severalSessions: true, roleDefaults: true },
    async start() {
      const server = await startTestPostgres({ major });
      const database = await createDatabase(server);
      const user = new pg.Client({ connectionString: database.url });
      await user.connect();
      return {
        open: (role) =>
          connectPg({
            connectionString: database.url,
            applicationName: 'pgfetch contract test',
            connectTimeoutMs: 10_000,
            prepare,
            ...(role === undefined ? {} : { user: role }),
          }),
        asUser: async (sql, values = []) => (await user.query(sql, [...values])).rows,
        async stop() {
          await user.end();
          await database.drop();
        },
      };
    },
  };
}

const pgliteBackend: Backend = {
  name: 'PGlite',
  capabilities: { severalSessions: false, roleDefaults: false },
  async start() {
    const db = await PGlite.create();
    return {
      open: async () => openPglite(db, { applicationName: 'pgfetch contract test' }),
      asUser: async (sql, values = []) => (await db.query<Record<string, unknown>>(sql, [...values])).rows,
      stop: () => db.close(),
    };
  },
};

export const backends: readonly Backend[] = [
  ...availableMajors().map((major) => pgBackend(`PostgreSQL ${major}`, major, true)),
  pgBackend('PostgreSQL 18, session shared', 18, false),
  pgliteBackend,
];
