import ipaddr from 'ipaddr.js';
import { canonicalHost, canonicalName, isAddress, isHostName, looksLikeIPv4, matchesHost } from './hosts.ts';
import { createPortChoice } from './ports.ts';

/**
 * The address policy: which hosts a request may reach. Everything that is not public unicast is denied unless allowed,
 * so that SQL cannot make the worker talk to itself, to its neighbours or to a cloud's metadata service.
 *
 * Pure: it judges texts. Resolving a name, and dialling the very address that was judged, is the connector's duty.
 */
export type AddressPolicy = {
  /**
   * Why requests may not go there as a URL says it, whatever the host's addresses are, or undefined: `only`, `ports` and
   * `schemes`. The host must still be judged.
   */
  targetDenial(target: { readonly secure: boolean; readonly host: string; readonly port: number }): string | undefined;
  /**
   * Why `host` (as `URL.hostname` writes it; any spelling of an IPv4 address is understood) may not be contacted, or
   * undefined. For an address the verdict is final; a name that passes must still have each of its addresses judged.
   */
  hostDenial(host: string): string | undefined;
  /**
   * Why the IP address may not be dialled, or undefined. `name` is the host name it was resolved from, if any: names
   * that the operator allowed explicitly are trusted to point anywhere but into the deny list and at metadata services.
   */
  addressDenial(address: string, name?: string): string | undefined;
};

/** What {@link createAddressPolicy} allows or denies beyond the built-in rules. `deny` wins over `allow`. */
export type AddressPolicyOptions = {
  /**
   * CIDR blocks (`10.1.0.0/16`), addresses, host names (`db.internal`, `*.example.local`) or a word: `loopback`
   * (127.0.0.0/8, ::1, `localhost`), `private` (RFC 1918, fc00::/7, and the name rules for internal names; metadata
   * services stay denied), `all` (no built-in rule applies). An allowed name may resolve to *any* address that is neither
   * in `deny` nor a metadata service's (unless it names one): who controls its DNS controls where requests go. A network of
   * addresses that stand for IPv4 addresses (NAT64, 6to4, ...) opens those of them that may be reached. Default: nothing.
   */
  readonly allow?: readonly string[];
  /** The same kinds of entries; refused whatever `allow` says. Default: nothing beyond the built-in rules. */
  readonly deny?: readonly string[];
  /**
   * The only hosts that may be reached: names, `*.parent` for all names below one, addresses, CIDR blocks. It goes by what the
   * URL says: a name that is not listed is refused even if its addresses are. It allows nothing that is denied. Default:
   * nothing, which restricts nothing.
   */
  readonly only?: readonly string[];
  /** The only ports: 443, or a range (`8000-8999`). Default: nothing, which restricts nothing. */
  readonly ports?: readonly (number | string)[];
  /** The only schemes. Default: nothing, which restricts nothing. */
  readonly schemes?: readonly Scheme[];
};

/** How a server is spoken to. */
export type Scheme = 'http' | 'https';

type Address = ipaddr.IPv4 | ipaddr.IPv6;
type Range = { readonly text: string; readonly base: Address; readonly bits: number };
type Word = 'loopback' | 'private' | 'all';
type Entries = { readonly ranges: readonly Range[]; readonly names: readonly string[]; readonly words: Set<Word> };

const words: Readonly<Record<Word, readonly string[]>> = {
  loopback: ['127.0.0.0/8', '::1/128'],
  private: ['10.0.0.0/8', '172.16.0.0/12', '192.168.0.0/16', 'fc00::/7'],
  all: ['0.0.0.0/0', '::/0'],
};

/** Denied even where `private` is allowed: an answer from here is a credential. */
const metadataRanges: readonly Range[] = [
  '168.63.129.16/32', // Azure's WireServer, a public address that only the host answers
  '169.254.169.254/32',
  '100.100.100.200/32', // Alibaba
  '192.0.0.192/32', // Oracle
  '169.254.170.2/32', // Amazon ECS
  '169.254.170.23/32', // Amazon EKS
  '169.254.42.42/32', // Scaleway
  '169.254.0.23/32', // Tencent
  'fd00:ec2::/32', // Amazon
  'fd20:ce::/32', // Google
  'fd00:c1::a9fe:a9fe/128', // Oracle
  'fd00:42::42/128', // Scaleway
  'fd00:a9fe:a9fe::1/128', // Akamai
  'fd00:100::100:200/128', // Alibaba
  'fe80::a9fe:a9fe/128', // OpenStack
].map(parseBlock);

