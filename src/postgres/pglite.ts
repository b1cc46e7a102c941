import type { PGliteInterface, Transaction } from '@electric-sql/pglite';
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
import {
  type Answer,
  answersOf,
  type BackendMessage,
  concat,
  queryMessage,
  statementMessages,
  syncMessage,
} from './pglite-protocol.ts';
import { Turns } from './turns.ts';
import { encodeParameter } from './values.ts';

export type PgliteOptions = {
  /** Shown by `current_setting('application_name')` inside our transactions only. */
  readonly applicationName: string;
  /** Waits between looks at whether the user's transaction has ended. Default: setTimeout. */
  readonly sleep?: (delayMs: number) => Promise<void>;
};

/**
 * A Database on a PGlite instance in the same process. It does not own the instance: `close()` leaves it open.
 *
 * PGlite has one session, and the user's code is in it too. So each operation of ours is a transaction of its own that
 * pins its settings with SET LOCAL, runs while nobody else may use the session, and never starts inside a transaction
 * that somebody holds open (`db.exec('BEGIN')`, `db.transaction`, a client of pglite-socket): it waits until that has ended, for else
 * the user's rollback would undo our writes.
 *
 * Inside `transaction(work)` the instance is locked: a `db.query()` of the user's code waits until `work` has ended, so `work`
 * must not wait for one. Statement timeouts do not act: there are no timers inside WebAssembly.
 *
 * With pglite-socket beside it, PGlite passes a notification to whoever ran the statement that caused it, so commits of socket
 * clients do not reach our `listen`: a worker for a socket-served instance connects through the socket (`connectPg`) and polls.
 */
export function openPglite(db: PGliteInterface, options: PgliteOptions): Database {
  return new PgliteSession(db, options);
}

/**
 * Session authorization first, because it resets the role. The bootstrap superuser has OID 10 on every cluster, whatever its
 * name, and is who a PGlite session starts as.
 */
const beginScript = `
begin isolation level read committed;
set local search_path = pg_catalog, pg_temp;
select pg_catalog.set_config('session_authorization', pg_catalog.pg_get_userbyid(10)::pg_catalog.text, true);
set local role none;
set local client_encoding = 'UTF8';
set local timezone = 'UTC';
set local datestyle = 'ISO, YMD';
set local intervalstyle = 'postgres';
set local bytea_output = 'hex';
set local extra_float_digits = 1;
set local standard_conforming_strings = on;
set local row_security = on;
set local statement_timeout = '60s';
set local lock_timeout = '5s';
set local jit = off;
`;
const begin: Uint8Array = queryMessage(beginScript);
const commit: Uint8Array = queryMessage('commit');
const rollback: Uint8Array = queryMessage('rollback');
const setApplicationName = `select pg_catalog.set_config('application_name', $1, true)`;

/** Between two looks at a session that is in the user's transaction, in milliseconds: doubling from the first to the last. */
const firstDelayMs = 1;
const lastDelayMs = 50;
/** How long close() waits for a transaction of the user to end, in milliseconds. */
const closeGraceMs = 1_000;

/**
 * Methods that the PGlite class has beside its interface. The transaction mutex makes us wait our turn behind
 * `db.transaction()` instead of polling; `isInTransaction` saves a Sync, which would end an extended query that a socket client has
 * begun; `execProtocolStream`, which `query()` uses too, reads our answers, where `execProtocol` hands them to the
 * last caller of `execProtocolRawStream`: a socket client (0.5.14).
 */
type PgliteInternals = {
  execProtocolStream?(
    messages: Uint8Array,
    options: { syncToFs: boolean; throwOnError: boolean },
  ): Promise<readonly BackendMessage[]>;
  _runExclusiveTransaction?<T>(work: () => Promise<T>): Promise<T>;
  isInTransaction?(): boolean;
};

const busy: unique symbol = Symbol('in a transaction of the user');

class PgliteSession implements Database {
  readonly kind = 'pglite';
  readonly ended: Promise<Error | undefined>;
  readonly #db: PGliteInterface & PgliteInternals;
  readonly #sleep: (delayMs: number) => Promise<void>;
  readonly #begin: Uint8Array;
  readonly #turns = new Turns();
  readonly #unlisteners: ((tx?: Transaction) => Promise<void>)[] = [];
  #closed: Promise<void> | undefined;
  #end: { readonly reason: ConnectionLost | undefined } | undefined;
  #resolveEnded: (reason: Error | undefined) => void = () => {};

