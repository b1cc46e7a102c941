import pg from 'pg';
import { attemptsOf } from './pg-target.ts';

/** Where a connection string leads, with what it leaves out filled in from the PG* environment variables. */
export type Endpoint = {
  readonly host: string;
  readonly port: number;
  readonly database: string;
  readonly user: string;
};

/** Resolves a connection string without connecting. Throws where it cannot be read, or names a certificate that is not there. */
export function endpointOf(connectionString: string): Endpoint {
  const [attempt = {}] = attemptsOf({ connectionString });
  const { host, port, database, user } = new pg.Client({ ...attempt });
  return { host, port, database: database ?? user ?? '', user: user ?? '' };
}

/** `host:port`, for messages. */
export function serverOf({ host, port }: Endpoint): string {
  return host.includes(':') ? `[${host}]:${port}` : `${host}:${port}`;
}
