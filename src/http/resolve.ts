import { type AddressPolicy, isLocalhost, localhostAddresses } from '../core/addresses.ts';
import { isAddress } from '../core/hosts.ts';
import { AddressCache } from './address-cache.ts';
import type { Deadline } from './deadline.ts';
import { denied, type Problem, problems } from './failures.ts';

/** An address of a name. */
export type ResolvedAddress = {
  readonly address: string;
  readonly family: number;
  /** How long it may be kept. Default: not at all. */
  readonly ttlSeconds?: number;
};

/**
 * Resolves a name to all of its addresses, in the order in which to try them. Rejects or returns none: unresolvable. Nobody
 * waits for the result any more when `signal` is aborted.
 */
export type Lookup = (hostname: string, signal: AbortSignal) => Promise<readonly ResolvedAddress[]>;

export type Resolver = {
  /** The addresses of a host (as `URL.hostname` writes it) in the order in which to try them, every one of them allowed. Never rejects. */
  resolve(host: string, deadline: Deadline): Promise<readonly string[] | Problem>;
  /** What the host was resolved to did not work: who comes next asks anew. */
  forget(host: string): void;
};

/** More addresses of one name than this are not tried; all of them are vetted. */
const addressesDialledMax = 16;
/** A lookup younger than this answers others for the same name too; an older one may be hanging. */
const lookupSharedMs = 1_000;

/** A lookup for all who ask for the name while it is young. */
type SharedLookup = {
  readonly result: Promise<readonly ResolvedAddress[]>;
  readonly abandoned: AbortController;
  waiting: number;
};

/** Makes a {@link Resolver}: what it vets is what is dialled, since a name is resolved once and only addresses go on from here. */
export function createResolver(
  policy: AddressPolicy,
  lookup: Lookup,
  now: () => number = () => performance.now(),
): Resolver {
  const cache = new AddressCache(now);
  const underway = new Map<string, SharedLookup>();

  /** One lookup per name at a time: a burst asks for one name. */
  function sharedLookup(host: string): SharedLookup {
    const young = underway.get(host);
    if (young !== undefined) return young;
    const abandoned = new AbortController();
    const result = (async () => lookup(host, abandoned.signal))();
    const shared: SharedLookup = { result, abandoned, waiting: 0 };
    underway.set(host, shared);
    const leave = (): void => {
      clearTimeout(timer);
      if (underway.get(host) === shared) underway.delete(host);
    };
    const timer = setTimeout(leave, lookupSharedMs).unref();
    abandoned.signal.addEventListener('abort', leave, { once: true });
    result.then((found) => cache.put(host, found)).then(leave, leave);
    return shared;
  }

  return {
    async resolve(host, deadline) {
      const denial = policy.hostDenial(host);
      if (denial !== undefined) return denied(denial);
      const literal = host.startsWith('[') ? host.slice(1, -1) : host;
      if (isAddress(literal)) return [literal];
      if (isLocalhost(host)) return localhostAddresses.filter((a) => policy.addressDenial(a, host) === undefined);
      deadline.enter('dns');
      const found = deadline.ended
        ? problems.cancelled
        : (cache.get(host) ?? (await waitFor(sharedLookup(host), deadline)));
      deadline.enter('connect');
      if ('kind' in found) return found;
      if (found.length === 0) return problems.unresolvable;
      // One denied address refuses the name: what it resolves to is then in someone else's hands. Which, is not told.
      if (found.some(({ address }) => policy.addressDenial(address, host) !== undefined)) {
        return denied('the name resolves to an address that is not allowed');
      }
      return interleaved(found.map(({ address }) => address)).slice(0, addressesDialledMax);
    },

    forget: (host) => cache.forget(host),
  };
}

/** Waits no longer than the deadline; the last to leave abandons the lookup. */
function waitFor(shared: SharedLookup, deadline: Deadline): Promise<readonly ResolvedAddress[] | Problem> {
  return new Promise((resolve) => {
    let waits = true;
    function settle(found: readonly ResolvedAddress[] | Problem): void {
      if (!waits) return;
      waits = false;
      deadline.onEnd(undefined);
      shared.waiting -= 1;
      if (shared.waiting === 0) shared.abandoned.abort();
      resolve(found);
    }
    shared.waiting += 1;
    deadline.onEnd(() => settle(problems.cancelled));
    shared.result.then(settle, () => settle(problems.unresolvable));
  });
}

/** Alternates the families, beginning with the first address's (RFC 8305, 4). */
function interleaved(addresses: readonly string[]): string[] {
  const isFirstFamily = (address: string) => address.includes(':') === addresses[0]?.includes(':');
  const first = addresses.filter(isFirstFamily);
  const second = addresses.filter((address) => !isFirstFamily(address));
  return Array.from({ length: Math.max(first.length, second.length) }, (_, i) => [first[i], second[i]])
    .flat()
    .filter((address) => address !== undefined);
}
