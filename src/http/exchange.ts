import type { Dispatcher } from 'undici';
import type { Permits } from '../core/permits.ts';
import type { HeaderList } from '../core/request.ts';
import { type Connection, StaleConnection } from './connection.ts';
import type { Deadline, Waiting } from './deadline.ts';
import { exchangeProblem, type Problem, problems } from './failures.ts';
import type { Hop } from './hop.ts';
import { redirectLocation } from './redirects.ts';

/** What a server said to one hop. */
export type Answer = {
  readonly kind: 'answer';
  readonly status: number;
  readonly headers: HeaderList;
  readonly body: Uint8Array;
  readonly truncated: boolean;
  /** Where the reply redirects to; its body was then discarded. */
  readonly location: string | undefined;
  /** Gives the permit of a large body back; undefined for a small one. */
  readonly release: (() => void) | undefined;
  /** The reply is complete, so the connection may carry another request. */
  readonly complete: boolean;
};

/** What went wrong instead. */
export type Fault = {
  readonly kind: 'fault';
  readonly problem: Problem;
  /** The connection died while idle and the server has seen nothing that must not be repeated. */
  readonly stale: boolean;
};

/** What is collected of replies. */
export type ReplyLimits = {
  /** Bytes of a body that are kept. */
  readonly bodyBytesMax: number;
  /** For bodies larger than {@link smallBodyBytesMax}, from then on until they are recorded. */
  readonly largeBodies: Permits;
};

/** Bodies up to this size are collected whatever else is going on. */
const smallBodyBytesMax = 65_536;
/** Of a redirect's body no more than this is read to keep the connection; beyond, a new one is cheaper. */
const discardedBytesMax = 65_536;
const noBody = new Uint8Array(0);
/** RFC 9110, 9.2.2. */
const idempotentMethods = new Set(['GET', 'HEAD', 'PUT', 'DELETE', 'OPTIONS', 'TRACE']);

/**
 * Sends one hop over a connection, collects the reply within the limits, and calls `settle` once; never throws. When
 * the deadline ends first it is a fault. `settle` may be called from within undici.
 */
export function exchange(
  connection: Connection,
  hop: Hop,
  limits: ReplyLimits,
  deadline: Deadline,
  settle: (result: Answer | Fault) => void,
): void {
  const collector = new Collector(connection, hop, limits, deadline, settle);
  deadline.enter('transfer');
  deadline.onEnd(collector);
  if (deadline.ended) return;
  try {
    connection.dispatch(dispatchOptions(hop), collector);
  } catch (error) {
    collector.onError(error);
  }
}

/** The undici options of a hop. */
function dispatchOptions(hop: Hop): Dispatcher.DispatchOptions & { servername: string } {
  const headers: string[] = [];
  for (const [name, value] of hop.headers) headers.push(name, value);
  return {
    path: hop.path,
    method: hop.method as Dispatcher.HttpMethod,
    headers,
    body: hop.body,
    // Always the same for a connection: undici would otherwise take it from a Host header, and drop the connection
    // each time it changes. The connector has long verified the certificate, for the URL's host.
    servername: hop.target.host,
  };
}

/**
 * undici's handler for one exchange. The callbacks are those that undici 7 calls by itself; its newer ones
 * (onRequestStart and so on) are wrapped around these and parse every header into an object that loses order, case and
 * repetitions.
 */
class Collector implements Dispatcher.DispatchHandler, Waiting {
  readonly #connection: Connection;
  readonly #hop: Hop;
  readonly #limits: ReplyLimits;
  readonly #deadline: Deadline;
  #settle: ((result: Answer | Fault) => void) | undefined;
  #written = false;
  #replyBegun = false;
  #status = 0;
  #headers: HeaderList = [];
  #location: string | undefined;
  #body: Uint8Array = noBody;
  #bodyBytes = 0;
  #resume: (() => void) | undefined;
  #hasPermit = false;
  /** Called when a permit that is waited for is there. */
  #granted: (() => void) | undefined;

  constructor(
    connection: Connection,
    hop: Hop,
    limits: ReplyLimits,
    deadline: Deadline,
    settle: (result: Answer | Fault) => void,
  ) {
    this.#connection = connection;
    this.#hop = hop;
    this.#limits = limits;
    this.#deadline = deadline;
    this.#settle = settle;
  }

  onConnect(): void {
    this.#written = true;
  }

  onResponseStarted(): void {
    this.#replyBegun = true;
  }

  onHeaders(status: number, rawHeaders: Buffer[], resume: () => void): boolean {
    if (status < 200) return true;
    this.#resume = resume;
    this.#status = status;
    this.#headers = headerList(rawHeaders);
    this.#location = redirectLocation(status, this.#headers);
    return true;
  }

