import type { Session } from '../postgres/database.ts';
import { readCancelAsked } from '../store/cancel.ts';
import type { Flights } from './flights.ts';

/** How often at most it is asked which requests are cancelled. */
const askEveryMs = 50;
/** More than this are not remembered until then: those are honoured when their attempts have ended. */
const noticedMax = 10_000;

export type CancelNoticesParts = {
  readonly db: Session;
  readonly workerId: bigint;
  readonly flights: Pick<Flights, 'cancel'>;
};

/**
 * Notifications that requests are cancelled which are being sent. Any login may notify any channel, so they are a hint: what
 * counts is what the queue says. However many come, few questions are asked.
 */
export class CancelNotices {
  readonly #parts: CancelNoticesParts;
  #noticed = new Set<bigint>();
  #isBusy = false;
  #timer: NodeJS.Timeout | undefined;

  constructor(parts: CancelNoticesParts) {
    this.#parts = parts;
  }

  /** A notification has come, which names a request. */
  noticed(payload: string): void {
    if (/^\d{1,18}$/.test(payload) && this.#noticed.size < noticedMax) {
      this.#noticed.add(BigInt(payload));
      this.#ask();
    }
  }

  /** Asks no more. */
  close(): void {
    this.#isBusy = true;
    clearTimeout(this.#timer);
  }

  #ask(): void {
    if (this.#isBusy || this.#noticed.size === 0) {
      return;
    }
    const { db, workerId, flights } = this.#parts;
    const ids = [...this.#noticed];
    this.#noticed = new Set();
    this.#isBusy = true;
    readCancelAsked(db, workerId, ids).then(
      (cancelled) => {
        flights.cancel(cancelled);
        this.#timer = setTimeout(() => {
          this.#isBusy = false;
          this.#ask();
        }, askEveryMs);
      },
      // The connection is at its end, and with it these notices: what was cancelled is honoured when its attempt has ended.
      () => {},
    );
  }
}
