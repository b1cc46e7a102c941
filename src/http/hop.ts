import { basicAuthorization } from '../core/basic-authorization.ts';
import type { HeaderList, SendableRequest } from '../core/request.ts';
import { parseAbsoluteUrl } from '../core/urls.ts';
import type { Target } from './connector.ts';
import { acceptedEncodings } from './decompress.ts';
import { type Problem, problem, problems } from './failures.ts';

/** One message to one server: the request itself, or what a redirect made of it. */
export type Hop = {
  readonly kind: 'hop';
  /** Scheme http or https; user information removed. */
  readonly url: URL;
  /** Where it goes, and what it asks for there: parts of the URL. */
  readonly target: Target;
  readonly path: string;
  readonly method: string;
  /** Everything that is sent beside Host, Connection and Content-Length; values hold one byte per character. */
  readonly headers: HeaderList;
  /** The names, in lower case, of those that hold a secret: they go to no other origin. */
  readonly secretHeaders: ReadonlySet<string>;
  readonly body: Uint8Array | null;
};

/**
 * Computed by us, or about this connection and not about the request: a caller's value would break the framing. The same
 * stand in net._checked_headers.
 */
const reservedHeaders = new Set([
  'content-length',
  'transfer-encoding',
  'connection',
  'expect',
  'upgrade',
  'keep-alive',
  'te',
  'trailer',
  'proxy-connection',
  'http2-settings',
]);

/** Sent in upper case however they were written, since servers compare methods byte by byte. */
const knownMethods = new Set(['GET', 'HEAD', 'POST', 'PUT', 'PATCH', 'DELETE', 'OPTIONS']);

