import type { Session } from '../postgres/database.ts';
import { type Asked, readAsked } from '../store/register.ts';
import type { Orders } from './orders.ts';

/** How often at most it is asked whether a restart was asked for. */
const askEveryMs = 100;

/** Whether a worker that obeys `obeyed` has to restart. That a pause has ended it finds by looking. */
export function hasNewOrder(asked: Asked, obeyed: Asked): boolean {
  return (
    asked.restarts > obeyed.restarts ||
    (asked.isPaused && !obeyed.isPaused) ||
    asked.hasPolicies !== obeyed.hasPolicies ||
    asked.limits !== obeyed.limits ||
    asked.settings !== obeyed.settings
  );
}

/**
 * Notifications that a restart was asked for. Any login may notify any channel, so they are a hint: what counts is what is
 * asked (net.worker_restart, net.set_paused, net.policy, net.limits). However many come, few questions are asked.
 */
export class RestartNotices {
  readonly #db: Session;
  readonly #orders: Pick<Orders, 'restart'>;
  /** Undefined: that is not known yet. */
  #obeyed: Asked | undefined;
  #isNoticed = false;
  #isBusy = false;
  #timer: NodeJS.Timeout | undefined;

  /** Gives the order to restart when something is asked that is not obeyed. */
  constructor(db: Session, orders: Pick<Orders, 'restart'>) {
    this.#db = db;
    this.#orders = orders;
  }

  /** Registered: this is obeyed. */
  obeyed(asked: Asked): void {
    this.#obeyed = asked;
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
    readAsked(this.#db).then(
      (asked) => {
        if (hasNewOrder(asked, obeyed)) {
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
