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
