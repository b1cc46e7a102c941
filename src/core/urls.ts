/**
 * Whether user information, host and port together have a length that some may have. The time that a host's characters beyond
 * ASCII take goes by their square (Punycode): seconds for what a header can hold.
 */
export function isWorthParsing(url: string): boolean {
  const authority = authorityPattern.exec(url.replace(/[\t\r\n]/g, ''))?.[1] ?? '';
  return authority.length <= authorityLengthMax;
}

/** Of an absolute URL, or of one that begins with its host, in whatever way the URL standard puts up with. */
const authorityPattern = /^\s*(?:https?:[/\\]*|[/\\]{2,})([^/\\?#]*)/i;
const authorityLengthMax = 2_048;

/** An absolute URL; undefined for what is none. The one reading of it: what is judged is what is sent to. */
export function parseAbsoluteUrl(text: string): URL | undefined {
  if (!isWorthParsing(text)) return undefined;
  try {
    return new URL(text);
  } catch {
    return undefined;
  }
}

/** The host and port of a request's URL as they are written there. As `split_part(url, '/', 3)` has it: with a login, if there is one. */
export function originOf(url: string): string {
  const scheme = url.indexOf('/');
  const begin = scheme < 0 ? -1 : url.indexOf('/', scheme + 1);
  if (begin < 0) {
    return '';
  }
  const end = url.indexOf('/', begin + 1);
  return end < 0 ? url.slice(begin + 1) : url.slice(begin + 1, end);
}

/** The host and port of a request's URL, for people: without a login, and without what follows where there is no path. */
export function hostOf(url: string): string {
  const origin = originOf(url);
  const end = origin.search(/[?#]/);
  const authority = end < 0 ? origin : origin.slice(0, end);
  return authority.slice(authority.lastIndexOf('@') + 1);
}
