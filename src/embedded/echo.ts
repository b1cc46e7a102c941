import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { HeaderList } from '../core/request.ts';
import { portError } from './ports.ts';

/** An HTTP server that answers with what it was sent. */
export type EchoServer = {
  /** `http://127.0.0.1:PORT`, without a slash at the end. */
  readonly url: string;
  readonly port: number;
  /** Stops listening and drops what is open. Safe to call twice. */
  close(): Promise<void>;
};

/** A request as the echo server received it. */
export type EchoRequest = {
  readonly method: string;
  /** Path and query, as sent. */
  readonly path: string;
  /** As sent: order, case and repetitions kept. */
  readonly headers: HeaderList;
  readonly body: Uint8Array;
};

/** How to start an echo server. */
export type EchoOptions = {
  /** Address to listen on. Default `127.0.0.1`. */
  host?: string;
  /** TCP port. Default 0: any free one. A taken port is an `EmbeddedServerError`. */
  port?: number;
  /** Called with every request whose body arrived whole, before it is answered. */
  onRequest?: (request: EchoRequest) => void;
};

type Reply = {
  readonly status: number;
  readonly headers?: Readonly<Record<string, string>>;
  /** Default `text/plain`. */
  readonly type?: string;
  /** Default: empty. */
  readonly body?: Buffer;
  readonly delayMs?: number;
};

const bodyBytesMax = 10 * 1024 * 1024;
const replyBytesMax = 10 * 1024 * 1024;
const delayMaxSeconds = 10;
const redirectsMax = 1_000;
/** How long a client may go on sending a body that was refused, before the connection is dropped. */
const refusedBodyMs = 2_000;
/** Longer than clients keep idle connections, so that they close first and never write to a closing one. */
const keepAliveMs = 65_000;

const allMethods = ['GET', 'HEAD', 'POST', 'PUT', 'PATCH', 'DELETE', 'OPTIONS'] as const;
/** Paths that answer only some methods, as the public echo services' do; `HEAD` goes wherever `GET` goes. */
const methodsOfPath: Readonly<Record<string, readonly string[]>> = Object.freeze({
  get: ['GET', 'HEAD'],
  post: ['POST'],
  put: ['PUT'],
  patch: ['PATCH'],
  delete: ['DELETE'],
  headers: ['GET', 'HEAD'],
});

/**
 * Starts an HTTP server that answers with what it was sent, for trying out requests without the internet. Routes and replies are
 * httpbin's:
 *
 * - `/get`, `/post`, `/put`, `/patch`, `/delete`: the echo, for that method; others get 405
 * - `/headers`: the request's headers alone
 * - `/status/:code`: that status (200 to 599), no body
 * - `/delay/:seconds`: the echo, after at most 10 s; fractions are fine
 * - `/redirect/:n`: n redirects (302), then `/get`
 * - `/bytes/:n`: n bytes, the same ones every time, at most 10 MiB
 * - any other path: the echo, for every method
 *
 * The echo is `{ args, headers, url, method, data, json, form?, origin, path }`: `data` is the body's text (a base64 `data:` URI where it
 * is not UTF-8), `json` the parsed body or null, `form` the fields of a form body. OPTIONS answers with `Allow`. A body over
 * 10 MiB gets 413.
 */
export async function startEchoServer(options: EchoOptions = {}): Promise<EchoServer> {
  const { host = '127.0.0.1', port = 0, onRequest = () => {} } = options;
  const server = createServer({ keepAliveTimeout: keepAliveMs }, (request, response) => {
    receive(request, response, (body) => {
      onRequest({
        method: request.method ?? 'GET',
        path: request.url ?? '/',
        headers: headerList(request.rawHeaders),
        body,
      });
      answer(request, response, body);
    });
  });
  await listen(server, host, port);
  const address = server.address();
  const actualPort = typeof address === 'object' && address !== null ? address.port : port;
  return {
    url: `http://${host.includes(':') ? `[${host}]` : host}:${actualPort}`,
    port: actualPort,
    close: () =>
      new Promise((resolve) => {
        server.close(() => resolve());
        server.closeAllConnections();
      }),
  };
}

