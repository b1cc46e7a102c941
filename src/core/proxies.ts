import ipaddr from 'ipaddr.js';
import { basicAuthorization } from './basic-authorization.ts';

/** Which requests go through which proxy; the same as the variables `http_proxy`, `https_proxy` and `no_proxy` say to libcurl. */
export type ProxyOptions = {
  /**
   * For http URLs: `http://user:password@proxy.example:3128`, or `https://...` where TLS is spoken to the proxy. Without a
   * scheme it is http; without a port it is 1080 (https: 443). Default: none.
   */
  readonly http?: string | undefined;
  /** The same for https URLs; the proxy is asked for a tunnel and sees the host name alone. Default: none. */
  readonly https?: string | undefined;
  /**
   * Hosts that are reached directly, separated by commas or blanks: names (and all below them), addresses, CIDR blocks; or
   * `*` alone for all. Ports and other wildcards match nothing. Default: none.
   */
  readonly noProxy?: string | undefined;
};

/** A proxy: where it listens, and what it is told about who asks. */
export type HttpProxy = {
  /** TLS is spoken to the proxy itself. */
  readonly secure: boolean;
  /** As `URL.hostname` writes it: IPv6 addresses in brackets. */
  readonly host: string;
  readonly port: number;
  /** The value of Proxy-Authorization, a secret; undefined where it has no credentials. */
  readonly authorization: string | undefined;
};

/** The proxy for a target, or undefined where it is reached directly. `host` is as `URL.hostname` writes it. */
export type ProxyChoice = (target: { readonly secure: boolean; readonly host: string }) => HttpProxy | undefined;

/** As libcurl has them. */
const defaultPorts = { http: 1080, https: 443 };

/**
 * Makes a {@link ProxyChoice}.
 *
 * @throws RangeError for a proxy that {@link proxyProblem} refuses.
 */
export function createProxyChoice({ http, https, noProxy = '' }: ProxyOptions = {}): ProxyChoice {
  const proxies = { http: proxyOf(http), https: proxyOf(https) };
  const isExempt = exemption(noProxy);
  return ({ secure, host }) => {
    const proxy = secure ? proxies.https : proxies.http;
    return proxy === undefined || isExempt(host) ? undefined : proxy;
  };
}

/** What is wrong with the text of a proxy, or undefined. The text itself is never quoted: it may hold a password. */
export function proxyProblem(text: string): string | undefined {
  const proxy = parseProxy(text);
  return typeof proxy === 'string' ? proxy : undefined;
}

/** A proxy as people may see it: without credentials. */
export function describeProxy({ secure, host, port }: HttpProxy): string {
  return `${secure ? 'https' : 'http'}://${host}:${port}`;
}

function proxyOf(text: string | undefined): HttpProxy | undefined {
  if (text === undefined || text === '') return undefined;
  const proxy = parseProxy(text);
  if (typeof proxy === 'string') throw new RangeError(`The proxy ${proxy}`);
  return proxy;
}

/** The proxy that a text names, or what is wrong with it. */
function parseProxy(text: string): HttpProxy | string {
  const [, scheme = 'http', rest = ''] = /^(?:([a-z][a-z0-9+.-]*):\/\/)?(.*)$/is.exec(text) ?? [];
  const kind = scheme.toLowerCase();
  if (kind.startsWith('socks')) return 'is a SOCKS proxy, which is not supported; it must be an HTTP proxy';
  if ((kind !== 'http' && kind !== 'https') || !URL.canParse(`${kind}://${rest}`)) {
    return 'must look like http://user:password@proxy.example:3128; special characters in the password must be percent-encoded (@ is %40, / is %2F, # is %23)';
  }
  const url = new URL(`${kind}://${rest}`);
  // A URL forgets a port that is the scheme's default, and for an http proxy 80 is not the default.
  const written = /:(\d+)$/.exec(rest.split(/[/\\?#]/, 1)[0] ?? '')?.[1];
  const port = Number(written ?? defaultPorts[kind]);
  if (port === 0) return 'has the port 0, on which nothing can listen';
  return { secure: kind === 'https', host: url.hostname, port, authorization: basicAuthorization(url) };
}

/** Reads a list of hosts as libcurl 7.88 does; where that goes wrong for IPv6, as its documentation says. */
function exemption(noProxy: string): (host: string) => boolean {
  if (noProxy === '*') return () => true;
  const entries = noProxy.split(/[ \t,]+/).filter((entry) => entry !== '');
  const blocks = entries.map(blockOf).filter((block) => block !== undefined);
  // One dot before and one after a name mean nothing.
  const names = entries.map((entry) => entry.toLowerCase().replace(/\.$/, '').replace(/^\./, ''));
  return (host) => {
    const address = addressOf(host);
    if (address !== undefined) return blocks.some((block) => isWithin(address, block));
    const name = host.toLowerCase().replace(/\.$/, '');
    return names.some((entry) => entry !== '' && (name === entry || name.endsWith(`.${entry}`)));
  };
}

type Address = ipaddr.IPv4 | ipaddr.IPv6;
type Block = { readonly base: Address; readonly bits: number };

/** An entry that is an address or a CIDR block. As in libcurl a length of 0, or one that is no number, means the whole address. */
function blockOf(entry: string): Block | undefined {
  const [written = '', length = ''] = entry.split('/');
  const base = addressOf(written);
  if (base === undefined) return undefined;
  const widest = base.kind() === 'ipv4' ? 32 : 128;
  const bits = Number.parseInt(length, 10) || widest;
  return bits < 0 || bits > widest ? undefined : { base, bits };
}

/** An address in its canonical kind of spelling, IPv6 with or without brackets. */
function addressOf(text: string): Address | undefined {
  const inner = text.startsWith('[') && text.endsWith(']') ? text.slice(1, -1) : text;
  if (ipaddr.IPv4.isValidFourPartDecimal(inner)) return ipaddr.IPv4.parse(inner);
  return inner.includes(':') && ipaddr.IPv6.isValid(inner) ? ipaddr.IPv6.parse(inner) : undefined;
}

function isWithin(address: Address, { base, bits }: Block): boolean {
  return address.kind() === base.kind() && address.match(base, bits);
}
