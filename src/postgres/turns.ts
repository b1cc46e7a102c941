/**
 * Who may use the one session, in the order of asking. Statements go out without waiting for each other's answers; a
 * transaction has the session to itself until it ends.
 */
export class Turns {
  readonly #waiting: (() => void)[] = [];
  #held = false;
  #open = false;

  /** Starts `work` when no exclusive one is running or was asked for before; does not hold up what comes after. */
  shared<T>(work: () => Promise<T>): Promise<T> {
    if (this.#isFree()) return work();
    return new Promise((resolve) => {
      this.#waiting.push(() => resolve(work()));
    });
  }

  /** Starts `work` in turn; whatever is asked for after it starts when it has ended. */
  exclusive<T>(work: () => Promise<T>): Promise<T> {
    const run = async (): Promise<T> => {
      this.#held = true;
      try {
        return await work();
      } finally {
        this.#held = false;
        this.#startWaiting();
      }
    };
    if (this.#isFree()) return run();
    return new Promise((resolve) => {
      this.#waiting.push(() => resolve(run()));
    });
  }

  /** The session has ended: whoever waits starts now, to learn that from the session, and nobody waits any more. */
  abandon(): void {
    this.#open = true;
    this.#startWaiting();
  }

  #isFree(): boolean {
    return this.#open || (!this.#held && this.#waiting.length === 0);
  }

  #startWaiting(): void {
    while (this.#open || !this.#held) {
      const start = this.#waiting.shift();
      if (start === undefined) return;
      start();
    }
  }
}
