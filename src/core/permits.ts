type Waiter = { readonly amount: number; readonly granted: () => void };

/** An amount of something, of which several may hold a part at a time; whoever comes when too little is left waits for its turn. */
export class Supply {
  readonly #total: number;
  #held = 0;
  readonly #waiting = new Set<Waiter>();

  constructor(total: number) {
    this.#total = total;
  }

  /** Permits over this much each. One is given even where that is more than all there is, but then it is the only one. */
  permits(amount: number): Permits {
    return new Permits(this, amount);
  }

  /** For {@link Permits}: takes an amount, true if it could be had at once. */
  take(waiter: Waiter): boolean {
    // Nobody overtakes: a large amount would otherwise wait for ever beside small ones.
    const granted = this.#waiting.size === 0 && this.#hasRoomFor(waiter.amount);
    if (granted) this.#held += waiter.amount;
    else this.#waiting.add(waiter);
    return granted;
  }

  /** For {@link Permits}: waits no longer. */
  withdraw(waiter: Waiter): void {
    if (this.#waiting.delete(waiter)) this.#grant();
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
    for (const waiter of this.#waiting) {
      if (!this.#hasRoomFor(waiter.amount)) return;
      this.#waiting.delete(waiter);
      this.#held += waiter.amount;
      waiter.granted();
    }
  }
}

/** Permits to hold a fixed part of a {@link Supply}. */
export class Permits {
  readonly #supply: Supply;
  readonly #amount: number;
  readonly #waiting = new Map<() => void, Waiter>();

  constructor(supply: Supply, amount: number) {
    this.#supply = supply;
    this.#amount = amount;
  }

  /** Takes one: true if it could be had at once, else `granted` is called when it is there. */
  request(granted: () => void): boolean {
    const waiter: Waiter = {
      amount: this.#amount,
      granted: () => {
        this.#waiting.delete(granted);
        granted();
      },
    };
    const isGranted = this.#supply.take(waiter);
    if (!isGranted) this.#waiting.set(granted, waiter);
    return isGranted;
  }

  /** Waits no longer. */
  withdraw(granted: () => void): void {
    const waiter = this.#waiting.get(granted);
    if (waiter === undefined) return;
    this.#waiting.delete(granted);
    this.#supply.withdraw(waiter);
  }

  /** Gives one back. */
  release(): void {
    this.#supply.giveBack(this.#amount);
  }
}
