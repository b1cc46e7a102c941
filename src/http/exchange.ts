import type { Holder, Permit, Supply } from '../core/permits.ts';
import type { HeaderList } from '../core/request.ts';
import type { Connection, Exchange, Receiver } from './connection.ts';
import type { Deadline, Waiting } from './deadline.ts';
import { type Problem, problem, problems } from './failures.ts';
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
  /** For a large body, to be given back when it is no longer held; undefined for a small one. */
  readonly permit: Permit | undefined;
};

/** What went wrong instead. */
export type Fault = {
  readonly kind: 'fault';
  readonly problem: Problem;
  /** The connection was dead, and the hop may be sent once more on another one. */
  readonly mayRepeat: boolean;
};

/** What is collected of a reply. */
export type ReplyLimits = {
  /** Bytes of a body that are kept. */
  readonly bodyBytesMax: number;
  /** Bytes of bodies larger than {@link smallBodyBytesMax}, from then on until they are recorded. */
  readonly largeBodies: Supply;
  /** Who is to hold them: those of one do not hold up those of another. */
  readonly holder: Holder;
};

/** Bodies up to this size are collected, and decoded, whatever else is going on. Larger ones ask for twice as much each time. */
export const smallBodyBytesMax = 65_536;
/** Of a redirect's body no more than this is read to keep the connection; beyond, a new one is cheaper. */
const discardedBytesMax = 65_536;
const noBody = new Uint8Array(0);

/**
 * Sends one hop over a connection, collects the reply within the limits, and calls `settle` once; never throws. When
 * the deadline ends first it is a fault. `settle` may be called before this returns.
 */
export function exchange(
  connection: Connection,
  hop: Hop,
  limits: ReplyLimits,
  deadline: Deadline,
  settle: (result: Answer | Fault) => void,
): void {
  const collector = new Collector(limits, deadline, settle);
  deadline.enter('transfer');
  deadline.onEnd(collector);
  if (!deadline.ended) collector.start(connection, hop);
}

/** Collects the reply of one exchange. */
class Collector implements Receiver, Waiting {
  readonly #limits: ReplyLimits;
  readonly #deadline: Deadline;
  #settle: ((result: Answer | Fault) => void) | undefined;
  #exchange: Exchange | undefined;
  #status = 0;
  #headers: HeaderList = [];
  #location: string | undefined;
  #body: Uint8Array = noBody;
  #bodyBytes = 0;
  /** How far the body may grow without asking. */
  #bytesGranted = smallBodyBytesMax;
  #permit: Permit | undefined;
  #waitsForMore = false;

  constructor(limits: ReplyLimits, deadline: Deadline, settle: (result: Answer | Fault) => void) {
    this.#limits = limits;
    this.#deadline = deadline;
    this.#settle = settle;
  }

  start(connection: Connection, hop: Hop): void {
    try {
      this.#exchange = connection.exchange(hop, this);
    } catch (error) {
      this.onFault(problem('failed', `Unexpected failure: ${error instanceof Error ? error.message : error}`), false);
    }
  }

  onHead(status: number, headers: HeaderList, isEndless: boolean): void {
    this.#status = status;
    this.#headers = headers;
    this.#location = redirectLocation(status, headers);
    // A redirect is followed at once: its body could not save the connection anyway.
    if (isEndless && this.#location !== undefined) this.#cut(false);
  }

  onBody(chunk: Uint8Array): boolean {
    if (this.#settle === undefined) return true;
    if (this.#location !== undefined) {
      this.#bodyBytes += chunk.length;
      if (this.#bodyBytes > discardedBytesMax) this.#cut(false);
      return true;
    }
    const room = this.#limits.bodyBytesMax - this.#bodyBytes;
    this.#append(chunk.length > room ? chunk.subarray(0, room) : chunk);
    if (chunk.length > room) {
      this.#cut(true);
      return true;
    }
    return this.#bodyBytes <= this.#bytesGranted || this.#mayGoOn();
  }

  onComplete(): void {
    this.#answer(false);
  }

  onFault(cause: Problem, mayRepeat: boolean): void {
    const settle = this.#settle;
    if (settle === undefined) return;
    this.#settle = undefined;
    this.#permit?.release();
    this.#deadline.onEnd(undefined);
    settle({ kind: 'fault', problem: cause, mayRepeat });
  }

  /** The request has its outcome already: leave the server at once. */
  stop(): void {
    this.#exchange?.stop();
    this.onFault(problems.cancelled, false);
  }

  /** What was read is enough: the rest is not waited for. */
  #cut(truncated: boolean): void {
    this.#exchange?.stop();
    this.#answer(truncated);
  }

  /**
   * Many large bodies at once would take more memory than there is: the rest of one is read when others are recorded. What is
   * asked for is what will be held and not what may come, or servers that drip would hold up all others.
   */
  #mayGoOn(): boolean {
    if (this.#waitsForMore) return false;
    const { bodyBytesMax, largeBodies, holder } = this.#limits;
    const bytes = Math.min(Math.max(2 * this.#bytesGranted, this.#bodyBytes), bodyBytesMax);
    this.#permit ??= largeBodies.permit(holder);
    const isGranted = this.#permit.request(bytes, () => {
      this.#waitsForMore = false;
      this.#bytesGranted = bytes;
      this.#exchange?.resume();
    });
    if (isGranted) this.#bytesGranted = bytes;
    this.#waitsForMore = !isGranted;
    return isGranted;
  }

  #answer(truncated: boolean): void {
    const settle = this.#settle;
    if (settle === undefined) return;
    this.#settle = undefined;
    this.#deadline.onEnd(undefined);
    this.#permit?.withdraw();
    settle({
      kind: 'answer',
      permit: this.#permit,
      status: this.#status,
      headers: this.#headers,
      body: this.#location === undefined ? this.#body.subarray(0, this.#bodyBytes) : noBody,
      truncated,
      location: this.#location,
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
        const grown = Buffer.allocUnsafeSlow(Math.max(needed, Math.min(2 * this.#body.length, this.#bytesGranted)));
        grown.set(this.#body.subarray(0, this.#bodyBytes));
        this.#body = grown;
      }
      this.#body.set(chunk, this.#bodyBytes);
    }
    this.#bodyBytes = needed;
  }
}
