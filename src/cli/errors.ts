import { CommanderError } from 'commander';
import { ConfigError } from '../config/worker-config.ts';
import { EmbeddedServerError } from '../embedded/errors.ts';
import { ConnectionLost, PostgresError } from '../postgres/database.ts';
import { SchemaError } from '../schema/errors.ts';
import { redactPasswords } from './redact.ts';

/** A command could not do what it was asked for. The message is one readable paragraph, with what to do. Exit status 1. */
export class CliError extends Error {
  override readonly name = 'CliError';
}

/** The command line makes no sense. Exit status 2. */
export class UsageError extends Error {
  override readonly name = 'UsageError';
}

/** Says on stderr what went wrong and returns the exit status. A stack is shown for PGFETCH_DEBUG=1 alone. */
export function reportError(error: unknown): number {
  if (error instanceof CommanderError && error.exitCode === 0) return 0;
  // Help that was asked for by giving no command goes to stderr by itself.
  if (error instanceof CommanderError && error.code === 'commander.help') return 2;
  process.stderr.write(`pgfetch: ${redactPasswords(explainError(error))}\n`);
  if (process.env['PGFETCH_DEBUG'] === '1' && error instanceof Error) {
    process.stderr.write(`${redactPasswords(stackOf(error))}\n`);
  }
  return error instanceof CommanderError || error instanceof UsageError || error instanceof ConfigError ? 2 : 1;
}

/** Says which option chooses the port that an error is about. */
export function withPortOption(error: unknown, option: string): unknown {
  if (!(error instanceof EmbeddedServerError) || !/choose another port/.test(error.message)) return error;
  return new CliError(error.message.replace('choose another port', `choose another port with ${option}`), {
    cause: error,
  });
}

function stackOf(error: Error): string {
  const own = error.stack ?? String(error);
  return error.cause instanceof Error ? `${own}\ncaused by ${stackOf(error.cause)}` : own;
}

/** What was wrong, and what to do. */
export function explainError(error: unknown): string {
  if (error instanceof CommanderError) {
    return `${error.message.replace(/^error: /, '')}\nSee: pgfetch --help, pgfetch <command> --help`;
  }
  if (error instanceof CliError || error instanceof EmbeddedServerError) return error.message;
  if (error instanceof UsageError || error instanceof ConfigError) return error.message;
  if (error instanceof SchemaError) return sentences(error.message, error.detail, error.hint);
  if (error instanceof PostgresError) {
    return sentences(`${error.message} (SQLSTATE ${error.code})`, error.detail, error.hint ?? adviceFor(error));
  }
  if (error instanceof ConnectionLost) return sentences(error.message, adviceForConnection(error.message));
  const text = error instanceof Error ? error.message : String(error);
  return sentences(
    `unexpected failure: ${text}`,
    'This is a bug in pgfetch; PGFETCH_DEBUG=1 shows where. Please report it.',
  );
}

function sentences(...texts: readonly (string | undefined)[]): string {
  return texts
    .filter((text) => text !== undefined && text !== '')
    .map((text) => (/[.!?:]$/.test(text ?? '') ? text : `${text}.`))
    .join(' ');
}

const howToConnect =
  'Name the database with --database-url, DATABASE_URL, or PGHOST, PGPORT, PGUSER, PGPASSWORD and PGDATABASE';

function adviceFor(error: PostgresError): string | undefined {
  switch (error.code) {
    case '28P01':
    case '28000':
      return `The server refused this user. ${howToConnect}; a password with special characters must be percent-encoded in a URL.`;
    case '3D000':
      return 'Create that database, or name another one.';
    case '53300':
      return 'The server has no free connection; raise max_connections, or close some.';
    case '42501':
      if (/permission denied for database/.test(error.message)) {
        return 'Installing takes the right to create a schema: GRANT CREATE ON DATABASE ... TO ..., or run it as the owner of the database.';
      }
      return 'Run it as the owner of the schema net, or as a role that was granted net_admin (to look) or net_worker (to serve).';
    case '25006':
      return 'The server or the role allows reading only; connect to the primary.';
    default:
      return undefined;
  }
}

function adviceForConnection(message: string): string {
  if (/password must be a string|no password/i.test(message)) {
    return `The server wants a password. ${howToConnect}.`;
  }
  if (/does not support SSL/i.test(message)) {
    return 'Use sslmode=prefer or sslmode=disable in the connection string, or PGSSLMODE.';
  }
  if (/certificate|self[- ]signed/i.test(message)) {
    return 'Give the authority that signed it (sslrootcert=file in the connection string, or PGSSLROOTCERT); sslmode=require encrypts without checking.';
  }
  return `Is the server running, and are host and port right? ${howToConnect}.`;
}
