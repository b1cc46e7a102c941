import { randomUUID } from 'node:crypto';
import pg from 'pg';
import {
  abortedTransaction,
  ConnectionLost,
  type Database,
  listenStatement,
  type Parameter,
  PostgresError,
  type Row,
  type Session,
  type Statement,
} from './database.ts';
import { attemptsOf, describeTarget, type PgAttempt, type PgTarget } from './pg-target.ts';
import { pinSettings, sessionSettings } from './session-settings.ts';
import { Turns } from './turns.ts';
import { encodeParameter, textParser } from './values.ts';

/** A notice or warning of the server. */
export type PgNotice = { readonly severity: string; readonly code: string; readonly message: string };

export type PgConnectOptions = PgTarget & {
  /** Shown in pg_stat_activity; replaces one in the connection string. At most 63 bytes. */
  readonly applicationName: string;
  /** Bounds name lookup, connect, TLS, authentication and the pinning of settings together, in milliseconds. */
  readonly connectTimeoutMs: number;
  /**
   * Default true: statements are prepared once, settings pinned for the session. False behind a transaction-mode pooler,
   * where the next statement may run in another server session: then nothing is kept in the session, each statement runs
   * in a transaction of its own with the settings made local (four messages in one flight). A pooler that does not show
   * the server's process id, and pglite-socket, are recognised and treated so by themselves.
   */
  readonly prepare?: boolean;
  /** Settings merged over {@link sessionSettings}, as `set_config` takes them; those unknown to the server are left out. */
  readonly sessionSettings?: Readonly<Record<string, string>>;
  /** Called for each notice of the server. Default: none. */
  readonly onNotice?: (notice: PgNotice) => void;
  /** Makes the unguessable part of the channel on which {@link Database.listen} tests itself. Default: a random UUID. */
  readonly randomId?: () => string;
};

/** How long close() waits for the server's answers, in milliseconds. */
const closeGraceMs = 1_000;
/** How long a committed notification may take to arrive before listen() calls it impossible, in milliseconds. */
const probeTimeoutMs = 1_000;
/** First TCP keep-alive probe on an idle connection, in milliseconds; NAT gateways forget after minutes. */
const keepAliveDelayMs = 30_000;

/**
 * Opens one session over node-postgres. Rejects with `PostgresError` for what the server refused (28P01, 3D000, 53300, ...)
 * and `ConnectionLost` where there was no server to refuse; the message names user, host, port and database.
 */
export async function connectPg(options: PgConnectOptions): Promise<Database> {
  const attempts = attemptsOf(options);
  for (const attempt of attempts.slice(0, -1)) {
    try {
      return await PgSession.open(attempt, options);
    } catch (error) {
      // The words of pg/lib/connection.js; anything else a second attempt without TLS would only hide.
      if (!(error instanceof Error) || !error.message.includes('does not support SSL')) throw error;
    }
  }
  return await PgSession.open(attempts.at(-1) ?? {}, options);
}

/** A Sync message alone: answered by ReadyForQuery, seen by no statement statistics. Pipelining accepts only subclasses of Query. */
class SyncQuery extends pg.Query {
  override submit = (connection: pg.Connection): void => connection.sync();
}

/** What client.query() takes; `queryMode: 'extended'` is missing in @types/pg and allows one statement only. */
type WireQuery = pg.QueryConfig & { readonly queryMode?: 'extended' };

const begin: WireQuery = { text: 'begin isolation level read committed' };
const commit: WireQuery = { text: 'commit' };
const rollback: WireQuery = { text: 'rollback' };
const identify = 'select pg_catalog.pg_backend_pid() as pid, pg_catalog.version() as version';

class PgSession implements Database {
  readonly kind = 'pg';
  readonly ended: Promise<Error | undefined>;
  readonly #client: pg.Client;
  readonly #options: PgConnectOptions;
  readonly #attempt: PgAttempt;
  readonly #turns = new Turns();
  readonly #listeners = new Map<string, Set<(payload: string) => void>>();
  /** How often a statement's name was replaced because the server no longer holds (or may use) the prepared one. */
  readonly #renamed = new Map<string, number>();
  #sharesServerSession = false;
  #hearsNotifications: Promise<boolean> | undefined;
  #closed: Promise<void> | undefined;
  /** Why the session ended; `undefined` while it lives. */
  #end: { readonly reason: ConnectionLost | undefined } | undefined;
  #resolveEnded: (reason: Error | undefined) => void = () => {};

