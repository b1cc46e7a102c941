import { backoffMs } from '../core/backoff.ts';
import { cancelled, type Failure, type FailureCode, noTimings } from '../core/outcome.ts';
import { type Permit, Supply } from '../core/permits.ts';
import { requesterOf, type UnloadedRow } from '../core/request.ts';
import { ConnectionLost, PostgresError, type Session } from '../postgres/database.ts';
import { loadBody } from '../store/body.ts';

/** A body, until it is given back. */
export type Borrowed = { readonly kind: 'body'; readonly body: Uint8Array; readonly release: () => void };

/** What the bodies that did not come with their claims may take together; and one more of each role, however large. */
const bodiesBytesMax = 64 * 1024 * 1024;
/** A larger one is not sent: `jsonb`, of which http_post makes bodies, is bounded there, too. */
const bodyBytesMax = 256 * 1024 * 1024;
/** How often a body is asked for again that the database refuses to tell. */
const retriesMax = 8;
const retry = { firstMs: 250, lastMs: 30_000 };

/**
 * The bodies that are too large to come with the claim. Each is loaded just before it is sent, when there is room for it, over
 * the session that serves then, and is held until there is an outcome.
 */
export class Bodies {
  readonly #supply = new Supply(bodiesBytesMax);
  #session: Session | undefined;
  /** Who waits for a session. */
  readonly #waiting = new Set<() => void>();
  /** One body is loaded at a time, so that the statements of everything else go between its parts. */
  #lastLoad: Promise<unknown> = Promise.resolve();

  /** Bodies are loaded over this session from now on; undefined: there is none for the moment. */
  useSession(session: Session | undefined): void {
    this.#session = session;
    for (const resume of [...this.#waiting]) resume();
  }

  /**
   * Waits for room, and loads the body of a request that worker `workerId` has claimed. A lost connection is waited out. Never
   * rejects; nothing is lent once `signal` is aborted, which ends the waiting soon.
   */
  async borrow(row: UnloadedRow, workerId: bigint, signal: AbortSignal): Promise<Borrowed | Failure> {
    if (row.bodyBytes > bodyBytesMax) {
      return failed(
        'invalid_request',
        `The request body is too large: ${row.bodyBytes} bytes, and at most ${bodyBytesMax} are sent`,
      );
    }
    const permit = this.#supply.permit(requesterOf(row));
    if (!(await isGranted(permit, row.bodyBytes, signal))) {
      return cancelled;
    }
    const loaded = await this.#load(row, workerId, signal).catch(unexpected);
    if (loaded instanceof Uint8Array && !signal.aborted) {
      return { kind: 'body', body: loaded, release: () => permit.release() };
    }
    permit.release();
    return loaded instanceof Uint8Array ? cancelled : loaded;
  }

  async #load(row: UnloadedRow, workerId: bigint, signal: AbortSignal): Promise<Uint8Array | Failure> {
    let lost: Session | undefined;
    let tries = 0;
    for (;;) {
      await this.#sessionAfter(lost, signal);
      const session = this.#session;
      if (session === undefined || signal.aborted) {
        return cancelled;
      }
      try {
        const body = await this.#inTurn(async () =>
          signal.aborted ? null : await loadBody(session, workerId, row.id, row.bodyBytes),
        );
        if (body !== 'changed') {
          return body ?? deleted;
        }
        if (tries >= retriesMax) {
          return failed('failed', 'The request was changed while its body was read');
        }
      } catch (error) {
        if (error instanceof ConnectionLost) {
          lost = session;
          continue;
        }
        if (!(error instanceof PostgresError) || isAboutTheData(error) || tries >= retriesMax) {
          throw error;
        }
        await until(signal, (resume) => {
          const timer = setTimeout(resume, backoffMs(tries, retry));
          return () => clearTimeout(timer);
        });
      }
      tries += 1;
    }
  }

  async #inTurn<T>(load: () => Promise<T>): Promise<T> {
    const mine = this.#lastLoad.then(load);
    this.#lastLoad = mine.catch(() => {});
    return await mine;
  }

  /** Resolves when another session serves than the one that was lost. */
  async #sessionAfter(lost: Session | undefined, signal: AbortSignal): Promise<void> {
    while (!signal.aborted && (this.#session === undefined || this.#session === lost)) {
      await until(signal, (resume) => {
        this.#waiting.add(resume);
        return () => this.#waiting.delete(resume);
      });
    }
  }
}

/** Waits until the permit holds so much; false, and it holds nothing, where `signal` is aborted before. */
async function isGranted(permit: Permit, amount: number, signal: AbortSignal): Promise<boolean> {
  let isThere = false;
  await until(signal, (resume) => {
    const granted = (): void => {
      isThere = true;
      resume();
    };
    if (permit.request(amount, granted)) granted();
    return () => {};
  });
  if (!isThere) permit.release();
  return isThere;
}

/** Resolves when `begin`'s waiting resumes, or the signal is aborted; then ends the waiting. */
async function until(signal: AbortSignal, begin: (resume: () => void) => () => unknown): Promise<void> {
  if (signal.aborted) {
    return;
  }
  let end: () => unknown = () => {};
  await new Promise<void>((resolve) => {
    signal.addEventListener('abort', () => resolve(), { once: true });
    end = begin(resolve);
  });
  end();
}

/** Class 22 (data exception), 54 (program limit exceeded): it will be refused again. */
function isAboutTheData({ code }: PostgresError): boolean {
  return /^(22|54)/.test(code);
}

function failed(code: FailureCode, message: string): Failure {
  return { kind: 'failure', code, message, timings: noTimings };
}

function unexpected(error: unknown): Failure {
  const reason = error instanceof PostgresError ? `SQLSTATE ${error.code}` : String(error);
  return failed('failed', `The request body could not be read from the queue: ${reason}`);
}

const deleted = failed('cancelled', 'The request was deleted from the queue before it was sent');