function listen(server: Server, host: string, port: number): Promise<void> {
  return new Promise((resolve, reject) => {
    server.once('error', (error) => reject(portError(port, error, host)));
    server.listen({ port, host }, resolve);
  });
}

/** Reads the body up to the limit, then calls `done`; a longer one is refused, and a client that leaves is forgotten. */
function receive(request: IncomingMessage, response: ServerResponse, done: (body: Buffer) => void): void {
  const chunks: Buffer[] = [];
  let bytes = 0;
  request.on('data', (chunk: Buffer) => {
    bytes += chunk.length;
    if (bytes <= bodyBytesMax) chunks.push(chunk);
    else if (!response.headersSent) refuseBody(request, response);
  });
  request.on('end', () => {
    if (bytes <= bodyBytesMax) done(Buffer.concat(chunks));
  });
  request.on('error', () => {});
  if (Number(request.headers['content-length'] ?? 0) > bodyBytesMax) refuseBody(request, response);
}

function refuseBody(request: IncomingMessage, response: ServerResponse): void {
  const reply = problem(413, `The body is larger than ${bodyBytesMax} bytes.`);
  send(request, response, { ...reply, headers: { connection: 'close' } });
  // What is still arriving is read and dropped for a while: closing at once would reset the connection under the answer.
  const timer = setTimeout(() => request.destroy(), refusedBodyMs).unref();
  request.once('close', () => clearTimeout(timer));
}

function answer(request: IncomingMessage, response: ServerResponse, body: Buffer): void {
  if (response.headersSent) return;
  const reply = replyTo(request, body);
  if (reply.delayMs === undefined) {
    send(request, response, reply);
    return;
  }
  const timer = setTimeout(() => send(request, response, reply), reply.delayMs);
  response.once('close', () => clearTimeout(timer));
}

function replyTo(request: IncomingMessage, body: Buffer): Reply {
  const method = request.method ?? 'GET';
  const url = requestUrl(request);
  const [route = '', argument = ''] = url.pathname.slice(1).split('/');
  const methods = methodsOfPath[url.pathname.slice(1)] ?? allMethods;
  const allow = [...new Set([...methods, 'OPTIONS'])].join(', ');
  if (method === 'OPTIONS') return { status: 200, headers: { allow } };
  if (!methods.includes(method))
    return { ...problem(405, `${url.pathname} does not take ${method}.`), headers: { allow } };
  switch (route) {
    case 'status':
      return statusReply(argument);
    case 'delay':
      return delayedReply(argument, () => json(200, echo(request, url, body)));
    case 'redirect':
      return redirectReply(argument);
    case 'bytes':
      return bytesReply(argument);
    case 'headers':
      return json(200, { headers: headerObject(request) });
    default:
      return json(200, echo(request, url, body));
  }
}

function statusReply(argument: string): Reply {
  const status = wholeNumber(argument);
  if (status === undefined || status < 200 || status > 599) {
    return problem(400, 'The status must be a number from 200 to 599: /status/404.');
  }
  if ([301, 302, 303, 307, 308].includes(status)) return { status, headers: { location: '/get' } };
  if (status === 401) return { status, headers: { 'www-authenticate': 'Basic realm="echo"' } };
  return { status };
}

function delayedReply(argument: string, reply: () => Reply): Reply {
  if (!/^\d+(\.\d+)?$/.test(argument)) return problem(400, 'The delay must be a number of seconds: /delay/0.5.');
  return { ...reply(), delayMs: Math.min(Number(argument), delayMaxSeconds) * 1_000 };
}

function redirectReply(argument: string): Reply {
  const hops = wholeNumber(argument);
  if (hops === undefined || hops < 1 || hops > redirectsMax) {
    return problem(400, `The hops must be a number from 1 to ${redirectsMax}: /redirect/3.`);
  }
  return { status: 302, headers: { location: hops === 1 ? '/get' : `/redirect/${hops - 1}` } };
}

