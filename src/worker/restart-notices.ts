import type { Session } from '../postgres/database.ts';
import { readRestarts } from '../store/register.ts';
import type { Orders } from './orders.ts';

/** How often at most it is asked whether a restart was asked for. */
const askEveryMs = 100;

/**
 * Notifications that a restart was asked for. Any login may notify any channel, so they are a hint: what counts is whether
 * the number of restarts asked for has grown (net.worker_restart, net.set_paused). However many come, few questions are asked.
 */
export class RestartNotices {
  readonly #db: Session;
  readonly #orders: Pick<Orders, 'restart'>;
  /** How many have been obeyed; undefined: that is not known yet. */
  #obeyed: bigint | undefined;
  #isNoticed = false;
  #isBusy = false;
  #timer: NodeJS.Timeout | undefined;

  /** Gives the order to restart when there is one that has not been obeyed. */
  constructor(db: Session, orders: Pick<Orders, 'restart'>) {
    this.#db = db;
    this.#orders = orders;
  }

  /** Registered: up to that number they have been obeyed. */
  obeyed(restarts: bigint): void {
    this.#obeyed = restarts;
    this.#ask();
  }

  /** A notification has come. */
  noticed(): void {
    this.#isNoticed = true;
    this.#ask();
  }

  /** Asks no more. */
  close(): void {
    this.#isBusy = true;
    clearTimeout(this.#timer);
  }

  #ask(): void {
    const obeyed = this.#obeyed;
    if (!this.#isNoticed || this.#isBusy || obeyed === undefined) {
      return;
    }
    this.#isNoticed = false;
    this.#isBusy = true;
    readRestarts(this.#db).then(
      (restarts) => {
        if (restarts > obeyed) {
          this.#orders.restart = true;
        } else {
          this.#timer = setTimeout(() => {
            this.#isBusy = false;
            this.#ask();
          }, askEveryMs);
        }
      },
      // The connection is at its end, and with it these notices.
      () => {},
    );
  }
}
