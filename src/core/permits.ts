/** So many may do something at a time; whoever comes later waits for its turn. */
export class Permits {
  #free: number;
  readonly #waiting = new Set<() => void>();

  constructor(count: number) {
    this.#free = count;
  }

  /** Takes one: true if it could be had at once, else `granted` is called when it is there. */
  request(granted: () => void): boolean {
    if (this.#free > 0) {
      this.#free -= 1;
      return true;
    }
    this.#waiting.add(granted);
    return false;
  }

  /** Waits no longer. */
  withdraw(granted: () => void): void {
    this.#waiting.delete(granted);
  }

  /** Gives one back. */
  release(): void {
    const [next] = this.#waiting;
    if (next === undefined) {
      this.#free += 1;
    } else {
      this.#waiting.delete(next);
      next();
    }
  }
}
