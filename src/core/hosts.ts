import ipaddr from 'ipaddr.js';

/** Whether the text is an IP address in its canonical kind of spelling (dotted decimal, or IPv6 without a zone). */
export function isAddress(text: string): boolean {
  if (text.includes(':')) return !text.includes('%') && ipaddr.IPv6.isValid(text);
  return ipaddr.IPv4.isValidFourPartDecimal(text);
}

const hostNamePattern = /^(?=.{1,253}$)[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?)*$/;

/** Whether the text, in its canonical spelling, may be the name of a host. */
export function isHostName(name: string): boolean {
  return hostNamePattern.test(name);
}

/** Whether a resolver would take the text for an IPv4 address, in whichever spelling: its last label is a number. */
export function looksLikeIPv4(name: string): boolean {
  return /(^|\.)(\d+|0x[0-9a-f]*)$/.test(name);
}

/** One spelling for each name: lower case, without the dot that ends a fully qualified one. */
export function canonicalName(host: string): string {
  const name = host.toLowerCase();
  return name.endsWith('.') ? name.slice(0, -1) : name;
}

/** One spelling for each host, as `URL.hostname` or a person writes it: names as {@link canonicalName} has them, IPv6 addresses without brackets. */
export function canonicalHost(host: string): string {
  const name = canonicalName(host.startsWith('[') && host.endsWith(']') ? host.slice(1, -1) : host);
  return name.includes(':') && isAddress(name) ? ipaddr.IPv6.parse(name).toRFC5952String() : name;
}

/** Whether the text says which hosts are meant: a name, `*.parent` for all names below one, or an IP address. */
export function isHostPattern(text: string): boolean {
  const host = canonicalHost(text);
  const name = host.startsWith('*.') ? host.slice(2) : host;
  return isAddress(host) || (isHostName(name) && !looksLikeIPv4(name));
}

/** Whether one of the patterns, in their canonical spelling, means the host, in its own. */
export function matchesHost(patterns: readonly string[], host: string): boolean {
  return patterns.some((pattern) => (pattern.startsWith('*.') ? host.endsWith(pattern.slice(1)) : host === pattern));
}
