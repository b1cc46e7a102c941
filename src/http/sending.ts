import type { Bag } from '../core/bag.ts';
import type { Cancellation } from '../core/cancellation.ts';
import type { Failure, Outcome, Redirected } from '../core/outcome.ts';
import type { Supply } from '../core/permits.ts';
import { hostRulesDenial } from '../core/policy.ts';
import { requesterOf, type SendableRequest } from '../core/request.ts';
import type { SendRules } from '../core/send-rules.ts';
import { codingsOf } from './codings.ts';
import type { Connection } from './connection.ts';
import { Deadline } from './deadline.ts';
import { type Decoded, decompress } from './decompress.ts';
import { type Answer, exchange, type Fault, type ReplyLimits } from './exchange.ts';
import { denied, failure, type Problem, problem, problems, timedOut } from './failures.ts';
import type { FirstHops, Hop } from './hop.ts';
import type { Pool } from './pool.ts';
import { nextHop } from './redirects.ts';

/** What all requests of a client share. */
export type SendingContext = {
  readonly pool: Pool;
  readonly firstHops: FirstHops;
  /** Bytes that large bodies hold, each from when it has become large until it is recorded. */
  readonly largeBodies: Supply;
  /** For decoding compressed bodies. */
  readonly decoders: Supply;
  readonly redirectsMax: number;
  /** A monotonic clock in milliseconds. */
  readonly now: () => number;
  /** Those under way. */
  readonly underWay: Bag<Sending>;
};

/** How often one asks that may not begin yet. */
const mayBeginEveryMs = 50;

/** What cannot be compressed gets a little longer by it. */
function compressedBytesMax(bytesMax: number): number {
  return bytesMax + Math.ceil(bytesMax / 1024) + 1024;
}

/**
 * The way of one request: its hops, one after the other, until one is not a redirect; each over a connection of the pool, and
 * once more on a new one if a kept one turns out to be dead. Settles once: with an answer, a failure, or at the deadline.
 *
 * Written with callbacks and one object a request rather than with async functions: those cost a third of the client's time.
 */
export class Sending {
  readonly #context: SendingContext;
  readonly #request: SendableRequest;
  readonly #rules: SendRules;
  readonly #limits: ReplyLimits;
  readonly #deadline: Deadline;
  readonly #resolve: (outcome: Outcome) => void;
  readonly #cancellation: Cancellation | undefined;
  /** Among those under way; undefined before and after. */
  #place: number | undefined;
  #hop: Hop | undefined;
  #redirects = 0;
  #connection: Connection | undefined;
  /** The hop is on a connection of its own: it is not sent once more. */
  #isFresh = false;

