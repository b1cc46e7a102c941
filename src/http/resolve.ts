import { type AddressPolicy, isAddress, isLocalhost, localhostAddresses } from '../core/addresses.ts';
import type { Deadline } from './deadline.ts';
import { denied, type Problem, problems } from './failures.ts';

/** Resolves a name to all of its addresses, in the order in which to try them. Rejects or returns none: unresolvable. */
export type Lookup = (hostname: string) => Promise<readonly { readonly address: string; readonly family: number }[]>;

/** The addresses of a host (as `URL.hostname` writes it) in the order in which to try them, every one of them allowed. Never rejects. */
export type Resolver = (host: string, deadline: Deadline) => Promise<readonly string[] | Problem>;

/** More addresses of one name than this are not tried; all of them are vetted. */
const addressesDialledMax = 16;
/** A lookup younger than this answers others for the same name too; an older one may be hanging. */
const lookupSharedMs = 1_000;

/** Makes a {@link Resolver}: what it vets is what is dialled, since a name is resolved once and only addresses go on from here. */
export function createResolver(policy: AddressPolicy, lookup: Lookup): Resolver {
  const underway = new Map<string, ReturnType<Lookup>>();

  /** One lookup per name at a time: getaddrinfo occupies a thread of a small pool, and a burst asks for one name. */
  function sharedLookup(host: string): ReturnType<Lookup> {
    const shared = underway.get(host);
    if (shared !== undefined) return shared;
    const started = lookup(host);
    underway.set(host, started);
    const forget = () => {
      clearTimeout(timer);
      if (underway.get(host) === started) underway.delete(host);
    };
    const timer = setTimeout(forget, lookupSharedMs).unref();
    started.then(forget, forget);
    return started;
  }

  return async (host, deadline) => {
    const denial = policy.hostDenial(host);
    if (denial !== undefined) return denied(denial);
    const literal = host.startsWith('[') ? host.slice(1, -1) : host;
    if (isAddress(literal)) return [literal];
    if (isLocalhost(host)) return localhostAddresses.filter((a) => policy.addressDenial(a, host) === undefined);
    deadline.enter('dns');
    let found: Awaited<ReturnType<Lookup>> | Problem;
    try {
      found = await unlessEnded(deadline, () => sharedLookup(host));
    } catch {
      found = problems.unresolvable;
    }
    deadline.enter('connect');
    if ('kind' in found) return found;
    if (found.length === 0) return problems.unresolvable;
    // One denied address refuses the name: what it resolves to is then in someone else's hands. Which, is not told.
    if (found.some(({ address }) => policy.addressDenial(address, host) !== undefined)) {
      return denied('the name resolves to an address that is not allowed');
    }
    return interleaved(found.map(({ address }) => address)).slice(0, addressesDialledMax);
  };
}

/** Waits for what cannot be cancelled, but no longer than the deadline. */
function unlessEnded<T>(deadline: Deadline, start: () => Promise<T>): Promise<T | Problem> {
  return new Promise((resolve, reject) => {
    deadline.onEnd(() => resolve(problems.cancelled));
    start()
      .finally(() => deadline.onEnd(undefined))
      .then(resolve, reject);
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
