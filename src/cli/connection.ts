import type { Command } from 'commander';
import { version } from '../config/version.ts';
import { connectionStringProblem } from '../config/worker-config.ts';
import type { Database } from '../postgres/database.ts';
import { connectPg, type PgNotice } from '../postgres/pg.ts';
import { UsageError } from './errors.ts';

const connectTimeoutMs = 10_000;
const sslModes = ['disable', 'allow', 'prefer', 'require', 'verify-ca', 'verify-full'];

/**
 * Which databases are meant: --database-url, as often as it is given, else DATABASE_URL, else the PG* variables (the empty
 * string, which leaves it to those).
 */
export function connectionStringsOf(command: Command): readonly string[] {
  const { databaseUrl } = command.optsWithGlobals<{ databaseUrl?: readonly string[] }>();
  const source = databaseUrl === undefined ? 'DATABASE_URL' : '--database-url';
  return (databaseUrl ?? [process.env['DATABASE_URL'] ?? '']).map((given) => {
    if (databaseUrl !== undefined && given === '') {
      throw new UsageError('--database-url is empty. Is the variable set that it was made from?');
    }
    const problem = connectionStringProblem(given);
    if (problem !== undefined) throw new UsageError(`${source} ${problem}.`);
    return withTlsOfEnvironment(given);
  });
}

/** Which database is meant, for a command that works with one. */
export function connectionStringOf(command: Command): string {
  const [only = '', ...more] = connectionStringsOf(command);
  if (more.length > 0) {
    throw new UsageError('--database-url is given more than once; only pgfetch worker serves several databases.');
  }
  return only;
}

/** node-postgres reads PGSSLMODE in a way of its own; in the string it means what it means in libpq. */
export function withTlsOfEnvironment(connectionString: string): string {
  const mode = process.env['PGSSLMODE'];
  const isUrl = /^postgres(ql)?:/i.test(connectionString);
  if (
    mode === undefined ||
    mode === '' ||
    /[?&]sslmode=/.test(connectionString) ||
    !(isUrl || connectionString === '')
  ) {
    return connectionString;
  }
  if (!sslModes.includes(mode)) {
    throw new UsageError(`PGSSLMODE is ${JSON.stringify(mode)}; it must be one of ${sslModes.join(', ')}.`);
  }
  const rootCertificate = process.env['PGSSLROOTCERT'];
  const parameters = new URLSearchParams({
    sslmode: mode,
    ...(rootCertificate ? { sslrootcert: rootCertificate } : {}),
  });
  const base = isUrl ? connectionString : 'postgres:///';
  return `${base}${base.includes('?') ? '&' : '?'}${parameters}`;
}

/** Connects, does `work`, and disconnects. Warnings and notices of the server go to stderr. */
export async function withDatabase<T>(command: Command, work: (db: Database) => Promise<T>): Promise<T> {
  const db = await connectPg({
    connectionString: connectionStringOf(command),
    applicationName: `pgfetch ${version}`,
    connectTimeoutMs,
    onNotice: showNotice,
  });
  try {
    return await work(db);
  } finally {
    await db.close();
  }
}

function showNotice({ severity, message }: PgNotice): void {
  process.stderr.write(`${severity.toLowerCase()}: ${message}\n`);
}
