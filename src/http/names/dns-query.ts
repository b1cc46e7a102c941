import dns from 'node:dns';
import type { ResolvedAddress } from '../resolve.ts';
import type { DnsSettings } from './resolv-conf.ts';

/**
 * What the name servers say of one absolute name. `failed`: SERVFAIL; `refused`: anything else that is no answer, noise too;
 * `silent`: nothing in time; `unreachable`: nobody is there.
 */
export type DnsAnswer =
  | { readonly kind: 'found'; readonly addresses: readonly ResolvedAddress[] }
  | { readonly kind: 'notfound' | 'failed' | 'refused' | 'silent' | 'unreachable' };

/** When one family has been answered with addresses the other has as long; some servers never answer for IPv6. */
const otherFamilyMs = 500;
/** Of one family; a reply may hold thousands, and each of them is judged before each connection. */
const addressesMax = 128;
/** If neither family was found, the first of these that befell one of them. */
const gravest = ['silent', 'refused', 'failed', 'unreachable'] as const;

/**
 * Asks name servers for the IPv6 and the IPv4 addresses of an absolute name. Never rejects; an aborted `signal` ends it.
 * There are no more of these at a time than requests in flight.
 */
export async function askNameServers(
  name: string,
  settings: DnsSettings,
  port: number,
  signal: AbortSignal,
): Promise<DnsAnswer> {
  const families = settings.asksIpv6 ? ([6, 4] as const) : ([4] as const);
  const ending = new AbortController();
  const end = (): void => ending.abort();
  let patience: NodeJS.Timeout | undefined;
  signal.addEventListener('abort', end);
  if (signal.aborted) end();
  const answers = await Promise.all(
    families.map(async (family) => {
      const answer = await askInTurn(name, family, settings, port, ending.signal);
      if (answer.kind === 'found') patience ??= setTimeout(end, otherFamilyMs);
      return answer;
    }),
  );
  clearTimeout(patience);
  signal.removeEventListener('abort', end);
  const addresses = answers.flatMap((answer) => (answer.kind === 'found' ? answer.addresses : []));
  if (addresses.length > 0) return { kind: 'found', addresses };
  return { kind: gravest.find((kind) => answers.some((answer) => answer.kind === kind)) ?? 'notfound' };
}

/** One server after the other, and again from the first, until one says what there is, or that there is nothing. */
async function askInTurn(
  name: string,
  family: 4 | 6,
  { servers, attempts, timeoutMs }: DnsSettings,
  port: number,
  signal: AbortSignal,
): Promise<DnsAnswer> {
  let told: DnsAnswer = { kind: 'unreachable' };
  for (let attempt = 0; attempt < attempts; attempt += 1) {
    let isOneSilent = false;
    for (const server of servers) {
      if (signal.aborted) return { kind: 'silent' };
      const at = `${server.includes(':') ? `[${server}]` : server}:${port}`;
      const answer = await askOnce(name, family, at, timeoutMs, signal);
      if (answer.kind === 'found' || answer.kind === 'notfound') return answer;
      if (answer.kind !== 'unreachable') told = answer;
      isOneSilent ||= answer.kind === 'silent';
    }
    // Those that answered at once would say the same again.
    if (!isOneSilent) break;
  }
  return told;
}

/**
 * One try with one server, over a c-ares channel of its own, with sockets of its own: it can be cancelled alone, waits for
 * nobody else, and keeps no answers. Making one costs 20 µs. The time is ours: c-ares in Node.js looks at its clock only
 * every so often, and takes up to twice as long; nor does it ask another server where one says SERVFAIL.
 */
async function askOnce(
  name: string,
  family: 4 | 6,
  server: string,
  timeoutMs: number,
  signal: AbortSignal,
): Promise<DnsAnswer> {
  const resolver = new dns.promises.Resolver({ timeout: timeoutMs, tries: 1 });
  resolver.setServers([server]);
  const cancel = (): void => resolver.cancel();
  const timer = setTimeout(cancel, timeoutMs);
  signal.addEventListener('abort', cancel);
  try {
    const asked = family === 6 ? resolver.resolve6(name, { ttl: true }) : resolver.resolve4(name, { ttl: true });
    const records = (await asked).slice(0, addressesMax);
    return { kind: 'found', addresses: records.map(({ address, ttl }) => ({ address, family, ttlSeconds: ttl })) };
  } catch (error) {
    return { kind: kindOf(error) };
  } finally {
    clearTimeout(timer);
    signal.removeEventListener('abort', cancel);
  }
}

function kindOf(error: unknown): Exclude<DnsAnswer['kind'], 'found'> {
  switch (error instanceof Error && 'code' in error ? error.code : undefined) {
    case dns.NOTFOUND:
    case dns.NODATA:
    case dns.BADNAME:
      return 'notfound';
    case dns.SERVFAIL:
      return 'failed';
    case dns.CONNREFUSED:
      return 'unreachable';
    case dns.TIMEOUT:
    case dns.CANCELLED:
      return 'silent';
    default:
      return 'refused';
  }
}
