/** An amount of something, of which several may hold a part at a time; whoever comes when too little is left waits for its turn. */
export class Supply {
  readonly #total: number;
  #held = 0;
  /** Who waits, in order, and for how much. */
  readonly #waiting = new Map<() => void, number>();

  constructor(total: number) {
    this.#total = total;
  }

  /** Permits over this much each. One is given even where that is more than all there is, but then it is the only one. */
  permits(amount: number): Permits {
    return new Permits(this, amount);
  }

  /** For {@link Permits}: takes an amount, true if it could be had at once. */
  take(amount: number, granted: () => void): boolean {
    // Nobody overtakes: a large amount would otherwise wait for ever beside small ones.
    const isGranted = this.#waiting.size === 0 && this.#hasRoomFor(amount);
    if (isGranted) this.#held += amount;
    else this.#waiting.set(granted, amount);
    return isGranted;
  }

  /** For {@link Permits}: waits no longer. */
  withdraw(granted: () => void): void {
    if (this.#waiting.delete(granted)) this.#grant();
  }

  /** For {@link Permits}: gives an amount back. */
  giveBack(amount: number): void {
    this.#held -= amount;
    this.#grant();
  }

  #hasRoomFor(amount: number): boolean {
    return this.#held === 0 || this.#held + amount <= this.#total;
  }

  #grant(): void {
    for (const [granted, amount] of this.#waiting) {
      if (!this.#hasRoomFor(amount)) return;
      this.#waiting.delete(granted);
      this.#held += amount;
      granted();
    }
  }
}

/** Permits to hold a fixed part of a {@link Supply}. */
export class Permits {
  readonly #supply: Supply;
  readonly #amount: number;

  constructor(supply: Supply, amount: number) {
    this.#supply = supply;
    this.#amount = amount;
  }

  /** Takes one: true if it could be had at once, else `granted`, a function of its own, is called when it is there. */
  request(granted: () => void): boolean {
    return this.#supply.take(this.#amount, granted);
  }

  /** Waits no longer. */
  withdraw(granted: () => void): void {
    this.#supply.withdraw(granted);
  }

  /** Gives one back. */
  release(): void {
    this.#supply.giveBack(this.#amount);
  }
}
