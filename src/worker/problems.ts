import { PostgresError } from '../postgres/database.ts';
import type { WorkerLog } from './parts.ts';

/** Raised within, for what keeps a worker from serving: it says so once and tries again. */
export class NotReady extends Error {
  override readonly name = 'NotReady';
}

/** Says what keeps a worker from serving, and what to do about it, once for the same problem. */
export class Problems {
  readonly #log: WorkerLog;
  readonly #emit: (problem: Error) => void;
  /** Those told since it last served soundly. */
  readonly #told = new Set<string>();
  /** The registration under which an object of the schema was missing last. Missing under the same one again, it is damaged. */
  #missedUnder: bigint | null | undefined;

  constructor(log: WorkerLog, emit: (problem: Error) => void) {
    this.#log = log;
    this.#emit = emit;
  }

  /** What failed, and the registration under which. */
  report(error: unknown, workerId: bigint | null): void {
    // Somebody dropped or replaced the schema under a statement: the next look at the database says what is there now.
    if (isMissingObject(error) && this.#missedUnder !== workerId) {
      this.#missedUnder = workerId;
      this.#log.warn({ error: explainFailure(error) }, 'the schema was dropped or replaced while it was served');
      return;
    }
    const problem = problemOf(error);
    if (!this.#told.has(problem)) {
      this.#told.add(problem);
      const message = explainFailure(error);
      this.#log.error({}, message);
      this.#emit(error instanceof NotReady ? error : new NotReady(message, { cause: error }));
    }
  }

  /** It has served soundly: what comes now is a new problem. */
  forget(): void {
    this.#told.clear();
  }
}

/** What went wrong while serving, and what to do about it where that is known. */
export function explainFailure(error: unknown): string {
  if (error instanceof PostgresError) {
    const advice = adviceFor(error.code) ?? error.hint;
    return `${error.message} (SQLSTATE ${error.code})${advice === undefined ? '' : `. ${advice}`}`;
  }
  return error instanceof Error ? error.message : String(error);
}

/** What makes two failures the same problem, though the server's words differ (`cannot execute INSERT`, `... UPDATE`, a file's name). */
function problemOf(error: unknown): string {
  return error instanceof PostgresError && adviceFor(error.code) !== undefined ? error.code : explainFailure(error);
}

/** Whether an object that a statement names is not there: a schema, table, sequence or column, function, type. */
function isMissingObject(error: unknown): boolean {
  return error instanceof PostgresError && missingObject.test(error.code);
}

const missingObject = /^(3F000|42P01|42703|42883|42704)$/;

function adviceFor(code: string): string | undefined {
  switch (code) {
    case '25006':
      return 'Nothing can be written: the server is a standby, or default_transaction_read_only is on (some providers do that when the disk is full). Connect to the primary, or make it writable; the worker goes on by itself.';
    case '28P01':
    case '28000':
      return 'Correct the user and the password in the connection string.';
    case '3D000':
      return 'Create that database and install pgfetch there, or name another one; the worker goes on by itself.';
    case '53100':
      return 'The disk of the server is full: make room. Requests in flight keep their answers until they can be recorded; the worker goes on by itself.';
    case '53300':
      return 'Raise max_connections (or the limit of the database or role), or close sessions; the worker goes on by itself when one is free.';
    case '55P03':
      return "Another session locks pgfetch's tables (ALTER TABLE, LOCK TABLE, an open transaction that did one); the worker goes on by itself when it has ended.";
    default:
      return missingObject.test(code) ? 'The schema "net" is damaged. See what is missing: pgfetch doctor.' : undefined;
  }
}
