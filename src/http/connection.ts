import type { HeaderList } from '../core/request.ts';
import type { Problem } from './failures.ts';
import type { Hop } from './hop.ts';

/** Who takes a reply apart from its connection. */
export type Receiver = {
  /** The final head, once. Names and values as they were on the wire, a character per byte. Endless: the body ends with the connection. */
  onHead(status: number, headers: HeaderList, isEndless: boolean): void;
  /** A part of the body. False: no more for now, until {@link Exchange.resume}. */
  onBody(chunk: Uint8Array): boolean;
  /** The body is complete. */
  onComplete(): void;
  /**
   * There is no reply, or no more of it. `mayRepeat`: the connection was found dead, and asking again on another one does no
   * harm, because nothing of the request can have been processed or because its method is idempotent (RFC 9110, 9.2.2).
   */
  onFault(problem: Problem, mayRepeat: boolean): void;
};

/** A request under way on a connection. Of `onComplete` and `onFault` one is called, once, unless it is stopped. */
export type Exchange = {
  /** More of the body may come. */
  resume(): void;
  /** Nobody waits for the reply any more; nothing is called from now on. */
  stop(): void;
};

/** What carries exchanges: one at a time (HTTP/1) or many (HTTP/2). The pool owns it. */
export type Connection = {
  readonly origin: string;
  /** How many exchanges it carries at a time. */
  readonly exchangesMax: number;
  /** Those under way. */
  readonly exchanges: number;
  /** Whether it may carry another exchange, now or when one has ended. */
  readonly isUsable: boolean;
  /** How long it is kept without a request. */
  readonly idleMsMax: number;
  /** Sends one hop. What `receiver` is told may come before this returns. */
  exchange(hop: Hop, receiver: Receiver): Exchange;
  /** Ends it at once. Exchanges under way are stopped. */
  destroy(): void;
};

/** How long an idle connection is kept, unless the server announces less. */
export const idleMsDefault = 30_000;
