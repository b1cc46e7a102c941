import type { ResolvedAddress } from './resolve.ts';

type Entry = { readonly addresses: readonly ResolvedAddress[]; readonly untilMs: number };

const namesMax = 256;
/** As long as libcurl keeps an address. */
const keptMsMax = 60_000;

/** What names were resolved to, for as long as their records say. Of what does not say so nothing is kept. */
export class AddressCache {
  readonly #now: () => number;
  readonly #entries = new Map<string, Entry>();

  constructor(now: () => number) {
    this.#now = now;
  }

  get(host: string): readonly ResolvedAddress[] | undefined {
    const entry = this.#entries.get(host);
    if (entry === undefined || this.#now() < entry.untilMs) return entry?.addresses;
    this.#entries.delete(host);
    return undefined;
  }

  put(host: string, addresses: readonly ResolvedAddress[]): void {
    this.#entries.delete(host);
    const keptMs = Math.min(keptMsMax, ...addresses.map(({ ttlSeconds = 0 }) => ttlSeconds * 1_000));
    if (addresses.length === 0 || keptMs <= 0) return;
    const oldest = this.#entries.size >= namesMax ? this.#entries.keys().next().value : undefined;
    if (oldest !== undefined) this.#entries.delete(oldest);
    this.#entries.set(host, { addresses, untilMs: this.#now() + keptMs });
  }

  forget(host: string): void {
    this.#entries.delete(host);
  }
}