  onData(chunk: Buffer): boolean {
    if (this.#settle === undefined) return true;
    if (this.#location !== undefined) {
      this.#bodyBytes += chunk.length;
      if (this.#bodyBytes > discardedBytesMax) this.#answer(false, false);
      return true;
    }
    const room = this.#limits.bodyBytesMax - this.#bodyBytes;
    this.#append(chunk.length > room ? chunk.subarray(0, room) : chunk);
    if (chunk.length > room) {
      this.#answer(true, false);
      return true;
    }
    return this.#bodyBytes <= smallBodyBytesMax || this.#mayGoOn();
  }

  /** Many large bodies at once would take more memory than there is: the rest of one more is read when one is recorded. */
  #mayGoOn(): boolean {
    if (this.#hasPermit || this.#granted !== undefined) return this.#hasPermit;
    const granted = (): void => {
      this.#granted = undefined;
      this.#hasPermit = true;
      this.#resume?.();
    };
    this.#hasPermit = this.#limits.largeBodies.request(granted);
    if (!this.#hasPermit) this.#granted = granted;
    return this.#hasPermit;
  }

  #giveUpBody(): void {
    const { largeBodies } = this.#limits;
    if (this.#granted !== undefined) largeBodies.withdraw(this.#granted);
    this.#granted = undefined;
    if (this.#hasPermit) largeBodies.release();
    this.#hasPermit = false;
  }

  onComplete(): void {
    this.#answer(false, true);
  }

  onError(error: unknown): void {
    const settle = this.#settle;
    if (settle === undefined) return;
    // undici holds a 204 or 304 to its Content-Length, which says how long the body would have been (RFC 9110, 8.6).
    if (this.#status === 204 || this.#status === 304) {
      this.#answer(false, false);
      return;
    }
    this.#settle = undefined;
    this.#giveUpBody();
    this.#deadline.onEnd(undefined);
    const progress = { replyBegun: this.#replyBegun, headersComplete: this.#status !== 0 };
    settle({ kind: 'fault', problem: exchangeProblem(error, progress), stale: this.#isStale(error) });
  }

  /** The request has its outcome already: leave the server at once. */
  stop(): void {
    const settle = this.#settle;
    this.#settle = undefined;
    this.#giveUpBody();
    settle?.({ kind: 'fault', problem: problems.cancelled, stale: false });
  }

  #answer(truncated: boolean, complete: boolean): void {
    const settle = this.#settle;
    if (settle === undefined) return;
    this.#settle = undefined;
    this.#deadline.onEnd(undefined);
    const { largeBodies } = this.#limits;
    const release = this.#hasPermit ? (): void => largeBodies.release() : undefined;
    this.#hasPermit = false;
    this.#giveUpBody();
    settle({
      kind: 'answer',
      release,
      status: this.#status,
      headers: this.#headers,
      body: this.#location === undefined ? this.#body.subarray(0, this.#bodyBytes) : noBody,
      truncated,
      location: this.#location,
      complete,
    });
  }

  /**
   * Copies into one buffer that doubles, except for a body of one chunk: a list of chunks would cost a hundred times
   * the body's size against a server that sends chunks of one byte.
   */
  #append(chunk: Uint8Array): void {
    const needed = this.#bodyBytes + chunk.length;
    if (this.#bodyBytes === 0) {
      this.#body = chunk;
    } else {
      if (needed > this.#body.length) {
        const grown = Buffer.allocUnsafeSlow(
          Math.min(Math.max(needed, 2 * this.#body.length), this.#limits.bodyBytesMax),
        );
        grown.set(this.#body.subarray(0, this.#bodyBytes));
        this.#body = grown;
      }
      this.#body.set(chunk, this.#bodyBytes);
    }
    this.#bodyBytes = needed;
  }

  #isStale(error: unknown): boolean {
    if (!this.#connection.reused || this.#replyBegun) return false;
    if (this.#written && !idempotentMethods.has(this.#hop.method)) return false;
    if (error instanceof StaleConnection) return true;
    const code = error instanceof Error && 'code' in error ? error.code : undefined;
    return code === 'UND_ERR_SOCKET' || code === 'ECONNRESET' || code === 'EPIPE';
  }
}

/** Names and values as they were on the wire, a character per byte. */
function headerList(rawHeaders: readonly Buffer[]): HeaderList {
  const headers: (readonly [string, string])[] = [];
  for (let i = 0; i + 1 < rawHeaders.length; i += 2) {
    const name = rawHeaders[i];
    const value = rawHeaders[i + 1];
    if (name !== undefined && value !== undefined) headers.push([name.toString('latin1'), value.toString('latin1')]);
  }
  return headers;
}