  static async open(attempt: PgAttempt, options: PgConnectOptions): Promise<Database> {
    const session = new PgSession(attempt, options);
    await session.#connect();
    return session;
  }

  private constructor(attempt: PgAttempt, options: PgConnectOptions) {
    this.#options = options;
    this.#attempt = attempt;
    this.ended = new Promise((resolve) => {
      this.#resolveEnded = resolve;
    });
    const client = new pg.Client({
      ...attempt,
      application_name: options.applicationName,
      pipeline: true,
      keepAlive: true,
      keepAliveInitialDelayMillis: keepAliveDelayMs,
      enableChannelBinding: true,
      types: { getTypeParser: textParser as typeof pg.types.getTypeParser },
    });
    client.on('error', (error) => this.#lose(lostBecause(error)));
    client.on('end', () => this.#lose(new ConnectionLost('the server closed the connection')));
    client.on('notification', ({ channel, payload }) => {
      for (const notify of this.#listeners.get(channel) ?? []) notify(payload ?? '');
    });
    client.on('notice', ({ severity, code, message }) => {
      options.onNotice?.({ severity: severity ?? '', code: code ?? '', message: message ?? '' });
    });
    this.#client = client;
  }

  async query<R extends Row>(statement: Statement, parameters: readonly Parameter[] = []): Promise<readonly R[]> {
    return await this.#turns.shared(async () => {
      if (!this.#sharesServerSession) return await this.#prepared<R>(statement, parameters, 'retry');
      return rowsOf<R>(await this.#inOwnTransaction(unnamed(statement, parameters)));
    });
  }

  async execute(script: string): Promise<void> {
    await this.#turns.shared(() =>
      this.#sharesServerSession ? this.#inOwnTransaction({ text: script }) : this.#send({ text: script }),
    );
  }

  async transaction<T>(work: (session: Session) => Promise<T>): Promise<T> {
    return await this.#turns.exclusive(async () => {
      await this.#send(begin);
      const scope = { isOpen: true };
      let result: T;
      try {
        if (this.#sharesServerSession) await this.#send(this.#pinning(true));
        result = await work(this.#sessionWithin(scope));
      } catch (error) {
        scope.isOpen = false;
        // A rollback without answer means that the session is over: then the server rolls back by itself.
        await this.#send(rollback).catch(() => {});
        throw error;
      }
      scope.isOpen = false;
      const { command } = await this.#send(commit);
      if (command !== 'COMMIT') throw abortedTransaction();
      return result;
    });
  }

  async listen(channel: string, onNotify: (payload: string) => void): Promise<boolean> {
    const text = listenStatement(channel);
    this.#hearsNotifications ??= this.#probeNotifications();
    if (!(await this.#hearsNotifications)) return false;
    const notified = this.#listeners.get(channel) ?? new Set();
    this.#listeners.set(channel, notified.add(onNotify));
    try {
      await this.#turns.shared(() => this.#send({ text }));
    } catch (error) {
      notified.delete(onNotify);
      throw error;
    }
    return true;
  }

  async reset(): Promise<void> {
    await this.#turns.exclusive(async () => {
      await this.#send({ text: 'discard all' });
      if (!this.#sharesServerSession) await this.#send(this.#pinning(false));
    });
  }

  async ping(timeoutMs: number): Promise<void> {
    this.#refuseIfOver();
    const timer = setTimeout(() => {
      this.#lose(new ConnectionLost(`the server did not answer a Sync within ${timeoutMs} ms`));
    }, timeoutMs);
    try {
      await new Promise<void>((resolve, reject) => {
        this.#client.query(new SyncQuery('', (error) => (error ? reject(error) : resolve())));
      });
    } catch (error) {
      throw this.#translate(error);
    } finally {
      clearTimeout(timer);
    }
  }

  async close(): Promise<void> {
    this.#closed ??= this.#shutDown();
    await this.#closed;
  }

  /** Connects, pins and finds out whether the server session is ours alone. */
  async #connect(): Promise<void> {
    const { connectTimeoutMs } = this.#options;
    const timer = setTimeout(() => {
      this.#lose(new ConnectionLost(`no session within ${connectTimeoutMs} ms`));
    }, connectTimeoutMs);
    try {
      await this.#client.connect();
      this.#sharesServerSession = this.#options.prepare === false || !(await this.#isDirect());
      if (!this.#sharesServerSession) await this.#send(this.#pinning(false));
    } catch (error) {
      const cause = this.#translate(error);
      this.#lose(new ConnectionLost('the connection was given up', { cause }));
      throw describeConnectError(cause, describeTarget(this.#client));
    } finally {
      clearTimeout(timer);
    }
  }

  /** A pooler answers the handshake with a process id of its own; behind pglite-socket all clients have one session. */
  async #isDirect(): Promise<boolean> {
    const [row] = rowsOf(await this.#send({ text: identify }));
    const { processID } = this.#client as pg.Client & { readonly processID?: number | null };
    return row?.['pid'] === processID && !String(row?.['version']).includes('PGlite');
  }

  #pinning(isLocal: boolean): WireQuery {
    const settings = {
      ...sessionSettings,
      // A shared session may carry the SET ROLE of another client.
      ...(this.#sharesServerSession ? { role: 'none' } : {}),
      application_name: this.#options.applicationName,
      ...this.#options.sessionSettings,
    };
    const names = Object.keys(settings);
    const statement = { name: '', text: pinSettings };
    return unnamed(statement, [names, Object.values(settings), isLocal]);
  }

  #sessionWithin(scope: { readonly isOpen: boolean }): Session {
    const assertOpen = (): void => {
      if (!scope.isOpen) throw new Error('the transaction has ended');
    };
    return {
      query: async <R extends Row>(statement: Statement, parameters: readonly Parameter[] = []) => {
        assertOpen();
        if (this.#sharesServerSession) return rowsOf<R>(await this.#send(unnamed(statement, parameters)));
        return await this.#prepared<R>(statement, parameters, 'fail');
      },
      execute: async (script) => {
        assertOpen();
        await this.#send({ text: script });
      },
    };
  }

  /**
   * Runs a prepared statement. After DISCARD ALL, or DDL that changed its columns, the server refuses it before it runs;
   * then it gets a new name, and outside a transaction it is sent again.
   */
  async #prepared<R extends Row>(
    statement: Statement,
    parameters: readonly Parameter[],
    ifUnusable: 'retry' | 'fail',
  ): Promise<readonly R[]> {
    const renamed = this.#renamed.get(statement.name) ?? 0;
    const name = renamed === 0 ? statement.name : `${statement.name}~${renamed}`;
    try {
      return rowsOf<R>(await this.#send({ ...unnamed(statement, parameters), name }));
    } catch (error) {
      if (!isUnusablePlan(error)) throw error;
      this.#renamed.set(statement.name, renamed + 1);
      if (ifUnusable === 'fail') throw error;
      return await this.#prepared<R>(statement, parameters, 'fail');
    }
  }

  async #inOwnTransaction(query: WireQuery): Promise<pg.QueryResult<Row>> {
    const answers = await Promise.allSettled(
      [begin, this.#pinning(true), query, commit].map((each) => this.#send(each)),
    );
    const results = answers.map((answer) => {
      if (answer.status === 'rejected') throw answer.reason;
      return answer.value;
    });
    if (results[3]?.command !== 'COMMIT' || results[2] === undefined) throw abortedTransaction();
    return results[2];
  }

  /** Puts a query on the wire at once, behind those already there. */
  async #send(query: WireQuery): Promise<pg.QueryResult<Row>> {
    this.#refuseIfOver();
    try {
      return await this.#client.query<Row>(query);
    } catch (error) {
      throw this.#translate(error);
    }
  }

  /**
   * Whether a notification of another session reaches this one while it is idle. A session's own notifications prove
   * nothing: a pooler and a socket-served PGlite pass those on with the answer. So a second, short connection sends it, on
   * a channel that nobody else listens to. Where there is no second connection to be had, nobody can tell: false.
   */
  async #probeNotifications(): Promise<boolean> {
    const channel = `pgfetch_probe_${(this.#options.randomId ?? randomUUID)().replace(/\W/g, '')}`;
    let timer: NodeJS.Timeout | undefined;
    const heard = new Promise<boolean>((resolve) => {
      this.#listeners.set(channel, new Set([() => resolve(true)]));
    });
    try {
      await this.#turns.shared(() => this.#send({ text: listenStatement(channel) }));
      const notifier = await PgSession.open(this.#attempt, this.#options);
      const text = 'select pg_catalog.pg_notify($1, $2)';
      await notifier.query({ name: 'pgfetch_probe', text }, [channel, '']).finally(() => notifier.close());
      const late = new Promise<boolean>((resolve) => {
        timer = setTimeout(() => resolve(false), probeTimeoutMs);
      });
      return await Promise.race([heard, late]);
    } catch {
      this.#refuseIfOver();
      return false;
    } finally {
      clearTimeout(timer);
      this.#listeners.delete(channel);
      await this.#turns.shared(() => this.#send({ text: `un${listenStatement(channel)}` })).catch(() => {});
    }
  }

  async #shutDown(): Promise<void> {
    if (this.#end !== undefined) return;
    this.#end = { reason: undefined };
    const timer = setTimeout(() => this.#client.connection.stream.destroy(), closeGraceMs);
    await this.#client.end().catch(() => {});
    clearTimeout(timer);
    this.#turns.abandon();
    this.#resolveEnded(undefined);
  }

  /** Ends the session for a reason that is not ours. The first reason counts. */
  #lose(reason: ConnectionLost): void {
    if (this.#end !== undefined) return;
    this.#end = { reason };
    this.#client.connection.stream.destroy();
    this.#turns.abandon();
    this.#resolveEnded(reason);
  }

  #refuseIfOver(): void {
    if (this.#end !== undefined) throw this.#overError();
  }

  #overError(): ConnectionLost {
    const reason = this.#end?.reason;
    return new ConnectionLost(
      reason?.message ?? 'the session was closed',
      reason === undefined ? {} : { cause: reason },
    );
  }

  /** What the caller gets to see of an error of pg. */
  #translate(error: unknown): unknown {
    if (error instanceof ConnectionLost || error instanceof PostgresError) return error;
    if (error instanceof pg.DatabaseError && !endsSession(error)) return postgresError(error);
    if (error instanceof pg.DatabaseError) this.#lose(lostBecause(error));
    // Errors of pg itself are told apart by nothing but the session's state: dead, or a bug of ours.
    return this.#end === undefined ? error : this.#overError();
  }
}

function unnamed({ text }: Statement, parameters: readonly Parameter[]): WireQuery {
  return { text, values: parameters.map(encodeParameter), queryMode: 'extended' };
}

function rowsOf<R extends Row>(result: pg.QueryResult<Row>): readonly R[] {
  return result.rows as R[];
}

/** Class 57P (shutdown, crash, database dropped, idle timeout), 08 (connection), 25P03 and 25P04 (transaction timeouts) are FATAL. */
function endsSession({ code }: pg.DatabaseError): boolean {
  return /^(?:57P|08|25P0[34])/.test(code ?? '');
}

/** 26000: the name is gone. RevalidateCachedQuery, the C function, is the only 0A000 that means a changed result type. */
function isUnusablePlan(error: unknown): boolean {
  if (!(error instanceof PostgresError)) return false;
  const { cause } = error;
  return error.code === '26000' || (cause instanceof pg.DatabaseError && cause.routine === 'RevalidateCachedQuery');
}

function postgresError(error: pg.DatabaseError): PostgresError {
  return new PostgresError(error.message, error.code ?? 'XX000', error.detail, error.hint, { cause: error });
}

function lostBecause(cause: Error): ConnectionLost {
  return new ConnectionLost(reasonOf(cause), { cause });
}

/** Connecting to a name with several addresses fails with an AggregateError whose own message is empty. */
function reasonOf(error: Error): string {
  if (error instanceof AggregateError) {
    return error.errors.map((each) => (each instanceof Error ? each.message : String(each))).join(', ');
  }
  return error.message;
}

function describeConnectError(error: unknown, target: string): Error {
  const message = `cannot connect to ${target}: ${error instanceof Error ? reasonOf(error) : String(error)}`;
  if (error instanceof PostgresError) {
    return new PostgresError(message, error.code, error.detail, error.hint, { cause: error });
  }
  return new ConnectionLost(message, { cause: error });
}
