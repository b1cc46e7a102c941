import type { Row, Session, Statement } from '../postgres/database.ts';

const serverStatement: Statement = {
  name: 'pgfetch_server',
  text: `
    select
      pg_catalog.current_setting('server_version_num')::integer as version_number,
      pg_catalog.current_setting('server_version') as version,
      pg_catalog.version() ~* '(emscripten|emcc|wasm)' as is_pglite,
      pg_catalog.pg_is_in_recovery() as in_recovery,
      pg_catalog.current_setting('default_transaction_read_only')::boolean as is_read_only,
      pg_catalog.current_database()::text as database,
      current_user::text as role,
      (extract(epoch from pg_catalog.clock_timestamp()) * 1000)::double precision as clock_ms`,
};

export type ServerFacts = {
  readonly major: number;
  /** As the server writes it: `18.1 (Debian ...)`. */
  readonly version: string;
  readonly isPglite: boolean;
  readonly isStandby: boolean;
  /** `default_transaction_read_only` is on: nothing can be written. */
  readonly isReadOnly: boolean;
  readonly database: string;
  readonly role: string;
  /** Its clock, in milliseconds since 1970. */
  readonly clockMs: number;
};

/** What can be known of a server without our schema. */
export async function readServer(session: Session): Promise<ServerFacts> {
  type ServerRow = Row & {
    version_number: number;
    version: string;
    is_pglite: boolean;
    in_recovery: boolean;
    is_read_only: boolean;
    database: string;
    role: string;
    clock_ms: number;
  };
  const [row] = await session.query<ServerRow>(serverStatement);
  if (row === undefined) {
    throw new Error('the server statement returned no row');
  }
  return {
    major: Math.floor(row.version_number / 10_000),
    version: row.version,
    isPglite: row.is_pglite,
    isStandby: row.in_recovery,
    isReadOnly: row.is_read_only,
    database: row.database,
    role: row.role,
    clockMs: row.clock_ms,
  };
}
