import http2, { type ClientHttp2Session, type ClientHttp2Stream } from 'node:http2';
import type { Socket } from 'node:net';
import type { HeaderList } from '../core/request.ts';
import { type Connection, type Exchange, idleMsDefault, type Receiver } from './connection.ts';
import { type Problem, problems } from './failures.ts';
import type { Hop } from './hop.ts';

/** Until the server has said how many it takes (RFC 9113, 6.5.2), and whatever it says. */
const exchangesMax = 100;
/** Bytes of replies that may be under way on a connection; a stream has a share of it. */
const windowBytes = 4 * 1024 * 1024;
const streamWindowBytes = 256 * 1024;
/** A server may name so many origins that it speaks for (RFC 8336), which we do not use: Node.js keeps all of them. */
const originsMax = 1_000;

const { NGHTTP2_NO_ERROR, NGHTTP2_REFUSED_STREAM, NGHTTP2_CANCEL, NGHTTP2_HTTP_1_1_REQUIRED } = http2.constants;

/** HTTP/2 (RFC 9113) over a TLS socket that chose it: many exchanges at a time. */
export class Http2Connection implements Connection {
  readonly origin: string;
  readonly #session: ClientHttp2Session;
  readonly #socket: Socket;
  readonly #streams = new Set<Http2Exchange>();
  #isUsable = true;
  #isBroken = false;

