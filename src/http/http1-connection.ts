import type { Socket } from 'node:net';
import type { HeaderList } from '../core/request.ts';
import { type Connection, type Exchange, idleMsDefault, type Receiver } from './connection.ts';
import { type Problem, problems } from './failures.ts';
import type { Hop } from './hop.ts';
import { formForProxy, type ViaProxy } from './proxy.ts';
import { ReplyParser, type ReplyReader } from './reply-parser.ts';

/** Margin before the end that a server announces, so that a request does not cross its FIN. */
const idleMarginMs = 1_000;
/** A body up to this size is written in one piece with its head. */
const smallBodyBytesMax = 16_384;
/** A larger one is written in parts of this size. */
const bodyPartBytes = 65_536;
/** RFC 9110, 9.2.2. */
const idempotentMethods = new Set(['GET', 'HEAD', 'PUT', 'DELETE', 'OPTIONS', 'TRACE']);
/** Those for which no body is said by a length of 0 (RFC 9110, 8.6). */
const methodsWithBody = new Set(['POST', 'PUT', 'PATCH']);

/**
 * HTTP/1.1 over a socket that it owns: one exchange at a time, no pipelining.
 *
 * Of our own, and not undici's: see docs/decisions/2026-11-21-own-http1.md.
 */
export class Http1Connection implements Connection, ReplyReader {
  readonly origin: string;
  readonly exchangesMax = 1;
  readonly #socket: Socket;
  readonly #parser: ReplyParser;
  readonly #viaProxy: ViaProxy | undefined;
  #receiver: Receiver | undefined;
  #method = '';
  /** It has carried an exchange, so the server may have closed it meanwhile. */
  #isReused = false;
  /** What was written for this exchange fits into what a kernel takes at once: an error of its write says that nothing was sent. */
  #isSmall = false;
  #isUsable = true;
  /** The body of which a part is still to be written. */
  #unwritten: Uint8Array | undefined;
  #hasEnded = false;
  /** Set while the parser runs: what it says takes effect when it has returned. */
  #result: 'none' | 'complete' | Problem = 'none';

