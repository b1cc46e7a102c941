/** Who holds a part of a supply: a role's OID; null for rows that were inserted by hand. */
export type Holder = number | null;

/**
 * A holder may hold so much for each part that is free. Alone it gets three quarters of all; of n that want everything each
 * gets 3 / (1 + 3n). (Choudhury and Hahne, "Dynamic queue length thresholds for shared-memory packet switches", 1998.)
 */
const sharePerFreePart = 3;

/** What one holder has and waits for. */
type Account = {
  readonly holder: Holder | undefined;
  held: number;
  /** The one permit that may take more than is left; until it has given everything back. */
  overdrawer: Permit | undefined;
  /** Those that hold most come first: they are next to be done. Of equals the first to come. */
  readonly waiting: Permit[];
};

/**
 * An amount of something, of which several hold a part each, for a while; whoever comes when too little is left waits.
 *
 * Everybody gets on, whatever the others do. Of each holder one permit may overdraw: the first, where the holder has nothing
 * else, and one that has something and needs more to be done with it, where otherwise all might wait for each other. So all
 * together hold no more than the total and one permit of each holder.
 */
export class Supply {
  readonly #total: number;
  #held = 0;
  /** Of those who hold or wait; the last to be served is the last. */
  readonly #accounts = new Map<Holder | undefined, Account>();

  constructor(total: number) {
    this.#total = total;
  }

  /** A permit to hold a part, which is nothing to begin with. Who has no holder shares all there is with all who have none. */
  permit(holder?: Holder): Permit {
    return new Permit(this, holder);
  }

  /** For {@link Permit}: true if it could be had at once. */
  take(permit: Permit): boolean {
    const account = this.#account(permit.holder);
    const [first] = account.waiting;
    const isNext = first === undefined || first.held < permit.held || account.overdrawer === permit;
    if (isNext && this.#mayTake(permit, account)) {
      this.#give(permit, account);
      return true;
    }
    const after = account.waiting.findLastIndex((other) => other.held >= permit.held);
    account.waiting.splice(after + 1, 0, permit);
    return false;
  }

  /** For {@link Permit}: it waits no longer. */
  forget(permit: Permit): void {
    const account = this.#account(permit.holder);
    const place = account.waiting.indexOf(permit);
    if (place >= 0) account.waiting.splice(place, 1);
    this.#serve(account);
  }

  /** For {@link Permit}: gives an amount back. */
  giveBack(permit: Permit, amount: number): void {
    const account = this.#account(permit.holder);
    account.held -= amount;
    this.#held -= amount;
    if (permit.held === 0 && account.overdrawer === permit) account.overdrawer = undefined;
    this.#serve(account);
  }

  #account(holder: Holder | undefined): Account {
    let account = this.#accounts.get(holder);
    if (account === undefined) {
      account = { holder, held: 0, overdrawer: undefined, waiting: [] };
      this.#accounts.set(holder, account);
    }
    return account;
  }

  #mayTake(permit: Permit, account: Account): boolean {
    return this.#fits(permit.wanted - permit.held, account) || mayOverdraw(permit, account);
  }

  #fits(amount: number, { holder, held }: Account): boolean {
    const freeAfter = this.#total - this.#held - amount;
    return freeAfter >= 0 && (holder === undefined || held + amount <= sharePerFreePart * freeAfter);
  }

  #give(permit: Permit, account: Account): void {
    const amount = permit.wanted - permit.held;
    if (!this.#fits(amount, account)) account.overdrawer = permit;
    account.held += amount;
    this.#held += amount;
    permit.held = permit.wanted;
  }

  /** Something has come free, or one who stood before others has gone: serves who can be served, each holder in turn. */
  #serve(changed: Account): void {
    // Who is served goes to the end, and so comes once more.
    for (const account of this.#accounts.values()) {
      const [first] = account.waiting;
      if (first === undefined || !this.#mayTake(first, account)) continue;
      account.waiting.shift();
      this.#accounts.delete(account.holder);
      this.#accounts.set(account.holder, account);
      this.#give(first, account);
      first.granted();
    }
    const isOver = changed.held === 0 && changed.waiting.length === 0;
    if (isOver && this.#accounts.get(changed.holder) === changed) this.#accounts.delete(changed.holder);
  }
}

function mayOverdraw(permit: Permit, { held, overdrawer }: Account): boolean {
  return overdrawer === permit || (overdrawer === undefined && (held === 0 || permit.held > 0));
}

/** A part of a {@link Supply} that somebody holds, or waits for. */
export class Permit {
  readonly holder: Holder | undefined;
  /** For the supply, as all that follows but the methods. */
  held = 0;
  wanted = 0;
  granted: () => void = () => {};
  readonly #supply: Supply;

  constructor(supply: Supply, holder: Holder | undefined) {
    this.#supply = supply;
    this.holder = holder;
  }

  /**
   * Asks to hold so much in all, which is more than it holds. True if it could be had at once, else `granted` is called when it
   * is there. Meanwhile nothing else may be asked for.
   */
  request(amount: number, granted: () => void): boolean {
    this.wanted = amount;
    this.granted = granted;
    return this.#supply.take(this);
  }

  /** Waits no longer; what is held stays held. */
  withdraw(): void {
    if (this.wanted === this.held) return;
    this.wanted = this.held;
    this.#supply.forget(this);
  }

  /** Gives back what is held beyond this. Not while it waits. */
  keep(amount: number): void {
    const excess = this.held - amount;
    if (excess <= 0) return;
    this.held = amount;
    this.wanted = amount;
    this.#supply.giveBack(this, excess);
  }

  /** Gives back everything, and waits no longer. Safe to call twice. */
  release(): void {
    this.withdraw();
    this.keep(0);
  }
}