  constructor(origin: string, socket: Socket, headBytesMax: number) {
    this.origin = origin;
    this.#socket = socket;
    this.#session = http2.connect(origin, {
      createConnection: () => socket,
      // A server cannot push to us, nor make us keep much.
      settings: { enablePush: false, maxHeaderListSize: headBytesMax, initialWindowSize: streamWindowBytes },
      maxSessionMemory: 32,
      maxReservedRemoteStreams: 0,
    });
    // It comes a moment later, and even if the session has ended by then.
    this.#session.once('connect', () => {
      if (!this.#session.destroyed) this.#session.setLocalWindowSize(windowBytes);
    });
    let origins = 0;
    this.#session.on('origin', (named) => {
      origins += named.length;
      if (origins > originsMax) this.#end();
    });
    // What ends the session ends its streams, each of which says so.
    this.#session.on('error', (error: NodeJS.ErrnoException) => {
      this.#isBroken = error.code === 'ERR_HTTP2_ERROR' || error.code === 'ERR_HTTP2_SESSION_ERROR';
      this.retire();
    });
    this.#session.on('goaway', () => this.retire());
    this.#session.on('close', () => this.retire());
    socket.once('close', () => this.retire());
  }

  get exchangesMax(): number {
    const { maxConcurrentStreams = exchangesMax } = this.#session.remoteSettings ?? {};
    return Math.max(1, Math.min(maxConcurrentStreams, exchangesMax));
  }

  get exchanges(): number {
    return this.#streams.size;
  }

  get isUsable(): boolean {
    return this.#isUsable && !this.#session.closed && !this.#session.destroyed;
  }

  /** The server does not keep to the protocol. */
  get isBroken(): boolean {
    return this.#isBroken;
  }

  get idleMsMax(): number {
    return idleMsDefault;
  }

  exchange(hop: Hop, receiver: Receiver): Exchange {
    const exchange = new Http2Exchange(this, receiver);
    this.#streams.add(exchange);
    exchange.start(() => this.#session.request(requestFields(hop), { endStream: !hasBody(hop) }), hop);
    return exchange;
  }

  destroy(): void {
    this.#isUsable = false;
    for (const exchange of [...this.#streams]) exchange.stop();
    this.#end();
  }

  /** Whoever waits for a reply is told. */
  #end(): void {
    this.#isUsable = false;
    this.#session.destroy();
    // A session that was closed in order leaves it open until the server closes it, too.
    this.#socket.destroy();
  }

  /** Takes no more exchanges, and ends with the last that is under way. */
  retire(): void {
    this.#isUsable = false;
    if (this.#streams.size === 0) this.#end();
  }

  forget(exchange: Http2Exchange): void {
    this.#streams.delete(exchange);
  }
}

/** One request and its reply: a stream. */
class Http2Exchange implements Exchange {
  readonly #connection: Http2Connection;
  #receiver: Receiver | undefined;
  #stream: ClientHttp2Stream | undefined;
  #hasHead = false;
  #hasEnded = false;
  #error: unknown;

  constructor(connection: Http2Connection, receiver: Receiver) {
    this.#connection = connection;
    this.#receiver = receiver;
  }

  start(open: () => ClientHttp2Stream, hop: Hop): void {
    let stream: ClientHttp2Stream;
    try {
      stream = open();
    } catch (error) {
      // The session ended before anything could be written to it, or the request is none for HTTP/2.
      const hasEnded = !this.#connection.isUsable;
      this.#fault(hasEnded ? problems.emptyReply : invalid(error), hasEnded);
      return;
    }
    this.#stream = stream;
    stream.on('response', (fields, _flags, rawFields?: readonly string[]) => this.#head(fields, rawFields));
    stream.on('data', (chunk: Buffer) => {
      if (this.#receiver?.onBody(chunk) === false) stream.pause();
    });
    stream.on('end', () => {
      this.#hasEnded = true;
    });
    stream.on('error', (error) => {
      this.#error = error;
    });
    stream.on('close', () => this.#closed(stream));
    if (hasBody(hop)) stream.end(hop.body);
  }

  resume(): void {
    this.#stream?.resume();
  }

  stop(): void {
    if (this.#receiver === undefined) return;
    this.#receiver = undefined;
    this.#connection.forget(this);
    // A connection on which a request got no word of a reply may be dead: nobody else is to wait for it.
    if (!this.#hasHead) this.#connection.retire();
    this.#stream?.close(NGHTTP2_CANCEL);
  }

  #head(fields: http2.IncomingHttpHeaders, rawFields: readonly string[] | undefined): void {
    const status = Number(fields[':status']);
    this.#hasHead = true;
    this.#receiver?.onHead(status, headerList(fields, rawFields), false);
  }

  #closed(stream: ClientHttp2Stream): void {
    const receiver = this.#receiver;
    if (receiver === undefined) return;
    const code = stream.rstCode;
    if (this.#hasHead && this.#hasEnded && (code === undefined || code === NGHTTP2_NO_ERROR)) {
      this.#receiver = undefined;
      this.#connection.forget(this);
      receiver.onComplete();
      return;
    }
    // The server says that it has not looked at it (RFC 9113, 8.7).
    const isRefused = code === NGHTTP2_REFUSED_STREAM;
    if (code === NGHTTP2_HTTP_1_1_REQUIRED) this.#connection.retire();
    this.#fault(this.#problem(code), isRefused);
  }

  #problem(code: number | undefined): Problem {
    if (this.#connection.isBroken) return problems.framingFailed;
    const isReset = code !== undefined && code !== NGHTTP2_NO_ERROR && code !== NGHTTP2_CANCEL;
    if (isReset && this.#error !== undefined) return problems.streamFailed;
    if (this.#hasHead) return problems.partialBody;
    return this.#error === undefined ? problems.emptyReply : problems.receiveFailed;
  }

  #fault(problem: Problem, mayRepeat: boolean): void {
    const receiver = this.#receiver;
    this.#receiver = undefined;
    this.#connection.forget(this);
    receiver?.onFault(problem, mayRepeat);
  }
}

function hasBody(hop: Hop): boolean {
  return hop.body !== null && hop.body.byteLength > 0;
}

/** RFC 9113, 8.3.1. A caller's Host is the authority. */
function requestFields(hop: Hop): http2.OutgoingHttpHeaders {
  // Without a prototype: `__proto__` is a header name like others.
  const fields: http2.OutgoingHttpHeaders & { [name: string]: string | string[] } = Object.create(null);
  fields[':method'] = hop.method;
  fields[':scheme'] = 'https';
  fields[':authority'] = hop.target.authority;
  fields[':path'] = hop.path;
  for (const [name, value] of hop.headers) {
    const lower = name.toLowerCase();
    const known = lower === 'host' ? undefined : fields[lower];
    if (lower === 'host') fields[':authority'] = value;
    else if (known === undefined) fields[lower] = value;
    else fields[lower] = Array.isArray(known) ? [...known, value] : [known, value];
  }
  if (hop.body !== null) fields['content-length'] = String(hop.body.byteLength);
  // Never in the tables by which headers are compressed, where the sizes of others' requests would tell of them (RFC 7541, 7.1.3).
  if (hop.secretHeaders.size > 0) Reflect.set(fields, http2.sensitiveHeaders, [...hop.secretHeaders]);
  return fields;
}

/** In the order of the wire where Node.js tells it, with repetitions. */
function headerList(fields: http2.IncomingHttpHeaders, rawFields: readonly string[] | undefined): HeaderList {
  const headers: (readonly [string, string])[] = [];
  if (rawFields === undefined) {
    for (const [name, value] of Object.entries(fields)) {
      for (const one of Array.isArray(value) ? value : [value]) if (one !== undefined) headers.push([name, one]);
    }
  } else {
    for (let i = 0; i + 1 < rawFields.length; i += 2) headers.push([rawFields[i] ?? '', rawFields[i + 1] ?? '']);
  }
  return headers.filter(([name]) => !name.startsWith(':'));
}

function invalid(error: unknown): Problem {
  return {
    kind: 'problem',
    code: 'invalid_request',
    message: `Invalid request: ${error instanceof Error ? error.message : error}`,
  };
}
