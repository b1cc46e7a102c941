/**
 * The database port: all that pgfetch asks of a PostgreSQL session. One object is one session; statements run in the
 * order in which they were given. Two adapters implement it (`pg.ts`, `pglite.ts`), and one contract suite holds both.
 */

/**
 * A value that travels as a statement parameter. The statement says its type by a cast (`$1::bytea[]`); `undefined` does
 * not exist, null does. An array of bytes is a `bytea[]`, any other array is sent as text (`text[]`, `bigint[]`, ...).
 */
export type Parameter =
  | string
  | number
  | bigint
  | boolean
  | null
  | Uint8Array
  | readonly (string | number | bigint | boolean | null)[]
  | readonly (Uint8Array | null)[];

/** A constant statement. `name` (at most 50 bytes, unique per text) makes it a prepared one where the connection can keep those. */
export type Statement = {
  readonly name: string;
  readonly text: string;
};

/**
 * A row as both adapters parse it: int8 as bigint; int2, int4, oid, float4, float8 as number; bool as boolean; bytea as
 * Uint8Array; timestamptz as Date (±infinity is the first or last instant a Date can hold); arrays of these and of text as
 * arrays; everything else, json(b), numeric and xid8 included, as PostgreSQL's text.
 */
export type Row = Record<string, unknown>;

/** What may run inside {@link Database.transaction}. */
export type Session = {
  /** Runs one statement and returns its rows. Throws `PostgresError` for what the server refused, `ConnectionLost` otherwise. */
  query<R extends Row>(statement: Statement, parameters?: readonly Parameter[]): Promise<readonly R[]>;
  /**
   * Runs several statements separated by semicolons, without parameters (install scripts): all of them or none. What
   * cannot run in a transaction block (VACUUM, ALTER SYSTEM, CREATE DATABASE) does not belong here.
   */
  execute(script: string): Promise<void>;
};

export type Database = Session & {
  /** `pg` or `pglite`: for messages, never for branching on SQL. */
  readonly kind: 'pg' | 'pglite';
  /**
   * Runs `work` in one READ COMMITTED transaction; commits when it returns, rolls back and rethrows when it throws. Other
   * statements of this Database wait until it has ended, so `work` must use the session it is given and no other. If the
   * connection is lost during the commit, whether it happened is unknown.
   */
  transaction<T>(work: (session: Session) => Promise<T>): Promise<T>;
  /**
   * LISTENs on `channel` (lower-case letters, digits and `_`). Returns false where notifications of other sessions cannot
   * arrive on this connection (a transaction-mode pooler, PGlite behind a socket): the caller must poll. Listening lasts
   * until the session ends.
   */
  listen(channel: string, onNotify: (payload: string) => void): Promise<boolean>;
  /**
   * Forgets what statements have left in the session: settings, temporary tables, cursors, prepared statements, advisory locks,
   * LISTENs, those of {@link listen} included. In PGlite, whose session is its user's, nothing.
   */
  reset(): Promise<void>;
  /**
   * Resolves if the server answers a protocol-level Sync, which is no statement, within `timeoutMs`; otherwise the session
   * is ended and it rejects with `ConnectionLost`. The answer comes after those of the statements already in flight, so
   * give a time above the statement timeout (60 s) or ask while idle.
   */
  ping(timeoutMs: number): Promise<void>;
  /** Resolves once, when the session has ended, with the reason (undefined after `close`). */
  readonly ended: Promise<Error | undefined>;
  /** Ends the session. Never throws; safe to call twice. Statements that have no answer after a second reject. */
  close(): Promise<void>;
};

/** A statement the server refused: SQLSTATE, and what it said beside the message. */
export class PostgresError extends Error {
  override readonly name = 'PostgresError';
  readonly code: string;
  readonly detail: string | undefined;
  readonly hint: string | undefined;
  constructor(message: string, code: string, detail?: string, hint?: string, options?: ErrorOptions) {
    super(message, options);
    this.code = code;
    this.detail = detail;
    this.hint = hint;
  }
}

/** The session is gone: a lost network, a server restart, an administrator's command. */
export class ConnectionLost extends Error {
  override readonly name = 'ConnectionLost';
}

const channelPattern = /^[a-z_][a-z0-9_]{0,62}$/;

/** The LISTEN statement of a channel; throws for a name that would need quoting. LISTEN takes no parameters, hence a text. */
export function listenStatement(channel: string): string {
  if (!channelPattern.test(channel)) throw new TypeError(`not a channel name: ${JSON.stringify(channel)}`);
  return `listen ${channel}`;
}

/** A transaction that an earlier error had aborted was to be committed: the server rolled it back without an error. */
export function abortedTransaction(): PostgresError {
  return new PostgresError(
    'the transaction was rolled back, not committed: a statement in it had failed',
    '25P02',
    undefined,
    'Let the error of the failed statement leave the function given to transaction().',
  );
}
