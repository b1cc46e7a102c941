import type pg from 'pg';
import { type ConnectionOptions, parse } from 'pg-connection-string';
import { PostgresError } from './database.ts';

/** Where to connect: what {@link connectPg} needs of its options to find the server. */
export type PgTarget = {
  /**
   * `postgres://user:password@host:port/database?sslmode=require`, a socket directory `/dir database`, or empty.
   * What it leaves out comes from the PG* environment variables. `sslmode` means what it means in libpq (`require` encrypts
   * without checking the certificate, `verify-full` checks it), because that is what these strings are written for.
   */
  readonly connectionString: string;
  /** Replaces the database of the string. */
  readonly database?: string;
  /** Replaces the user of the string; the password stays that of the string. */
  readonly user?: string;
};

/** One way to try; a string with `sslmode=prefer` has two. */
export type PgAttempt = Pick<
  pg.ClientConfig,
  'user' | 'password' | 'host' | 'port' | 'database' | 'ssl' | 'sslnegotiation' | 'options'
>;

/**
 * The ways to reach the target, in order. `sslmode=prefer` and `allow` try TLS first, then go without it where the server
 * has none (libpq's order for `allow` is the reverse; the outcome with such a server is the same).
 */
export function attemptsOf(target: PgTarget): readonly PgAttempt[] {
  const parsed = parseString(target.connectionString);
  const { user, password, host, port, database, ssl, sslnegotiation, options } = parsed;
  const attempt: PgAttempt = {
    ...(user ? { user } : {}),
    ...(password ? { password } : {}),
    ...(host ? { host } : {}),
    ...(port ? { port: Number(port) } : {}),
    ...(database ? { database } : {}),
    ...(options ? { options } : {}),
    ...(sslnegotiation ? { sslnegotiation } : {}),
    ...(target.user === undefined ? {} : { user: target.user }),
    ...(target.database === undefined ? {} : { database: target.database }),
  };
  // The parser's types and pg's differ in the optional parts of the same object (`cert` may be null in one).
  const tls = ssl as PgAttempt['ssl'];
  const sslMode = parsed['sslmode'];
  if (sslMode === 'prefer' || sslMode === 'allow') {
    const unchecked = { ...(typeof tls === 'object' ? tls : {}), rejectUnauthorized: false };
    return [
      { ...attempt, ssl: unchecked },
      { ...attempt, ssl: false },
    ];
  }
  // Not libpq's but node-postgres's word, which its parser forgets when it follows libpq.
  if (sslMode === 'no-verify') {
    return [{ ...attempt, ssl: { ...(typeof tls === 'object' ? tls : {}), rejectUnauthorized: false } }];
  }
  return [tls === undefined ? attempt : { ...attempt, ssl: tls }];
}

function parseString(connectionString: string): ConnectionOptions {
  if (connectionString === '') return { host: null, database: undefined };
  try {
    return parse(connectionString, { useLibpqCompat: !connectionString.includes('uselibpqcompat=') });
  } catch (cause) {
    // The parser's own message may quote the string, and with it the password.
    if (cause instanceof Error && cause.message.startsWith('SECURITY WARNING')) throw cause;
    throw new PostgresError(
      'the connection string cannot be read',
      '08001',
      undefined,
      'It looks like postgres://user:password@host:5432/database; percent-encode special characters in the password.',
    );
  }
}

/** `user@host:port/database`, for messages; never the password. */
export function describeTarget(client: pg.Client): string {
  const host = client.host.includes(':') ? `[${client.host}]` : client.host;
  return `${client.user ?? ''}@${host}:${client.port}/${client.database ?? ''}`;
}
