import type net from 'node:net';
import { type AddressPolicy, createAddressPolicy } from '../core/addresses.ts';
import type { HttpProxy, ProxyChoice } from '../core/proxies.ts';
import type { Deadline } from './deadline.ts';
import { dial } from './dial.ts';
import { denied, type Problem, problem, problems } from './failures.ts';
import { openTunnel, type ViaProxy, viaProxy } from './proxy.ts';
import { createResolver, type Lookup, type Resolver } from './resolve.ts';
import { createTlsClient, type TlsPeer, type TlsSettings } from './tls.ts';

/** A server to connect to, as a URL names it. */
export type Target = {
  readonly origin: string;
  readonly secure: boolean;
  /** As `URL.hostname` writes it: IPv6 addresses in brackets. */
  readonly host: string;
  readonly port: number;
  /** Host and port as a Host header has them: without a port that goes without saying. */
  readonly authority: string;
};

export type ConnectorOptions = {
  readonly policy: AddressPolicy;
  readonly lookup: Lookup;
  readonly tls: TlsSettings;
  /** Which targets are reached through which proxy. */
  readonly proxyOf: ProxyChoice;
  /** Told of every socket as it is created, connected or not. */
  readonly onSocket: (socket: net.Socket) => void;
};

/** A connection, ready for requests to its target. */
export type Connected = {
  readonly socket: net.Socket;
  /** How they are to be sent where it leads to a proxy that passes them on; undefined where it leads to the target. */
  readonly viaProxy: ViaProxy | undefined;
};

/**
 * Resolves, vets, dials and, for https, shakes hands. What was vetted is what is dialled: a name is resolved once and
 * only IP addresses reach `net.connect`. Through a proxy only the name is vetted, since it is the proxy that resolves it. Never
 * rejects; at the end of the deadline every socket it opened is destroyed.
 */
export type Connector = (target: Target, deadline: Deadline) => Promise<Connected | Problem>;

type Dialled = Promise<net.Socket | Problem>;

export function createConnector(options: ConnectorOptions): Connector {
  const { policy, lookup, proxyOf, onSocket } = options;
  const targets = createResolver(policy, lookup);
  const proxies = createResolver(anyAddress, lookup);
  const shakeHands = createTlsClient(options.tls, onSocket);

  async function reach({ resolve, forget }: Resolver, host: string, port: number, deadline: Deadline): Dialled {
    const addresses = await resolve(host, deadline);
    if ('kind' in addresses) return addresses;
    const socket = await dial(addresses, port, deadline, onSocket);
    if ('kind' in socket) forget(host);
    return socket;
  }

  async function secured(socket: net.Socket, peer: TlsPeer, deadline: Deadline): Dialled {
    if (!deadline.ended) return shakeHands(socket, peer, deadline);
    socket.destroy();
    return problems.cancelled;
  }

  async function connectDirectly(target: Target, deadline: Deadline): Promise<Connected | Problem> {
    const connected = await reach(targets, target.host, target.port, deadline);
    if ('kind' in connected) return connected;
    const socket = target.secure ? await secured(connected, { ...target, alpn }, deadline) : connected;
    return 'kind' in socket ? socket : { socket, viaProxy: undefined };
  }

  async function connectToProxy({ secure, host, port }: HttpProxy, deadline: Deadline): Dialled {
    const socket = await reach(proxies, host, port, deadline);
    if ('kind' in socket || !secure) return socket;
    return secured(socket, { host, origin: `https://${host}:${port}`, alpn: proxyAlpn }, deadline);
  }

  async function connectThrough(proxy: HttpProxy, target: Target, deadline: Deadline): Promise<Connected | Problem> {
    const denial = policy.hostDenial(target.host);
    if (denial !== undefined) return denied(denial);
    const connected = await connectToProxy(proxy, deadline);
    if ('kind' in connected) return ofProxy(connected);
    if (!target.secure) return { socket: connected, viaProxy: viaProxy(proxy) };
    const refusal = await openTunnel(connected, proxy, target, deadline);
    if (refusal !== undefined) return refusal;
    const socket = await secured(connected, { ...target, alpn }, deadline);
    return 'kind' in socket ? socket : { socket, viaProxy: undefined };
  }

  return async (target, deadline) => {
    const denial = policy.targetDenial(target);
    if (denial !== undefined) return denied(denial);
    const proxy = proxyOf(target);
    return proxy === undefined ? connectDirectly(target, deadline) : connectThrough(proxy, target, deadline);
  };
}

/** What is offered to servers, and to proxies. */
const alpn = ['h2', 'http/1.1'];
const proxyAlpn = ['http/1.1'];

/** Where the proxy is, is the operator's choice, and nothing that SQL could say. */
const anyAddress = createAddressPolicy({ allow: ['all'] });

/** What went wrong on the way to the proxy: the target has nothing to do with it. */
function ofProxy(cause: Problem): Problem {
  if (cause.code === 'cancelled') return cause;
  return cause.code === 'unresolvable' ? problems.proxyUnresolvable : problem('proxy_failed', cause.message);
}
