import { PostgresError } from '../postgres/database.ts';

/** The database, or the encoding of so much, refused; the session goes on. */
export function isRefusal(error: unknown): error is PostgresError | RangeError {
  return error instanceof PostgresError || error instanceof RangeError;
}

/** A response too large for one string of JavaScript is refused as one too large for a field of PostgreSQL is. */
export function asPostgresError(error: PostgresError | RangeError): PostgresError {
  return error instanceof PostgresError ? error : new PostgresError(error.message, '54000');
}

/** Class 22 (data exception), 54 (program limit exceeded): another form of it may be accepted. */
export function isAboutTheData(error: PostgresError): boolean {
  return /^(22|54)/.test(error.code);
}

/** What one row may be refused for while others are taken: its data, a constraint, a lock, a trigger of the user's. */
export function isAboutTheRow(error: PostgresError): boolean {
  return /^(22|23|40|54|P0|55P03|57014)/.test(error.code);
}

/** Somebody has locked what it was about. */
export function isLocked(error: unknown): boolean {
  return error instanceof PostgresError && error.code === '55P03';
}
