import net from 'node:net';
import os from 'node:os';
import type { Lookup, ResolvedAddress } from '../resolve.ts';
import { askNameServers } from './dns-query.ts';
import { createGetaddrinfo } from './getaddrinfo.ts';
import { addressesInHosts, parseHosts } from './hosts-file.ts';
import { type Miss, parseNsswitch, type Source, stepsFor } from './nsswitch.ts';
import { candidatesOf, type DnsSettings, parseResolvConf } from './resolv-conf.ts';
import { WatchedFile } from './watched-file.ts';

/** Where the system says how names are resolved. */
export type NameSystem = {
  /** Only Linux says it in files; elsewhere getaddrinfo is asked. */
  readonly platform: NodeJS.Platform;
  readonly nsswitchPath: string;
  readonly hostsPath: string;
  readonly resolvConfPath: string;
  readonly nameServerPort: number;
  /** The machine's own name. */
  readonly hostname: () => string;
  /** A monotonic clock in milliseconds. */
  readonly now: () => number;
  /** Asked where the files name a source that only it can ask. */
  readonly getaddrinfo: Lookup;
};

type Result = readonly ResolvedAddress[] | Miss;

/**
 * Makes a {@link Lookup} that resolves names as the system is told to, by the hosts file, search domains and name servers,
 * but asks those over sockets of its own. getaddrinfo would block a thread for each name, of the two that it may have, for as
 * long as that name's servers are silent.
 */
export function createSystemLookup(options: Partial<NameSystem> = {}): Lookup {
  const { platform = process.platform, getaddrinfo = createGetaddrinfo(), nameServerPort = 53 } = options;
  if (platform !== 'linux') return getaddrinfo;
  const { hostname = os.hostname, now = () => performance.now() } = options;
  const { nsswitchPath = '/etc/nsswitch.conf', hostsPath = '/etc/hosts' } = options;
  const { resolvConfPath = '/etc/resolv.conf' } = options;
  const nsswitch = new WatchedFile(nsswitchPath, parseNsswitch, now);
  const hosts = new WatchedFile(hostsPath, parseHosts, now);
  const resolvConf = new WatchedFile(resolvConfPath, (text) => parseResolvConf(text, hostname()), now);
  let lookups = 0;

  async function ask(source: Source, name: string, signal: AbortSignal): Promise<Result> {
    if (source === 'files') return inHosts(addressesInHosts(hosts.get(), name));
    const settings = source === 'dns' ? resolvConf.get() : undefined;
    if (settings === undefined) return getaddrinfo(name, signal);
    lookups += 1;
    return await searchDns(name, startingAt(settings, lookups), nameServerPort, signal);
  }

  return async (name, signal) => {
    for (const { source, returnsOn } of stepsFor(nsswitch.get(), name, hostname())) {
      const result = await ask(source, name, signal);
      if (typeof result !== 'string') return result;
      if (returnsOn.has(result) || signal.aborted) break;
    }
    return [];
  };
}

function inHosts(addresses: readonly string[]): Result {
  if (addresses.length === 0) return 'notfound';
  const resolved = addresses.map((address) => ({ address, family: net.isIP(address) }));
  return resolved.sort((a, b) => b.family - a.family);
}

/** With `options rotate` each lookup begins with the next server. */
function startingAt(settings: DnsSettings, turn: number): DnsSettings {
  const { rotate, servers } = settings;
  if (!rotate) return settings;
  const first = turn % servers.length;
  return { ...settings, servers: [...servers.slice(first), ...servers.slice(0, first)] };
}

/** Goes through the search domains as glibc's res_search does: past what does not exist, and past a server's failure. */
async function searchDns(name: string, settings: DnsSettings, port: number, signal: AbortSignal): Promise<Result> {
  const asIs = name.endsWith('.') ? name : `${name}.`;
  let candidates = candidatesOf(name, settings);
  let miss: Miss = 'notfound';
  for (;;) {
    const [candidate, ...others] = candidates;
    if (candidate === undefined) return miss;
    const answer = await askNameServers(candidate, settings, port, signal);
    if (answer.kind === 'found') return answer.addresses;
    if (answer.kind !== 'notfound') miss = 'unavail';
    if (signal.aborted || answer.kind === 'unreachable') return miss;
    // With no answer about this domain those after it are not asked about either; the name itself is still worth a try.
    const goesOn = answer.kind === 'notfound' || answer.kind === 'failed' || candidate === asIs;
    candidates = goesOn ? others : others.filter((other) => other === asIs);
  }
}