  constructor(db: PGliteInterface, options: PgliteOptions) {
    this.#db = db;
    this.#sleep = options.sleep ?? ((delayMs) => new Promise((resolve) => setTimeout(resolve, delayMs)));
    this.#begin = concat([begin, statementMessages(setApplicationName, [options.applicationName])]);
    this.ended = new Promise((resolve) => {
      this.#resolveEnded = resolve;
    });
  }

  async query<R extends Row>(statement: Statement, parameters: readonly Parameter[] = []): Promise<readonly R[]> {
    const messages = statementMessages(statement.text, parameters.map(encodeParameter));
    return (await this.#inOwnTransaction(messages)).rows as readonly R[];
  }

  async execute(script: string): Promise<void> {
    await this.#inOwnTransaction(queryMessage(script));
  }

  async transaction<T>(work: (session: Session) => Promise<T>): Promise<T> {
    return await this.#turns.exclusive(() =>
      this.#whenIdle(async () => {
        const scope = { isOpen: true };
        let result: T;
        try {
          await this.#exchange(this.#begin, false);
          result = await work(this.#sessionWithin(scope));
        } catch (error) {
          scope.isOpen = false;
          await this.#exchange(rollback, true).catch(() => {});
          throw error;
        }
        scope.isOpen = false;
        const { command } = await this.#exchange(commit, true);
        if (command !== 'COMMIT') throw abortedTransaction();
        return result;
      }),
    );
  }

  async listen(channel: string, onNotify: (payload: string) => void): Promise<boolean> {
    listenStatement(channel);
    // PGlite counts the listeners of a channel, and its listen() runs LISTEN through the transaction it is given: so the
    // statement is ours (never inside a transaction of the user), and a db.listen() of the user on the channel is not disturbed.
    await this.#turns.exclusive(() => this.#whenIdle(async () => {}));
    const notify = (payload: string): void => {
      if (this.#end === undefined) onNotify(payload);
    };
    this.#unlisteners.push(await this.#guard(() => this.#db.listen(channel, notify, this.#listenThroughUs())));
    return true;
  }

  async reset(): Promise<void> {
    this.#refuseIfOver();
  }

  /** In-process there is nothing that could be lost on the way: it resolves at once unless the instance is closed. */
  async ping(): Promise<void> {
    this.#refuseIfOver();
    await this.#guard(() => this.#db.waitReady);
    this.#refuseIfNotReady();
  }

  async close(): Promise<void> {
    this.#closed ??= this.#shutDown();
    await this.#closed;
  }

  async #shutDown(): Promise<void> {
    const unlisteners = this.#unlisteners.splice(0);
    if (this.#end === undefined && this.#db.ready && unlisteners.length > 0) {
      // Bounded: UNLISTEN waits for a transaction of the user, who may end it only after this close().
      let timer: ReturnType<typeof setTimeout> | undefined;
      const grace = new Promise<void>((resolve) => {
        timer = setTimeout(resolve, closeGraceMs);
      });
      const unlistened = unlisteners.map((unlisten) => unlisten(this.#listenThroughUs()).catch(() => {}));
      await Promise.race([Promise.all(unlistened), grace]);
      clearTimeout(timer);
    }
    this.#finish(undefined);
  }

  #listenThroughUs(): Transaction {
    const exec = async (statement: string): Promise<[]> => {
      await this.execute(statement);
      return [];
    };
    // All that listen() and unlisten() use of a transaction is exec() (src/pglite.ts of 0.5.14).
    return { exec } as Partial<Transaction> as Transaction;
  }

  #sessionWithin(scope: { readonly isOpen: boolean }): Session {
    const run = async (messages: Uint8Array): Promise<Answer> => {
      if (!scope.isOpen) throw new Error('the transaction has ended');
      return await this.#exchange(messages, false);
    };
    return {
      query: async <R extends Row>(statement: Statement, parameters: readonly Parameter[] = []) => {
        const messages = statementMessages(statement.text, parameters.map(encodeParameter));
        return (await run(messages)).rows as readonly R[];
      },
      execute: async (script) => {
        await run(queryMessage(script));
      },
    };
  }

  /** One operation, one call: begin, the statement, commit. A COMMIT after a failed statement rolls back. */
  async #inOwnTransaction(messages: Uint8Array): Promise<Answer> {
    const operation = concat([this.#begin, messages, commit]);
    return await this.#turns.exclusive(() =>
      this.#whenIdle(async () => {
        const answers = await this.#call(operation, true);
        const failed = answers.find((answer) => answer.error !== undefined);
        if (failed?.error !== undefined) throw failed.error;
        const answer = answers.at(-2);
        if (answer === undefined || answers.at(-1)?.command !== 'COMMIT') throw abortedTransaction();
        return answer;
      }),
    );
  }

  /** Runs `work` while it alone may use the session and no transaction is open. */
  async #whenIdle<T>(work: () => Promise<T>): Promise<T> {
    for (let delayMs = firstDelayMs; ; delayMs = Math.min(delayMs * 2, lastDelayMs)) {
      const result = await this.#exclusively(async () => {
        this.#refuseIfNotReady();
        return (await this.#isInTransaction()) ? busy : { value: await work() };
      });
      if (result !== busy) return result.value;
      // Both mutexes are free while we wait: whoever holds the transaction needs them to end it.
      await this.#sleep(delayMs);
    }
  }

  async #exclusively<T>(work: () => Promise<T>): Promise<T> {
    this.#refuseIfOver();
    await this.#guard(() => this.#db.waitReady);
    const inSession = (): Promise<T> => this.#db.runExclusive(work);
    return await (this.#db._runExclusiveTransaction?.(inSession) ?? inSession());
  }

  async #isInTransaction(): Promise<boolean> {
    if (this.#db.isInTransaction !== undefined) return this.#db.isInTransaction();
    return (await this.#call(syncMessage, false)).at(-1)?.status !== 'I';
  }

  /** Sends messages and returns the answer to the last; throws the first error. */
  async #exchange(messages: Uint8Array, syncToFs: boolean): Promise<Answer> {
    this.#refuseIfOver();
    const answers = await this.#call(messages, syncToFs);
    const failed = answers.find((answer) => answer.error !== undefined);
    if (failed?.error !== undefined) throw failed.error;
    const answer = answers.at(-1);
    if (answer === undefined) throw new ConnectionLost('PGlite did not answer');
    return answer;
  }

  async #call(messages: Uint8Array, syncToFs: boolean): Promise<readonly Answer[]> {
    const options = { syncToFs, throwOnError: false };
    const db = this.#db;
    return answersOf(
      await this.#guard(async () =>
        db.execProtocolStream === undefined
          ? (await db.execProtocol(messages, options)).messages
          : await db.execProtocolStream(messages, options),
      ),
    );
  }

  /** What PGlite itself throws (closed, closing, a trap in WebAssembly) ends the session; what PostgreSQL refuses does not. */
  async #guard<T>(use: () => Promise<T>): Promise<T> {
    try {
      return await use();
    } catch (cause) {
      if (cause instanceof PostgresError || cause instanceof ConnectionLost) throw cause;
      const reason = new ConnectionLost(cause instanceof Error ? cause.message : String(cause), { cause });
      this.#finish(reason);
      throw reason;
    }
  }

  #finish(reason: ConnectionLost | undefined): void {
    if (this.#end !== undefined) return;
    this.#end = { reason };
    this.#turns.abandon();
    this.#resolveEnded(reason);
  }

  /** After `waitReady`, an instance that is not ready is closing: its mutexes still let us in. */
  #refuseIfNotReady(): void {
    if (!this.#db.ready) this.#finish(new ConnectionLost('the PGlite instance is closed'));
    this.#refuseIfOver();
  }

  #refuseIfOver(): void {
    if (this.#db.closed) this.#finish(new ConnectionLost('the PGlite instance is closed'));
    if (this.#end === undefined) return;
    const { reason } = this.#end;
    throw new ConnectionLost(
      reason?.message ?? 'the session was closed',
      reason === undefined ? {} : { cause: reason },
    );
  }
}
