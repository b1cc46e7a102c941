import type { Socket } from 'node:net';
import type { TLSSocket } from 'node:tls';
import type { AddressPolicy } from '../core/addresses.ts';
import { Bag } from '../core/bag.ts';
import type { Cancellation } from '../core/cancellation.ts';
import type { Outcome } from '../core/outcome.ts';
import { Supply } from '../core/permits.ts';
import { createProxyChoice, type ProxyOptions } from '../core/proxies.ts';
import type { SendableRequest } from '../core/request.ts';
import { defaultSendRules, type SendRules } from '../core/send-rules.ts';
import type { Connection } from './connection.ts';
import { type Connected, createConnector, type Target } from './connector.ts';
import { problems } from './failures.ts';
import { FirstHops } from './hop.ts';
import { Http1Connection } from './http1-connection.ts';
import { Http2Connection } from './http2-connection.ts';
import { createSystemLookup } from './names/system-lookup.ts';
import { Pool } from './pool.ts';
import type { Lookup } from './resolve.ts';
import { Sending, type SendingContext } from './sending.ts';
import type { TlsSettings } from './tls.ts';

/** What {@link createHttpClient} needs to know. */
export type HttpClientOptions = {
  /** The User-Agent of requests that bring none. */
  readonly userAgent: string;
  /** Which hosts may be reached; vetted for every connection, of redirects too. */
  readonly policy: AddressPolicy;
  /** Connections to one origin at a time, redirects to it included; requests beyond wait for one, on their own deadline. Default 1,000. */
  readonly connectionsPerOriginMax?: number;
  /** Bytes of a reply's header section; a longer one is a "Weird server reply". Default 300 KiB, as libcurl has it since 8.3. */
  readonly responseHeaderBytesMax?: number;
  /** Redirects that are followed; the next one fails the request. Default 30, as pg_net has it. */
  readonly redirectsMax?: number;
  /** Whom to trust beside the default authorities, and what to show to whom. */
  readonly tls?: TlsSettings;
  /** Which requests go through which proxy. Default: none. */
  readonly proxy?: ProxyOptions | undefined;
  /** Resolves names. Default: as the operating system is told to ({@link createSystemLookup}). */
  readonly lookup?: Lookup;
  /** A monotonic clock in milliseconds. Default: `performance.now`. */
  readonly now?: () => number;
};

export type HttpClient = {
  /**
   * Sends a request and follows its redirects. Never rejects for anything a server, the network or the request can do:
   * failures are data. Settles by the request's deadline, counted from this call; a time-out of 0 or less has passed
   * at once. `cancellation` gives it up. Without `rules`, {@link defaultSendRules} hold.
   */
  send(request: SendableRequest, rules?: SendRules, cancellation?: Cancellation): Promise<Outcome>;
  /** Cancels what is in flight, ends all sockets at once and resolves when the last has closed. Safe to call twice. */
  close(): Promise<void>;
};

/** Creates a client; it holds no resources until the first request. */
export function createHttpClient(options: HttpClientOptions): HttpClient {
  const { policy, userAgent, connectionsPerOriginMax = 1_000, lookup = createSystemLookup() } = options;
  const { responseHeaderBytesMax = 300 * 1024, redirectsMax = 30 } = options;
  const now = options.now ?? (() => performance.now());
  const sockets = new Set<Socket>();
  const underWay = new Bag<Sending>();
  const onSocket = (socket: Socket): void => {
    sockets.add(socket);
    socket.once('close', () => sockets.delete(socket));
  };
  const proxyOf = createProxyChoice(options.proxy);
  const connect = createConnector({ policy, lookup, proxyOf, tls: options.tls ?? {}, onSocket });
  const open = (target: Target, { socket, viaProxy }: Connected): Connection =>
    target.secure && (socket as TLSSocket).alpnProtocol === 'h2'
      ? new Http2Connection(target.origin, socket, responseHeaderBytesMax)
      : new Http1Connection(target.origin, socket, responseHeaderBytesMax, viaProxy);
  const pool = new Pool({ connect, open, connectionsPerOriginMax, now });
  const firstHops = new FirstHops(userAgent);
  const largeBodies = new Supply(largeBodiesBytesMax);
  const decoders = new Supply(decodersMax);
  const context: SendingContext = { pool, firstHops, largeBodies, decoders, redirectsMax, now, underWay };
  let closed = false;

  return {
    send(request, rules = defaultSendRules, cancellation) {
      return new Promise((resolve) => {
        const sending = new Sending(context, request, rules, cancellation, resolve);
        if (closed) sending.cancel(problems.closed);
        else if (cancellation?.isAsked) sending.cancel(problems.cancelled);
        else sending.begin();
      });
    },

    async close() {
      closed = true;
      for (const sending of underWay.items()) sending.cancel(problems.closed);
      // The newest first: TLS over TLS never says that it has closed when the socket below goes before it.
      await Promise.all([...sockets].reverse().map(destroyed));
    },
  };
}

/**
 * What all large bodies together may take, and one body more of each role that has any: of its own nobody may lack the room
 * because of others.
 */
const largeBodiesBytesMax = 32 * 1024 * 1024;
/** Bodies that are decoded at a time. Node.js has four threads for this, name lookups and files. */
const decodersMax = 2;

/** Destroys a socket and resolves when its handle is closed. */
function destroyed(socket: Socket): Promise<void> {
  return new Promise((resolve) => {
    socket.once('close', () => resolve());
    socket.destroy();
  });
}