function bytesReply(argument: string): Reply {
  const count = wholeNumber(argument);
  if (count === undefined) return problem(400, 'The number of bytes must be a number: /bytes/1024.');
  return { status: 200, type: 'application/octet-stream', body: pseudoRandomBytes(Math.min(count, replyBytesMax)) };
}

/** The same bytes for the same length everywhere (xorshift32), and all 256 values among them. */
function pseudoRandomBytes(count: number): Buffer {
  const bytes = Buffer.allocUnsafe(count);
  let state = 2_463_534_242;
  for (let index = 0; index < count; index += 1) {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    bytes[index] = state & 0xff;
  }
  return bytes;
}

function echo(request: IncomingMessage, url: URL, body: Buffer): Record<string, unknown> {
  const text = decode(body);
  const isForm = request.headers['content-type']?.startsWith('application/x-www-form-urlencoded') === true;
  return {
    args: fields(url.searchParams),
    headers: headerObject(request),
    url: url.href,
    method: request.method ?? 'GET',
    data: text ?? `data:application/octet-stream;base64,${body.toString('base64')}`,
    json: text === undefined ? null : parsed(text),
    ...(isForm ? { form: fields(new URLSearchParams(text)) } : {}),
    origin: request.socket.remoteAddress ?? '',
    path: url.pathname,
  };
}

/** The target as an absolute URL; a target or Host header that makes none is no reason to fail. */
function requestUrl(request: IncomingMessage): URL {
  const host = request.headers.host ?? `${request.socket.localAddress}:${request.socket.localPort}`;
  const target = request.url ?? '/';
  const absolute = target.startsWith('/') ? `http://${host}${target}` : target;
  return URL.canParse(absolute) ? new URL(absolute) : new URL(`http://localhost/${encodeURIComponent(target)}`);
}

/** Repeated names become arrays, as in httpbin. */
function fields(parameters: URLSearchParams): Record<string, string | string[]> {
  const result = plainObject<string | string[]>();
  for (const name of new Set(parameters.keys())) {
    const values = parameters.getAll(name);
    result[name] = values.length === 1 ? (values[0] ?? '') : values;
  }
  return result;
}

/** Header names as `Content-Type`, whatever case they were sent in; repeated ones joined by commas, as in httpbin. */
function headerObject(request: IncomingMessage): Record<string, string> {
  const result = plainObject<string>();
  for (const [name, value] of headerList(request.rawHeaders)) {
    const title = name.toLowerCase().replace(/(^|-)[a-z]/g, (letter) => letter.toUpperCase());
    result[title] = title in result ? `${result[title]},${value}` : value;
  }
  return result;
}

/** No prototype: a field may be called `__proto__`. */
function plainObject<T>(): Record<string, T> {
  return Object.create(null) as Record<string, T>;
}

function headerList(raw: readonly string[]): [string, string][] {
  const list: [string, string][] = [];
  for (let index = 0; index + 1 < raw.length; index += 2) list.push([raw[index] ?? '', raw[index + 1] ?? '']);
  return list;
}

const utf8 = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });

function decode(body: Buffer): string | undefined {
  try {
    return utf8.decode(body);
  } catch {
    return undefined;
  }
}

function parsed(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}

function wholeNumber(text: string): number | undefined {
  return /^\d{1,12}$/.test(text) ? Number(text) : undefined;
}

function json(status: number, value: unknown): Reply {
  return { status, type: 'application/json', body: Buffer.from(JSON.stringify(value)) };
}

function problem(status: number, error: string): Reply {
  return json(status, { error });
}

function send(request: IncomingMessage, response: ServerResponse, reply: Reply): void {
  const { status, headers = {}, type = 'text/plain', body = Buffer.alloc(0) } = reply;
  const bodyless = status === 204 || status === 304;
  const content = bodyless ? {} : { 'content-type': type, 'content-length': body.length };
  response.writeHead(status, { ...headers, ...content });
  response.end(bodyless || request.method === 'HEAD' ? undefined : body);
}