/** IANA's special-purpose registries (RFC 6890 and its updates); ipaddr.js's own table is asked after this one. */
const deniedRanges: readonly (readonly [what: string, range: Range])[] = (
  [
    ['this network', '0.0.0.0/8'],
    ['private network', '10.0.0.0/8'],
    ['carrier-grade NAT', '100.64.0.0/10'],
    ['loopback', '127.0.0.0/8'],
    ['link-local', '169.254.0.0/16'],
    ['private network', '172.16.0.0/12'],
    ['protocol assignments', '192.0.0.0/24'],
    ['documentation', '192.0.2.0/24'],
    ['6to4 relay', '192.88.99.0/24'],
    ['private network', '192.168.0.0/16'],
    ['benchmarking', '198.18.0.0/15'],
    ['documentation', '198.51.100.0/24'],
    ['documentation', '203.0.113.0/24'],
    ['multicast', '224.0.0.0/4'],
    ['reserved', '240.0.0.0/4'],
    ['unspecified address', '::/128'],
    ['loopback', '::1/128'],
    ['IPv4-compatible', '::/96'],
    ['IPv4-mapped', '::ffff:0:0/96'],
    ['NAT64', '64:ff9b::/96'],
    ['NAT64', '64:ff9b:1::/48'],
    ['Teredo', '2001::/32'],
    ['protocol assignments', '2001::/23'],
    ['documentation', '2001:db8::/32'],
    ['6to4', '2002::/16'],
    ['6bone', '3ffe::/16'],
    ['documentation', '3fff::/20'],
    ['private network', 'fc00::/7'],
    ['link-local', 'fe80::/10'],
    ['site-local', 'fec0::/10'],
    ['multicast', 'ff00::/8'],
  ] as const
).map(([what, block]) => [what, parseBlock(block)]);

const globalUnicast6 = parseBlock('2000::/3');

const metadataNames = [
  'metadata',
  'metadata.goog',
  'metadata.google.internal',
  'metadata.tencentyun.com',
  'metadata.packet.net',
  'metadata.platformequinix.com',
  'api.metadata.cloud.ibm.com',
  'instance-data',
  'instance-data.ec2.internal',
];

function isMetadataName(name: string): boolean {
  return metadataNames.includes(name) || /^instance-data\.[^.]+\.compute\.internal$/.test(name);
}

/** Endings that never name a public host (RFC 6761, 6762, 7686, 8375, 9476, and what clusters, routers and companies use). */
const internalEndings = [
  'local',
  'localdomain',
  'localdomain4',
  'localdomain6',
  'internal',
  'intranet',
  'private',
  'corp',
  'home',
  'lan',
  'mail',
  'svc',
  'consul',
  'onion',
  'alt',
  'home.arpa',
];

/**
 * Builds a policy. With no options every address that is not public unicast is denied, and so are `localhost`,
 * single-label names and names that only mean something on a private network.
 *
 * @throws RangeError for an entry that is neither a CIDR block, an address, a host name, a known word nor a port.
 */
export function createAddressPolicy(options: AddressPolicyOptions = {}): AddressPolicy {
  const allow = parseEntries(options.allow ?? [], 'allow');
  const deny = parseEntries(options.deny ?? [], 'deny');
  const isAmongOnly = parseOnly(options.only ?? []);
  const isPortOpen = createPortChoice(options.ports ?? []);
  const { schemes = [] } = options;

  function judge(address: Address, name: string | undefined): string | undefined {
    const denied = firstDenied(deny.ranges, address);
    if (denied !== undefined) return `${denied.text} is in the deny list`;
    if (allow.words.has('all')) return undefined;
    if (firstMatch(allow.ranges, address) !== undefined) {
      // A network of addresses that stand for others opens none of those.
      const hidden = isIPv6(address) ? embeddedIPv4(address.parts) : [];
      return hidden.map((each) => judge(each, name)).find((denial) => denial !== undefined);
    }
    const isTrusted = name !== undefined && matchesHost(allow.names, name);
    const metadata = firstDenied(metadataRanges, address);
    if (metadata !== undefined && !(isTrusted && isMetadataName(name))) return `${metadata.text} (metadata service)`;
    if (isTrusted) return undefined;
    for (const word of allow.words) {
      if (firstMatch(wordRanges[word], address) !== undefined) return undefined;
    }
    return builtInDenial(address);
  }

  function judgeName(name: string): string | undefined {
    if (matchesHost(deny.names, name)) return 'this name is in the deny list';
    if (deny.words.has('all')) return 'all names are in the deny list';
    const loopback = isLocalhost(name);
    if (loopback && deny.words.has('loopback')) return 'localhost is in the deny list';
    if (matchesHost(allow.names, name) || allow.words.has('all')) return undefined;
    if (loopback)
      return localhostAddresses.some((a) => judge(parseAddress(a), name) === undefined) ? undefined : 'localhost';
    if (isMetadataName(name)) return 'a metadata service';
    if (allow.words.has('private')) return undefined;
    if (!name.includes('.')) return 'names without a dot';
    const ending = internalEndings.find((e) => name.endsWith(`.${e}`));
    return ending === undefined ? undefined : `names ending in .${ending}`;
  }

  return {
    targetDenial({ secure, host, port }) {
      const scheme = secure ? 'https' : 'http';
      if (schemes.length > 0 && !schemes.includes(scheme)) return `${scheme} is not in the schemes list`;
      if (!isPortOpen(port)) return `port ${port} is not in the ports list`;
      return isAmongOnly(host) ? undefined : 'this host is not in the only list';
    },
    hostDenial(host) {
      if (host.startsWith('[') || host.includes(':')) {
        const inner = host.startsWith('[') && host.endsWith(']') ? host.slice(1, -1) : host;
        return isAddress(inner) ? judge(parseAddress(inner), undefined) : 'not an IP address';
      }
      const name = canonicalName(host);
      if (ipaddr.IPv4.isValid(name)) return judge(ipaddr.IPv4.parse(name), undefined);
      if (looksLikeIPv4(name)) return 'not an IP address';
      if (!isHostName(name)) return 'not a host name';
      return judgeName(name);
    },
    addressDenial(address, name) {
      if (!isAddress(address)) return 'not an IP address';
      return judge(parseAddress(address), name === undefined ? undefined : canonicalName(name));
    },
  };
}

