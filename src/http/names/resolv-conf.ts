import net from 'node:net';

/** How to ask the name servers. */
export type DnsSettings = {
  /** Addresses, in the order in which to ask them. */
  readonly servers: readonly string[];
  /** Domains to look for a name in; '' is the root. */
  readonly search: readonly string[];
  /** A name with this many dots is first tried as it is. */
  readonly ndots: number;
  /** For one try with one server. */
  readonly timeoutMs: number;
  /** Tries with each server. */
  readonly attempts: number;
  /** Begin with another server each time. */
  readonly rotate: boolean;
  /** Ask for IPv6 addresses, too. */
  readonly asksIpv6: boolean;
};

const serversMax = 3;
const searchMax = 32;
const nameLengthMax = 253;
/** What glibc does. */
const glibcPace = { timeoutMs: 5_000, attempts: 2 };
/**
 * Where the file says nothing of it: a request has 2 s by default, and must outlive a lost packet or a first server that is
 * dead. Altogether servers are asked for as long as glibc does.
 */
const defaultPace = { timeoutMs: 1_000, attempts: 10 };
/** They change what is asked in ways that c-ares has no option for. */
const optionsForGetaddrinfo = new Set(['use-vc', 'no-tld-query']);

/** Reads resolv.conf(5) as glibc does; undefined if it says something that only getaddrinfo can do. */
export function parseResolvConf(text: string, ownHostname: string): DnsSettings | undefined {
  const servers: string[] = [];
  const options: string[] = [];
  let search = domainOf(ownHostname);
  for (const line of text.split('\n')) {
    const [keyword, ...values] = line.trimEnd().split(/[ \t]+/);
    if (keyword === 'nameserver' && values[0] !== undefined) servers.push(values[0]);
    else if (keyword === 'domain' && values[0] !== undefined) search = [values[0]];
    else if (keyword === 'search' && values.length > 0) search = values;
    else if (keyword === 'options') options.push(...values);
  }
  const asked = servers.filter((server) => net.isIP(server) !== 0).slice(0, serversMax);
  // c-ares would ask a link-local server through no particular interface.
  if (asked.some((server) => server.includes('%'))) return undefined;
  if (options.some((option) => optionsForGetaddrinfo.has(option))) return undefined;
  // glibc takes 30 s, too; c-ares in Node.js gives a try up after 5.
  const timeoutSeconds = numberOf(options, 'timeout', 1, 5);
  const attempts = numberOf(options, 'attempts', 1, 5);
  const pace = timeoutSeconds === undefined && attempts === undefined ? defaultPace : glibcPace;
  return {
    servers: asked.length === 0 ? ['127.0.0.1'] : asked,
    search: search.slice(0, searchMax).map((domain) => domain.replace(/^\./, '').replace(/\.$/, '')),
    ndots: numberOf(options, 'ndots', 0, 15) ?? 1,
    timeoutMs: timeoutSeconds === undefined ? pace.timeoutMs : timeoutSeconds * 1_000,
    attempts: attempts ?? pace.attempts,
    rotate: options.includes('rotate'),
    asksIpv6: !options.includes('no-aaaa'),
  };
}

/** The absolute names that a name may stand for, in the order in which to ask for them. */
export function candidatesOf(name: string, { search, ndots }: DnsSettings): readonly string[] {
  if (name.endsWith('.')) return [name];
  const asIs = `${name}.`;
  const found = search.map((domain) => (domain === '' ? asIs : `${name}.${domain}.`));
  const dots = name.split('.').length - 1;
  const ordered = dots >= ndots ? [asIs, ...found] : [...found, asIs];
  return [...new Set(ordered)].filter((candidate) => candidate.length <= nameLengthMax + 1);
}

/** Where the file names no domain it is that of the machine's own name. */
function domainOf(hostname: string): readonly string[] {
  const dot = hostname.indexOf('.');
  return dot < 0 || dot === hostname.length - 1 ? [] : [hostname.slice(dot + 1)];
}

/** The last `name:n` counts, within what glibc accepts; what is no number is 0 to it. */
function numberOf(options: readonly string[], name: string, min: number, max: number): number | undefined {
  const values = options.flatMap((option) => {
    const [, digits] = new RegExp(`^${name}:(\\d*)`).exec(option) ?? [];
    return digits === undefined ? [] : [Number(digits)];
  });
  const last = values.at(-1);
  return last === undefined ? undefined : Math.min(Math.max(last, min), max);
}
