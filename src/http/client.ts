import dns from 'node:dns';
import type { Socket } from 'node:net';
import type { AddressPolicy } from '../core/addresses.ts';
import type { Outcome } from '../core/outcome.ts';
import type { ClaimedRequest } from '../core/request.ts';
import { createConnector, type ExtraCa, type Lookup, type Target } from './connector.ts';
import { Deadline } from './deadline.ts';
import { type Answer, exchange } from './exchange.ts';
import { failure, type Problem, problem, problems, timedOut } from './failures.ts';
import { firstHop, type Hop } from './hop.ts';
import { Pool } from './pool.ts';
import { nextHop } from './redirects.ts';

/** What {@link createHttpClient} needs to know. */
export type HttpClientOptions = {
  /** The User-Agent of requests that bring none. */
  readonly userAgent: string;
  /** Which hosts may be reached; vetted for every connection, of redirects too. */
  readonly policy: AddressPolicy;
  /** Connections to one origin at a time, redirects to it included; requests beyond wait for one, on their own deadline. Default 1,000. */
  readonly connectionsPerOriginMax?: number;
  /** Bytes of a reply's body that are kept; of a longer one the rest is not read. Default 8 MiB. */
  readonly responseBytesMax?: number;
  /** Bytes of a reply's header section; a longer one is a "Weird server reply". Default 64 KiB. */
  readonly responseHeaderBytesMax?: number;
  /** Redirects that are followed; the next one fails the request. Default 30, as pg_net has it. */
  readonly redirectsMax?: number;
  /** TLS settings: `ca` (PEM) is trusted beside the default authorities. */
  readonly tls?: { readonly ca?: ExtraCa };
  /** Resolves names. Default: the operating system's resolver, all addresses in its order. */
  readonly lookup?: Lookup;
  /** A monotonic clock in milliseconds. Default: `performance.now`. */
  readonly now?: () => number;
};

export type HttpClient = {
  /**
   * Sends a request and follows its redirects. Never rejects for anything a server, the network or the request can do:
   * failures are data. Settles by the request's deadline, counted from this call; a time-out of 0 or less has passed
   * at once. An aborted `signal` cancels it.
   */
  send(request: ClaimedRequest, signal?: AbortSignal): Promise<Outcome>;
  /** Cancels what is in flight, ends all sockets at once and resolves when the last has closed. Safe to call twice. */
  close(): Promise<void>;
};

/** Creates a client; it holds no resources until the first request. */
export function createHttpClient(options: HttpClientOptions): HttpClient {
  const now = options.now ?? (() => performance.now());
  const sockets = new Set<Socket>();
  const cancellations = new Set<() => void>();
  const follow = createFollower(options, (socket) => {
    sockets.add(socket);
    socket.once('close', () => sockets.delete(socket));
  });
  let closed = false;

  return {
    send(request, signal) {
      return new Promise((resolve) => {
        const { timeoutMs } = request.row;
        const deadline = new Deadline(timeoutMs, now, () => settle(timedOut(timeoutMs, deadline.timings())));
        const cancel = () => settle(failure(closed ? problems.closed : problems.cancelled, deadline.timings()));

        function settle(outcome: Outcome): void {
          if (deadline.ended) return;
          signal?.removeEventListener('abort', cancel);
          cancellations.delete(cancel);
          resolve(outcome);
          deadline.end();
        }

        if (closed || signal?.aborted) {
          cancel();
          return;
        }
        signal?.addEventListener('abort', cancel);
        cancellations.add(cancel);
        follow(request, deadline).then(settle, (error: unknown) => {
          const text = error instanceof Error ? error.message : String(error);
          settle(failure(problem('failed', `Unexpected failure: ${text}`), deadline.timings()));
        });
      });
    },

    async close() {
      closed = true;
      for (const cancel of cancellations) cancel();
      await Promise.all([...sockets].map(destroyed));
    },
  };
}

type Follow = (request: ClaimedRequest, deadline: Deadline) => Promise<Outcome>;

/** The way of a request: its hops, one after the other, until one is not a redirect. */
function createFollower(options: HttpClientOptions, onSocket: (socket: Socket) => void): Follow {
  const { policy, userAgent, connectionsPerOriginMax = 1_000 } = options;
  const { responseBytesMax = 8 * 1024 * 1024, responseHeaderBytesMax = 64 * 1024, redirectsMax = 30 } = options;
  const lookup = options.lookup ?? systemLookup;
  const connect = createConnector({ policy, lookup, extraCa: options.tls?.ca, onSocket });
  const pool = new Pool({ connect, connectionsPerOriginMax, responseHeaderBytesMax });

  /** One hop; once more on a new connection if a kept one turns out to be dead. */
  async function sendHop(hop: Hop, deadline: Deadline): Promise<Answer | Problem> {
    const target = targetOf(hop.url);
    for (let fresh = false; ; fresh = true) {
      deadline.enter('connect');
      const acquired = pool.acquire(target, deadline, fresh);
      const connection = acquired instanceof Promise ? await acquired : acquired;
      if ('kind' in connection) return connection;
      const result = await exchange(connection, hop, responseBytesMax, deadline);
      if (result.kind === 'answer' && result.complete) pool.release(connection);
      else pool.discard(connection);
      if (result.kind === 'answer') return result;
      if (!result.stale || fresh) return result.problem;
    }
  }

  return async (request, deadline) => {
    let hop: Hop | Problem = firstHop(request, userAgent);
    for (let redirects = 0; ; redirects++) {
      if (hop.kind === 'problem') return failure(hop, deadline.timings());
      const answer: Answer | Problem = await sendHop(hop, deadline);
      if (answer.kind === 'problem') return failure(answer, deadline.timings());
      const { status, headers, body, truncated, location } = answer;
      if (location === undefined) {
        return { kind: 'reply', status, headers, body, truncated, timings: deadline.timings() };
      }
      hop = redirects < redirectsMax ? nextHop(hop, status, location) : problems.tooManyRedirects;
    }
  };
}

function targetOf(url: URL): Target {
  const secure = url.protocol === 'https:';
  const port = url.port === '' ? (secure ? 443 : 80) : Number(url.port);
  return { origin: url.origin, secure, host: url.hostname, port };
}

const systemLookup: Lookup = (hostname) => dns.promises.lookup(hostname, { all: true, verbatim: true });

/** Destroys a socket and resolves when its handle is closed. */
function destroyed(socket: Socket): Promise<void> {
  return new Promise((resolve) => {
    socket.once('close', () => resolve());
    socket.destroy();
  });
}