  constructor(
    context: SendingContext,
    request: SendableRequest,
    rules: SendRules,
    cancellation: Cancellation | undefined,
    resolve: (outcome: Outcome) => void,
  ) {
    this.#context = context;
    this.#request = request;
    this.#rules = rules;
    this.#limits = {
      bodyBytesMax: rules.decompress ? compressedBytesMax(rules.responseBytesMax) : rules.responseBytesMax,
      largeBodies: context.largeBodies,
      holder: requesterOf(request.row),
    };
    this.#cancellation = cancellation;
    this.#resolve = resolve;
    const { row, spentMs } = request;
    const expire = (): void => this.#fail(timedOut(row.timeoutMs, this.#deadline.timings()));
    this.#deadline = new Deadline(row.timeoutMs, context.now, expire, spentMs);
  }

  begin(): void {
    if (this.#request.row.timeoutMs <= 0) {
      this.#fail(timedOut(this.#request.row.timeoutMs, this.#deadline.timings()));
      return;
    }
    this.#place = this.#context.underWay.add(this);
    this.#cancellation?.onAsked(this.#cancelAsAsked);
    this.#take(this.#context.firstHops.of(this.#request, this.#rules.decompress));
  }

  /** Settles with this problem, unless the request has its outcome already; whatever it waits for is let go. */
  cancel(reason: Problem): void {
    this.#fail(failure(reason, this.#deadline.timings()));
  }

  readonly #cancelAsAsked = (): void => this.cancel(problems.cancelled);

  #take(hop: Hop | Problem): void {
    if (hop.kind === 'problem') {
      this.cancel(hop);
      return;
    }
    const denial = hostRulesDenial(this.#request.hostRules, hop.method, hop.target.host);
    if (denial !== undefined) {
      this.cancel(denied(denial));
      return;
    }
    this.#hop = hop;
    this.#connect(hop, false);
  }

  #connect(hop: Hop, isFresh: boolean): void {
    this.#isFresh = isFresh;
    this.#deadline.enter('connect');
    const acquired = this.#context.pool.acquire(hop.target, this.#deadline, isFresh);
    if (acquired instanceof Promise) {
      acquired.then(
        (connection) => this.#connected(hop, connection),
        (error: unknown) => this.#failUnexpectedly(error),
      );
    } else {
      this.#connected(hop, acquired);
    }
  }

  #connected(hop: Hop, connection: Connection | Problem): void {
    if ('kind' in connection) {
      this.cancel(connection);
      return;
    }
    const { extras } = this.#request.row;
    if (extras?.orderingKey !== undefined && this.#rules.mayBegin?.() === false) {
      this.#context.pool.release(connection);
      setTimeout(() => {
        if (!this.#deadline.ended) this.#connect(hop, this.#isFresh);
      }, mayBeginEveryMs);
      return;
    }
    this.#connection = connection;
    exchange(connection, hop, this.#limits, this.#deadline, this.#exchanged);
  }

  readonly #exchanged = (result: Answer | Fault): void => {
    try {
      this.#finishHop(result);
    } catch (error) {
      this.#failUnexpectedly(error);
    }
  };

  #finishHop(result: Answer | Fault): void {
    const { pool, redirectsMax } = this.#context;
    const hop = this.#hop;
    const connection = this.#connection;
    if (hop === undefined || connection === undefined) return;
    this.#connection = undefined;
    pool.release(connection);
    if (result.kind === 'fault') {
      if (result.mayRepeat && !this.#isFresh) this.#connect(hop, true);
      else this.cancel(result.problem);
      return;
    }
    const { status, location } = result;
    if (location === undefined) {
      this.#decompress(result);
    } else if (this.#redirects >= redirectsMax) {
      this.cancel(problems.tooManyRedirects);
    } else {
      this.#redirect(nextHop(hop, status, location), hop);
    }
  }

  #redirect(next: Hop | Problem, from: Hop): void {
    if (next.kind === 'hop') {
      if (from.target.secure && !next.target.secure && !this.#rules.followInsecureRedirects) {
        this.cancel(problems.insecureRedirect);
        return;
      }
      this.#redirects += 1;
    }
    this.#take(next);
  }

  /** What was read of a compressed body may be a little more than is kept of a decoded one. */
  #decompress(answer: Answer): void {
    const { headers, body, truncated, permit } = answer;
    const { responseBytesMax } = this.#rules;
    const codings = body.byteLength === 0 ? [] : codingsOf(headers, this.#rules.decompress);
    if ('kind' in codings) {
      permit?.release();
      this.cancel(codings);
      return;
    }
    if (codings.length === 0) {
      const isLonger = body.byteLength > responseBytesMax;
      this.#answer(isLonger ? { ...answer, body: body.subarray(0, responseBytesMax), truncated: true } : answer);
      return;
    }
    const limits = { ...this.#limits, bodyBytesMax: responseBytesMax, decoders: this.#context.decoders };
    decompress(body, codings, limits, permit, this.#deadline, (decoded) => {
      if (decoded.kind === 'problem') this.cancel(decoded);
      else this.#answer({ ...answer, ...decoded, truncated: truncated || decoded.truncated });
    });
  }

  #answer(answer: Pick<Answer, 'status' | 'headers'> & Omit<Decoded, 'kind'>): void {
    const { status, headers, body, truncated, permit } = answer;
    const timings = this.#deadline.timings();
    this.#settle({
      kind: 'reply',
      status,
      headers,
      body,
      truncated,
      release: permit && (() => permit.release()),
      redirected: this.#redirected(),
      timings,
    });
  }

  #redirected(): Redirected | undefined {
    return this.#redirects === 0 || this.#hop === undefined
      ? undefined
      : { url: this.#hop.url.href, hops: this.#redirects };
  }

  #failUnexpectedly(error: unknown): void {
    this.cancel(problem('failed', `Unexpected failure: ${error instanceof Error ? error.message : String(error)}`));
  }

  #fail(cause: Failure): void {
    const redirected = this.#redirected();
    this.#settle(redirected === undefined ? cause : { ...cause, redirected });
  }

  #settle(outcome: Outcome): void {
    if (this.#deadline.ended) {
      if (outcome.kind === 'reply') outcome.release?.();
      return;
    }
    this.#cancellation?.onAsked(undefined);
    if (this.#place !== undefined) this.#context.underWay.remove(this.#place);
    this.#resolve(outcome);
    this.#deadline.end();
  }
}