  constructor(origin: string, socket: Socket, headBytesMax: number, viaProxy: ViaProxy | undefined) {
    this.origin = origin;
    this.#socket = socket;
    this.#viaProxy = viaProxy;
    this.#parser = new ReplyParser(this, headBytesMax);
    socket.on('data', (chunk: Buffer) => this.#read(chunk));
    socket.on('end', () => this.#end());
    socket.on('error', (error: NodeJS.ErrnoException) => this.#failed(error));
    socket.on('close', () => this.#closed());
  }

  get exchanges(): number {
    return this.#receiver === undefined ? 0 : 1;
  }

  get isUsable(): boolean {
    return this.#isUsable;
  }

  get idleMsMax(): number {
    const announcedMs = this.#parser.idleMsMax;
    return announcedMs === undefined ? idleMsDefault : Math.min(announcedMs - idleMarginMs, idleMsDefault);
  }

  exchange(hop: Hop, receiver: Receiver): Exchange {
    this.#receiver = receiver;
    this.#method = hop.method;
    this.#result = 'none';
    this.#parser.begin(hop.method);
    if (this.#isUsable) this.#write(hop);
    else this.#fault(problems.emptyReply, true);
    return this;
  }

  resume(): void {
    this.#socket.resume();
  }

  stop(): void {
    this.#receiver = undefined;
    this.destroy();
  }

  destroy(): void {
    this.#isUsable = false;
    this.#unwritten = undefined;
    this.#receiver = undefined;
    this.#socket.destroy();
  }

  onHead(status: number, headers: HeaderList, isEndless: boolean): void {
    this.#receiver?.onHead(status, headers, isEndless);
  }

  onBody(chunk: Uint8Array): void {
    if (this.#receiver?.onBody(chunk) === false) this.#socket.pause();
  }

  onComplete(): void {
    this.#result = 'complete';
  }

  onBroken(problem: Problem): void {
    this.#result = problem;
  }

  #write(hop: Hop): void {
    const head = requestHead(hop, this.#viaProxy);
    const { body } = hop;
    this.#isSmall = body === null || body.byteLength <= smallBodyBytesMax;
    if (body === null || body.byteLength === 0) {
      this.#socket.write(head, 'latin1');
    } else if (this.#isSmall) {
      const message = Buffer.allocUnsafe(head.length + body.byteLength);
      message.write(head, 'latin1');
      message.set(body, head.length);
      this.#socket.write(message);
    } else {
      this.#socket.write(head, 'latin1');
      this.#writeBody(body, 0);
    }
  }

  /**
   * In parts, and between two of them what has come is read. A server that refuses a large body answers and closes the
   * connection; in one piece the write would fail, and take the answer with it.
   */
  #writeBody(body: Uint8Array, start: number): void {
    const end = Math.min(start + bodyPartBytes, body.byteLength);
    this.#unwritten = end < body.byteLength ? body : undefined;
    this.#socket.write(body.subarray(start, end), () => {
      // The event loop asks the kernel what has come between two immediates.
      if (this.#unwritten === body) setImmediate(() => setImmediate(() => this.#writeOn(body, end)));
    });
  }

  #writeOn(body: Uint8Array, start: number): void {
    if (this.#unwritten === body && !this.#socket.destroyed) this.#writeBody(body, start);
  }

  #read(chunk: Buffer): void {
    if (this.#receiver === undefined) {
      // Nobody was asked. Whatever this is, it must not be taken for the next reply.
      this.destroy();
      return;
    }
    const taken = this.#parser.feed(chunk);
    this.#settle(taken < chunk.length);
  }

  /** Acts on what the parser has said. `hasMore`: there are bytes behind the reply. */
  #settle(hasMore: boolean): void {
    const result = this.#result;
    if (result === 'none') return;
    if (result !== 'complete') {
      this.#fault(result, false);
      return;
    }
    const receiver = this.#receiver;
    // A reply that came before the whole request was taken leaves the rest of it in the way.
    const isWritten = this.#unwritten === undefined && this.#socket.writableLength === 0;
    if (hasMore || !this.#parser.isReusable || this.#hasEnded || !isWritten) this.#retire();
    this.#receiver = undefined;
    this.#isReused = true;
    if (this.#socket.isPaused()) this.#socket.resume();
    receiver?.onComplete();
  }

  #retire(): void {
    this.#isUsable = false;
    this.#unwritten = undefined;
    this.#socket.destroy();
  }

  #end(): void {
    this.#hasEnded = true;
    this.#isUsable = false;
    if (this.#receiver === undefined) {
      this.#socket.destroy();
      return;
    }
    if (!this.#parser.hasBegun && this.#isReused) {
      this.#fault(problems.emptyReply, idempotentMethods.has(this.#method));
      return;
    }
    this.#parser.finish();
    this.#settle(false);
  }

  #failed(error: NodeJS.ErrnoException): void {
    this.#isUsable = false;
    if (this.#receiver === undefined) return;
    const isWrite = error.syscall === 'write';
    const { hasBegun } = this.#parser;
    const isUntouched = isWrite && this.#isSmall;
    const mayRepeat = this.#isReused && !hasBegun && (isUntouched || idempotentMethods.has(this.#method));
    this.#fault(isWrite && !hasBegun ? problems.sendFailed : problems.receiveFailed, mayRepeat);
  }

  #closed(): void {
    this.#isUsable = false;
    // Every way to here has said why before, but for a socket that something else has destroyed.
    if (this.#receiver !== undefined) this.#fault(problems.receiveFailed, false);
  }

  #fault(problem: Problem, mayRepeat: boolean): void {
    const receiver = this.#receiver;
    this.destroy();
    receiver?.onFault(problem, mayRepeat);
  }
}

/** The head of a request (RFC 9112, 3), a character per byte. Everything in it was checked when the hop was made. */
function requestHead(hop: Hop, viaProxy: ViaProxy | undefined): string {
  const { method, body } = hop;
  const { path, headers } = viaProxy === undefined ? hop : formForProxy(hop, viaProxy);
  let fields = '';
  let host = '';
  for (const [name, value] of headers) {
    if (name.length === 4 && name.toLowerCase() === 'host') host = value;
    else fields += `${name}: ${value}\r\n`;
  }
  if (host === '') host = hop.target.authority;
  const bytes = body?.byteLength ?? 0;
  const length = bytes > 0 || methodsWithBody.has(method) ? `Content-Length: ${bytes}\r\n` : '';
  return `${method} ${path} HTTP/1.1\r\nHost: ${host}\r\n${fields}${length}\r\n`;
}