/** What `localhost` means, whatever the hosts file says (RFC 6761, 6.3), in the order in which to try. */
export const localhostAddresses: readonly string[] = ['::1', '127.0.0.1'];

/** Whether the name is `localhost` or below it. */
export function isLocalhost(host: string): boolean {
  const name = canonicalName(host);
  return name === 'localhost' || name.endsWith('.localhost');
}

const wordRanges: Readonly<Record<Word, readonly Range[]>> = {
  loopback: words.loopback.map(parseBlock),
  private: words.private.map(parseBlock),
  all: words.all.map(parseBlock),
};

function parseAddress(text: string): Address {
  if (!text.includes(':')) return ipaddr.IPv4.parse(text);
  // ipaddr.js takes `::1.2.3.4` (compatible) for `::ffff:1.2.3.4` (mapped); in hexadecimal there is no doubt.
  const tail = text.slice(text.lastIndexOf(':') + 1);
  if (!tail.includes('.')) return ipaddr.IPv6.parse(text);
  const [a = 0, b = 0, c = 0, d = 0] = ipaddr.IPv4.parse(tail).octets;
  const hex = `${(a * 256 + b).toString(16)}:${(c * 256 + d).toString(16)}`;
  return ipaddr.IPv6.parse(text.slice(0, -tail.length) + hex);
}

function parseBlock(text: string): Range {
  const [address = '', bits] = text.split('/');
  return { text, base: parseAddress(address), bits: Number(bits) };
}

function parseEntries(entries: readonly string[], option: string): Entries {
  const ranges: Range[] = [];
  const names: string[] = [];
  const found = new Set<Word>();
  for (const entry of entries) {
    const text = entry.trim().toLowerCase();
    if (text === 'loopback' || text === 'private' || text === 'all') {
      found.add(text);
    } else if (isAddress(text)) {
      ranges.push(parseBlock(`${text}/${text.includes(':') ? 128 : 32}`));
    } else if (/[/:]/.test(text) || looksLikeIPv4(text)) {
      ranges.push(parseWrittenBlock(text, entry, option));
    } else {
      const name = canonicalName(text);
      if (!isHostName(name.startsWith('*.') ? name.slice(2) : name)) {
        throw new RangeError(
          `Invalid entry "${entry}" in ${option}: expected a CIDR block, a host name, "loopback", "private" or "all"`,
        );
      }
      names.push(name);
    }
  }
  // A denied word denies its addresses like any other block; an allowed one stays a word, because metadata services
  // inside it remain denied.
  if (option === 'deny') for (const word of found) ranges.push(...wordRanges[word]);
  return { ranges, names, words: found };
}

function parseOnly(entries: readonly string[]): (host: string) => boolean {
  if (entries.length === 0) return () => true;
  const { ranges, names, words: found } = parseEntries(entries, 'only');
  for (const word of found) {
    throw new RangeError(`Invalid entry "${word}" in only: expected a CIDR block, an address or a host name`);
  }
  return (host) => {
    const name = canonicalHost(host);
    return isAddress(name) ? firstMatch(ranges, parseAddress(name)) !== undefined : matchesHost(names, name);
  };
}

