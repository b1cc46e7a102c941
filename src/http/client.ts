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
import { createPool } from './pool.ts';
import { nextHop } from './redirects.ts';

/** What {@link createHttpClient} needs to know. */
export type HttpClientOptions = {
  /** The User-Agent of requests that bring none. */
  readonly userAgent: string;
  /** Which hosts may be reached; vetted for every connection, of redirects too. */
  readonly policy: AddressPolicy;
  /** Connections to one origin at a time; requests beyond wait for one, on their own deadline. */
  readonly connectionsPerOriginMax: number;
  /** Bytes of a reply's body that are kept; of a longer one the rest is not read. Default 8 MiB. */
  readonly responseBytesMax?: number;
  /** Bytes of a reply's header section; a longer one is a "Weird server reply". Default 64 KiB. */
  readonly responseHeaderBytesMax?: number;
  /** Redirects that are followed; the next one fails the request. Default 30. */
  readonly redirectsMax?: number;
  /** TLS settings: `ca` is trusted beside the default authorities (PEM). */
  readonly tls?: { readonly ca?: ExtraCa };
  /** Resolves names. Default: the operating system's resolver, all addresses in its order. */
  readonly lookup?: Lookup;
  /** A monotonic clock in milliseconds. Default: `performance.now`. */
  readonly now?: () => number;
};

export type HttpClient = {
  /**
   * Sends a request and follows its redirects. Never rejects for anything a server, the network or the request can do:
   * failures are data. Settles by the request's deadline, counted from this call. An aborted `signal` cancels it.
   */
  send(request: ClaimedRequest, signal?: AbortSignal): Promise<Outcome>;
  /** Cancels what is in flight, ends all sockets at once and resolves when the last has closed. Safe to call twice. */
  close(): Promise<void>;
};

const defaults = { responseBytesMax: 8 * 1024 * 1024, responseHeaderBytesMax: 64 * 1024, redirectsMax: 30 };

/** Creates a client; it holds no resources until the first request. */
export function createHttpClient(options: HttpClientOptions): HttpClient {
  const responseBytesMax = options.responseBytesMax ?? defaults.responseBytesMax;
  const redirectsMax = options.redirectsMax ?? defaults.redirectsMax;
  const now = options.now ?? (() => performance.now());
  const sockets = createSocketSet();
  const cancellations = new Set<() => void>();
  let closed = false;
  const pool = createPool({
    connect: createConnector({
      policy: options.policy,
      lookup: options.lookup ?? systemLookup,
      extraCa: options.tls?.ca,
      onSocket: sockets.add,
    }),
    connectionsPerOriginMax: options.connectionsPerOriginMax,
    responseHeaderBytesMax: options.responseHeaderBytesMax ?? defaults.responseHeaderBytesMax,
  });

  /** The hops of a request, one after the other, until one is not a redirect. */
  async function follow(request: ClaimedRequest, deadline: Deadline): Promise<Outcome> {
    let hop: Hop | Problem = firstHop(request, options.userAgent);
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
  }

  /** One hop; once more on a new connection if a kept one turns out to be dead. */
  async function sendHop(hop: Hop, deadline: Deadline): Promise<Answer | Problem> {
    const target = targetOf(hop.url);
    for (let fresh = false; ; fresh = true) {
      deadline.enter('connect');
      const acquired = pool.acquire(target, deadline, fresh);
      const connection = acquired instanceof Promise ? await acquired : acquired;
      if ('kind' in connection) return connection;
      if (deadline.ended) {
        pool.discard(connection);
        return problems.cancelled;
      }
      const result = await exchange(connection, hop, responseBytesMax, deadline);
      if (result.kind === 'answer') {
        if (result.complete) pool.release(connection);
        else pool.discard(connection);
        return result;
      }
      pool.discard(connection);
      if (!result.stale || fresh || deadline.ended) return result.problem;
    }
  }

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

        if (closed || signal?.aborted) return cancel();
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
      await sockets.destroyAll();
    },
  };
}

function targetOf(url: URL): Target {
  const secure = url.protocol === 'https:';
  const port = url.port === '' ? (secure ? 443 : 80) : Number(url.port);
  return { origin: url.origin, secure, host: url.hostname, port };
}

const systemLookup: Lookup = (hostname) => dns.promises.lookup(hostname, { all: true, verbatim: true });

/** Every socket there is, so that none outlives the client. */
function createSocketSet(): { add(socket: Socket): void; destroyAll(): Promise<void> } {
  const sockets = new Set<Socket>();
  return {
    add(socket) {
      sockets.add(socket);
      socket.once('close', () => sockets.delete(socket));
    },
    async destroyAll() {
      const closing = [...sockets].map((socket) => {
        const closed = new Promise((resolve) => socket.once('close', resolve));
        socket.destroy();
        return closed;
      });
      await Promise.all(closing);
    },
  };
}
