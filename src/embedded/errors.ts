/**
 * A server of ours cannot be started, stopped or reached. The message is one readable paragraph: what was wrong, and what
 * to do about it.
 */
export class EmbeddedServerError extends Error {
  override readonly name: string = 'EmbeddedServerError';
}

/** Another process already runs the server of this directory; whoever only wants a database can use that one. */
export class EmbeddedServerRunningError extends EmbeddedServerError {
  override readonly name: string = 'EmbeddedServerRunningError';
  /** Where the running server answers. */
  readonly connectionString: string;
  readonly port: number;
  /** The process id of the running server (its postmaster). */
  readonly pid: number;

  constructor(directory: string, running: { connectionString: string; port: number; pid: number }) {
    super(
      `The PostgreSQL server of ${directory} is already running at ${running.connectionString}, pid ${running.pid}. ` +
        'Use that one, stop the program that started it, or choose another directory.',
    );
    this.connectionString = running.connectionString;
    this.port = running.port;
    this.pid = running.pid;
  }
}

/** The `code` of a system error (`ENOENT`) or an SQLSTATE; undefined where there is none. */
export function errorCode(error: unknown): string | undefined {
  if (!(error instanceof Error) || !('code' in error)) return undefined;
  return typeof error.code === 'string' ? error.code : undefined;
}

/** What an unknown thrown value says. */
export function errorText(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