function parseWrittenBlock(text: string, entry: string, option: string): Range {
  const [address = '', bits = '', ...rest] = text.split('/');
  const widest = address.includes(':') ? 128 : 32;
  if (!isAddress(address) || !/^\d{1,3}$/.test(bits) || Number(bits) > widest || rest.length > 0) {
    throw new RangeError(`Invalid entry "${entry}" in ${option}: not a CIDR block such as 10.0.0.0/8 or fd00::/8`);
  }
  return parseBlock(text);
}

function firstMatch(ranges: readonly Range[], address: Address): Range | undefined {
  return ranges.find(({ base, bits }) => base.kind() === address.kind() && address.match(base, bits));
}

/**
 * What is denied is also denied under its other names: an IPv4 address that a transition mechanism hides inside an IPv6
 * address, and the unspecified address, which systems take for their own loopback.
 */
function firstDenied(ranges: readonly Range[], address: Address): Range | undefined {
  const names = isIPv6(address) ? [address, ...embeddedIPv4(address.parts)] : [address];
  for (const name of names) {
    const match = firstMatch(ranges, name) ?? (isUnspecified(name) ? firstLoopback(ranges) : undefined);
    if (match !== undefined) return match;
  }
  return undefined;
}

function isUnspecified(address: Address): boolean {
  return address.toByteArray().every((byte) => byte === 0);
}

function firstLoopback(ranges: readonly Range[]): Range | undefined {
  return localhostAddresses.map((each) => firstMatch(ranges, parseAddress(each))).find((match) => match !== undefined);
}

/** The IPv4 addresses that an IPv6 address may stand for: mapped, compatible, NAT64, 6to4, Teredo, ISATAP. */
function embeddedIPv4(parts: readonly number[]): ipaddr.IPv4[] {
  const [p0 = 0, p1 = 0, p2 = 0, , , , p6 = 0, p7 = 0] = parts;
  const found: ipaddr.IPv4[] = [];
  const upperZero = parts.slice(0, 5).every((part) => part === 0);
  // What begins with six zeros more is ::, ::1 and the like.
  const compatible = upperZero && parts[5] === 0 && p6 !== 0;
  const translated = p0 === 0 && p1 === 0 && p2 === 0 && parts[3] === 0 && parts[4] === 0xffff && parts[5] === 0;
  const nat64 = p0 === 0x64 && p1 === 0xff9b;
  if (nat64 && p2 === 1) found.push(...localNat64(parts));
  if (compatible || (upperZero && parts[5] === 0xffff) || translated || nat64 || isIsatap(parts)) {
    found.push(ipv4Of(p6, p7));
  }
  if (p0 === 0x2002) found.push(ipv4Of(p1, p2));
  if (p0 === 0x2001 && p1 === 0) found.push(ipv4Of(p2, parts[3] ?? 0), ipv4Of(p6 ^ 0xffff, p7 ^ 0xffff));
  return found;
}

/** RFC 6052, 2.2: in prefixes shorter than 96 bits the address comes earlier, around a byte that is zero, and zeros follow. */
function localNat64(parts: readonly number[]): ipaddr.IPv4[] {
  const bytes = parts.flatMap((part) => [part >> 8, part & 0xff]);
  return [6, 7, 8]
    .map((begin) => [...bytes.slice(begin, 8), ...bytes.slice(9)])
    .filter((rest) => rest.slice(4).every((byte) => byte === 0) && bytes[8] === 0)
    .map((rest) => new ipaddr.IPv4(rest.slice(0, 4)))
    .filter((address) => !isUnspecified(address));
}

function ipv4Of(high: number, low: number): ipaddr.IPv4 {
  return new ipaddr.IPv4([high >> 8, high & 0xff, low >> 8, low & 0xff]);
}

/** RFC 5214: the interface identifier is 0000:5efe or 0200:5efe followed by an IPv4 address. */
function isIsatap(parts: readonly number[]): boolean {
  return ((parts[4] ?? 0) & 0xfdff) === 0 && parts[5] === 0x5efe;
}

function isIPv6(address: Address): address is ipaddr.IPv6 {
  return address.kind() === 'ipv6';
}

function builtInDenial(address: Address): string | undefined {
  for (const [what, range] of deniedRanges) {
    if (range.base.kind() === address.kind() && address.match(range.base, range.bits)) {
      return `${range.text} (${what})`;
    }
  }
  if (isIPv6(address)) {
    if (isIsatap(address.parts)) return '::5efe:0:0 (ISATAP)';
    if (!address.match(globalUnicast6.base, globalUnicast6.bits)) return 'outside 2000::/3 (not global unicast)';
  }
  const range = address.range();
  return range === 'unicast' ? undefined : `special-purpose address (${range})`;
}