const tokenPattern = /^[!#$%&'*+\-.^_`|~0-9A-Za-z]+$/;
// biome-ignore lint/suspicious/noControlCharactersInRegex: RFC 9110, 5.5: these are what a field value must not hold.
const controlPattern = /[\u0000-\u0008\u000a-\u001f\u007f]/;
// biome-ignore lint/suspicious/noControlCharactersInRegex: finds what is not ASCII.
const nonAsciiPattern = /[^\u0000-\u007f]/;
const hostPattern = /^(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._~%!$&'()*+,;=-]+)(:\d{1,5})?$/;

/** URLs that are kept parsed: a queue's requests go to few of them, again and again. */
const parsedUrlsMax = 64;

/** Makes the first hops of requests. */
export class FirstHops {
  readonly #userAgent: string;
  readonly #parsed = new Map<string, ParsedUrl>();

  constructor(userAgent: string) {
    this.#userAgent = userAgent;
  }

  /** The first hop of a request, or why it cannot be sent as it is. */
  of(request: SendableRequest, asksForCompression: boolean): Hop | Problem {
    const parsed = this.#parse(request.row.url);
    if (parsed.kind === 'problem') return parsed;
    const method = canonicalMethod(request.row.method);
    if (method === undefined) return problem('invalid_request', `Invalid method: ${quote(request.row.method)}`);
    const { body } = request.row;
    const { url, target, path, authorization } = parsed;
    const headers = requestHeaders(request.headers, this.#userAgent, authorization);
    if ('kind' in headers) return headers;
    if (asksForCompression && !headers.some(([name]) => name.toLowerCase() === 'accept-encoding')) {
      headers.push(['Accept-Encoding', acceptedEncodings]);
    }
    return { kind: 'hop', url, target, path, method, headers, secretHeaders: request.secretHeaders, body };
  }

  #parse(text: string): ParsedUrl | Problem {
    const known = this.#parsed.get(text);
    if (known !== undefined) return known;
    const parsed = parseUrl(text);
    if (parsed.kind === 'url') {
      const oldest = this.#parsed.size >= parsedUrlsMax ? this.#parsed.keys().next().value : undefined;
      if (oldest !== undefined) this.#parsed.delete(oldest);
      this.#parsed.set(text, parsed);
    }
    return parsed;
  }
}

/** Where a URL points to. */
export function targetOf(url: URL): Target {
  const secure = url.protocol === 'https:';
  const port = url.port === '' ? (secure ? 443 : 80) : Number(url.port);
  return { origin: url.origin, secure, host: url.hostname, port, authority: url.host };
}

/** What a URL asks for there. */
export function pathOf(url: URL): string {
  return url.pathname + url.search;
}

type ParsedUrl = {
  readonly kind: 'url';
  readonly url: URL;
  readonly target: Target;
  readonly path: string;
  readonly authorization: string | undefined;
};

/** Parses an absolute http(s) URL; its credentials become the value of an Authorization header. */
function parseUrl(text: string): ParsedUrl | Problem {
  const url = parseAbsoluteUrl(text);
  if (url === undefined) return problems.invalidUrl;
  if (url.protocol !== 'http:' && url.protocol !== 'https:') return problems.unsupportedScheme;
  const authorization = basicAuthorization(url);
  url.username = '';
  url.password = '';
  return { kind: 'url', url, target: targetOf(url), path: pathOf(url), authorization };
}

function canonicalMethod(method: string): string | undefined {
  const upper = method.toUpperCase();
  if (knownMethods.has(upper)) return upper;
  // CONNECT asks for a tunnel, which is not a request that has a reply.
  return tokenPattern.test(method) && upper !== 'CONNECT' ? method : undefined;
}

function requestHeaders(
  given: HeaderList,
  userAgent: string,
  authorization: string | undefined,
): (readonly [string, string])[] | Problem {
  const headers: (readonly [string, string])[] = [];
  let hasUserAgent = false;
  let hasAccept = false;
  let hasAuthorization = false;
  let hasHost = false;
  for (const [name, raw] of given) {
    const value = withoutOuterBlanks(raw);
    if (!tokenPattern.test(name)) return problem('invalid_request', `Invalid header name: ${quote(name)}`);
    if (controlPattern.test(value)) {
      return problem('invalid_request', `Invalid value of header ${quote(name)}: it holds control characters`);
    }
    const lower = name.toLowerCase();
    if (reservedHeaders.has(lower)) {
      return problem('invalid_request', `Header ${quote(name)} is not allowed: it is set by the HTTP client`);
    }
    if (lower === 'host') {
      if (hasHost || !hostPattern.test(value)) {
        return problem('invalid_request', hasHost ? 'Header "Host" is given twice' : `Invalid Host: ${quote(value)}`);
      }
      hasHost = true;
    }
    hasUserAgent ||= lower === 'user-agent';
    hasAccept ||= lower === 'accept';
    hasAuthorization ||= lower === 'authorization';
    headers.push([name, byteString(value)]);
  }
  if (authorization !== undefined && !hasAuthorization) headers.unshift(['Authorization', authorization]);
  if (!hasAccept) headers.unshift(['Accept', '*/*']);
  if (!hasUserAgent) headers.unshift(['User-Agent', userAgent]);
  return headers;
}

/** Blanks around a value are no part of it (RFC 9110, 5.5), and HTTP/2 forbids to send them. */
function withoutOuterBlanks(value: string): string {
  let begin = 0;
  let end = value.length;
  while (begin < end && isBlank(value.charCodeAt(begin))) begin += 1;
  while (end > begin && isBlank(value.charCodeAt(end - 1))) end -= 1;
  return end - begin === value.length ? value : value.slice(begin, end);
}

function isBlank(code: number): boolean {
  return code === 0x20 || code === 0x09;
}

/** Beyond ASCII a value travels as the UTF-8 bytes it has in the database, as libcurl sends it. */
function byteString(value: string): string {
  return nonAsciiPattern.test(value) ? Buffer.from(value, 'utf8').toString('latin1') : value;
}

/** Quotes a text of the caller's for an error message, at a bounded length. */
function quote(text: string): string {
  return JSON.stringify(text.length > 100 ? `${text.slice(0, 100)}...` : text);
}
