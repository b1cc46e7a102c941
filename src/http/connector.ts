import type net from 'node:net';
import type { AddressPolicy } from '../core/addresses.ts';
import type { Deadline } from './deadline.ts';
import { dial } from './dial.ts';
import { type Problem, problems } from './failures.ts';
import { createResolver, type Lookup } from './resolve.ts';
import { createTlsClient, type TlsSettings } from './tls.ts';

/** A server to connect to, as a URL names it. */
export type Target = {
  readonly origin: string;
  readonly secure: boolean;
  /** As `URL.hostname` writes it: IPv6 addresses in brackets. */
  readonly host: string;
  readonly port: number;
};

export type ConnectorOptions = {
  readonly policy: AddressPolicy;
  readonly lookup: Lookup;
  readonly tls: TlsSettings;
  /** Told of every socket as it is created, connected or not. */
  readonly onSocket: (socket: net.Socket) => void;
};

/**
 * Resolves, vets, dials and, for https, shakes hands. What was vetted is what is dialled: a name is resolved once and
 * only IP addresses reach `net.connect`. Never rejects; at the end of the deadline every socket it opened is destroyed.
 */
export type Connector = (target: Target, deadline: Deadline) => Promise<net.Socket | Problem>;

export function createConnector(options: ConnectorOptions): Connector {
  const { resolve, forget } = createResolver(options.policy, options.lookup);
  const secure = createTlsClient(options.tls, options.onSocket);
  return async (target, deadline) => {
    const addresses = await resolve(target.host, deadline);
    if ('kind' in addresses) return addresses;
    const socket = await dial(addresses, target.port, deadline, options.onSocket);
    if ('kind' in socket) forget(target.host);
    if ('kind' in socket || !target.secure) return socket;
    if (deadline.ended) {
      socket.destroy();
      return problems.cancelled;
    }
    return secure(socket, { ...target, alpn: ['h2', 'http/1.1'] }, deadline);
  };
}
