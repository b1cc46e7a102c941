import { type Database, PostgresError } from '../postgres/database.ts';
import { readDatabases } from '../store/databases.ts';
import { explain } from './explain.ts';
import { examine } from './opening.ts';
import type { WorkerLog } from './parts.ts';
import { explainFailure } from './problems.ts';
import type { Worker } from './worker.ts';

/** More databases than any server is likely to have. */
const databasesMax = 10_000;
/** How many databases are looked into at the same time: each takes a connection for a moment. */
const looksAtATime = 4;

export type MembersParts = {
  /** The database of the connection string: the first choice for asking which ones there are. */
  readonly firstDatabase: string;
  readonly connect: (database: string) => Promise<Database>;
  readonly createWorker: (database: string, log: WorkerLog) => Worker;
  readonly log: WorkerLog;
  readonly onReady: (database: string) => void;
  readonly onLeft: (database: string) => void;
  readonly onProblem: (error: Error, database: string) => void;
  /** Something has happened that another look at the server should follow. */
  readonly onScanWanted: () => void;
};

/** The workers of one server's databases: one for each in which pgfetch is installed, and that this role may serve. */
export class Members {
  readonly #parts: MembersParts;
  readonly #members = new Map<string, Worker>();
  /** Those that are stopping, because their database is gone or no longer to be served. */
  readonly #leaving = new Map<string, Promise<void>>();
  /** What was last said about a database that is not served. */
  readonly #said = new Map<string, string>();
  /** A scan came too early for these: their workers had not left yet. */
  readonly #passedOver = new Set<string>();
  #isStopping = false;

  constructor(parts: MembersParts) {
    this.#parts = parts;
  }

  get databases(): readonly string[] {
    return [...this.#members.keys()].sort();
  }

  /** How many requests the workers hold at the moment. */
  get held(): number {
    return [...this.#members.values()].reduce((sum, worker) => sum + worker.held, 0);
  }

  /**
   * Looks which databases there are and into each of them, by a connection of its own for a moment: begins to serve those that
   * were not served, and lets go of those that are gone or hold nothing of ours any more. The workers of the others are not
   * disturbed. Rejects where the server does not answer.
   */
  async scan(): Promise<void> {
    const names = await this.#list();
    const listed = new Set(names);
    for (const name of this.#members.keys()) {
      if (!listed.has(name)) {
        this.#letGo(name, 'the database is gone, or this role may not connect to it any more');
      }
    }
    for (const name of this.#said.keys()) {
      if (!listed.has(name)) this.#said.delete(name);
    }
    const next = names.values();
    await Promise.all(
      Array.from({ length: looksAtATime }, async () => {
        for (const name of next) await this.#look(name);
      }),
    );
  }

  /** Stops every worker. A scan that is under way adds none. */
  async stop(): Promise<void> {
    this.#isStopping = true;
    for (const name of this.#members.keys()) this.#letGo(name);
    await Promise.all(this.#leaving.values());
  }

  async #list(): Promise<readonly string[]> {
    const candidates = new Set([this.#parts.firstDatabase, ...this.#members.keys(), 'postgres']);
    let refusal: unknown;
    for (const name of candidates) {
      try {
        return await this.#within(name, (db) => readDatabases(db, databasesMax));
      } catch (error) {
        // Any other database knows the list as well.
        if (!(error instanceof PostgresError) || !isAboutDatabase(error)) throw error;
        refusal ??= error;
      }
    }
    throw refusal;
  }

  async #within<T>(database: string, work: (db: Database) => Promise<T>): Promise<T> {
    const db = await this.#parts.connect(database);
    try {
      return await work(db);
    } finally {
      await db.close();
    }
  }

  async #look(name: string): Promise<void> {
    if (this.#isStopping) return;
    if (this.#leaving.has(name)) {
      this.#passedOver.add(name);
      return;
    }
    try {
      const { installation } = await this.#within(name, examine);
      switch (installation.kind) {
        case 'ready':
        case 'standby': // Its worker waits until the server is promoted.
          this.#said.delete(name);
          this.#join(name);
          return;
        case 'missing':
        case 'foreign':
          this.#said.delete(name);
          break;
        default:
          this.#say(name, explain(installation));
      }
      this.#letGo(name, explain(installation));
    } catch (error) {
      // A worker that is there already says by itself what is wrong.
      if (!this.#members.has(name)) this.#say(name, explainFailure(error));
    }
  }

  #join(name: string): void {
    if (this.#isStopping || this.#members.has(name)) return;
    const log = withFields(this.#parts.log, { database: name });
    const worker = this.#parts.createWorker(name, log);
    let isKnown = false;
    worker.on('ready', () => {
      // It was told to restart, or the server was away: either may bring new databases.
      if (isKnown) this.#parts.onScanWanted();
      else this.#parts.onReady(name);
      isKnown = true;
    });
    worker.on('problem', (error) => {
      this.#parts.onProblem(error, name);
      if (error.cause instanceof PostgresError && isAboutDatabase(error.cause)) this.#parts.onScanWanted();
    });
    this.#members.set(name, worker);
    void worker.start({ wait: false });
  }

  #letGo(name: string, why?: string): void {
    const worker = this.#members.get(name);
    if (worker === undefined) return;
    this.#members.delete(name);
    if (why !== undefined) this.#parts.log.info({ database: name }, `no longer served: ${why}`);
    const left = worker.stop().then(() => {
      this.#leaving.delete(name);
      if (!this.#isStopping) this.#parts.onLeft(name);
      if (this.#passedOver.delete(name)) this.#parts.onScanWanted();
    });
    this.#leaving.set(name, left);
  }

  /** Says why a database is not served, once for the same reason. */
  #say(name: string, message: string): void {
    if (this.#said.get(name) === message) return;
    this.#said.set(name, message);
    this.#parts.log.warn({ database: name }, `not served: ${message}`);
    this.#parts.onProblem(new Error(message), name);
  }
}

/** It does not exist (any more), takes no connections, or not this role's. */
function isAboutDatabase({ code }: PostgresError): boolean {
  return ['3D000', '55000', '42501'].includes(code);
}

/** A log whose every line carries these fields. */
export function withFields(log: WorkerLog, fields: object): WorkerLog {
  return {
    info: (own, message) => log.info({ ...fields, ...own }, message),
    warn: (own, message) => log.warn({ ...fields, ...own }, message),
    error: (own, message) => log.error({ ...fields, ...own }, message),
  };
}
