import { isUtf8 } from 'node:buffer';
import type { HeaderList } from '../core/request.ts';
import { isWorthParsing } from '../core/urls.ts';
import { type Problem, problems } from './failures.ts';
import { type Hop, pathOf, targetOf } from './hop.ts';

/**
 * What may go to another origin than the one the caller wrote down. Everything else might be a credential: `apikey`,
 * `x-api-key` and `webhook-signature` are secrets just as Authorization and Cookie are. The content headers describe
 * a body that goes along; where it does not, they are dropped with it.
 */
const crossOriginHeaders = new Set([
  'accept',
  'accept-encoding',
  'accept-language',
  'user-agent',
  'content-type',
  'content-language',
  'content-encoding',
]);

/** Whether the status is a redirect that is followed (RFC 9110, 15.4; 300, 304 and 305 are replies). */
function isRedirect(status: number): boolean {
  return status === 301 || status === 302 || status === 303 || status === 307 || status === 308;
}

/** A longer URL is not asked for: it grows with each relative Location. The same bound holds where requests are enqueued. */
const urlLengthMax = 65_536;

/** Where a reply redirects to, as its (first, if several are not empty) Location says; undefined for a reply that is the answer itself. */
export function redirectLocation(status: number, headers: HeaderList): string | undefined {
  if (!isRedirect(status)) return undefined;
  for (const [name, value] of headers) {
    const location = name.length === 8 && name.toLowerCase() === 'location' ? value.trim() : '';
    if (location !== '') return location;
  }
  return undefined;
}

/**
 * The hop that a redirect asks for: the method changes as browsers do it (fetch standard, HTTP-redirect fetch),
 * and across origins only safelisted headers go along, unless they hold a secret.
 */
export function nextHop(hop: Hop, status: number, location: string): Hop | Problem {
  const url = resolve(location, hop.url);
  if ('kind' in url) return url;
  let { method, body, headers } = hop;
  const toGet =
    ((status === 301 || status === 302) && method === 'POST') ||
    (status === 303 && method !== 'GET' && method !== 'HEAD');
  if (toGet) {
    method = 'GET';
    body = null;
    headers = headers.filter(([name]) => !name.toLowerCase().startsWith('content-'));
  }
  if (url.origin !== hop.url.origin) {
    const bodyGoesAlong = body !== null;
    headers = headers.filter(([name]) => {
      const lower = name.toLowerCase();
      return (
        crossOriginHeaders.has(lower) &&
        !hop.secretHeaders.has(lower) &&
        (bodyGoesAlong || !lower.startsWith('content-'))
      );
    });
  }
  const { secretHeaders } = hop;
  return { kind: 'hop', url, target: targetOf(url), path: pathOf(url), method, headers, secretHeaders, body };
}

function resolve(location: string, base: URL): URL | Problem {
  const text = textOf(location);
  if (!isWorthParsing(text)) return problems.invalidUrl;
  let url: URL;
  try {
    url = new URL(text, base);
  } catch {
    return problems.invalidUrl;
  }
  if (url.protocol !== 'http:' && url.protocol !== 'https:') return problems.unsupportedScheme;
  if (url.href.length > urlLengthMax) return problems.invalidUrl;
  // The caller's own credentials already are a header, which the rules above keep or drop; a server's are not used.
  url.username = '';
  url.password = '';
  // It is never sent, but belongs to where the redirect leads (RFC 9110, 10.2.2).
  if (url.hash === '') url.hash = base.hash;
  return url;
}

/** Header bytes arrive one per character. Beyond ASCII they are UTF-8 in practice; others are percent-encoded as they are. */
function textOf(location: string): string {
  const bytes = Buffer.from(location, 'latin1');
  return isUtf8(bytes)
    ? bytes.toString('utf8')
    : location.replace(/[\x80-\xff]/g, (byte) => `%${byte.charCodeAt(0).toString(16).toUpperCase()}`);
}
