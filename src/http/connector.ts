import net from 'node:net';
import tls from 'node:tls';
import { type AddressPolicy, isAddress, isLocalhost, localhostAddresses } from '../core/addresses.ts';
import type { Deadline } from './deadline.ts';
import { denied, type Problem, problems } from './failures.ts';

/** A server to connect to, as a URL names it. */
export type Target = {
  readonly origin: string;
  readonly secure: boolean;
  /** As `URL.hostname` writes it: IPv6 addresses in brackets. */
  readonly host: string;
  readonly port: number;
};

/** Resolves a name to all of its addresses, in the order in which to try them. Rejects or returns none: unresolvable. */
export type Lookup = (hostname: string) => Promise<readonly { readonly address: string; readonly family: number }[]>;

/** Certificates as `tls.createSecureContext` takes them. */
export type ExtraCa = string | Buffer | readonly (string | Buffer)[];

export type ConnectorOptions = {
  readonly policy: AddressPolicy;
  readonly lookup: Lookup;
  /** Trusted beside the authorities that Node.js trusts. */
  readonly extraCa: ExtraCa | undefined;
  /** Told of every socket as it is created, connected or not. */
  readonly onSocket: (socket: net.Socket) => void;
};

/**
 * Resolves, vets, dials and, for https, shakes hands. What was vetted is what is dialled: a name is resolved once and
 * only IP addresses reach `net.connect`. Never rejects; at the end of the deadline every socket it opened is destroyed.
 */
export type Connector = (target: Target, deadline: Deadline) => Promise<net.Socket | Problem>;

/** Head start of an address over the next one (RFC 8305, 8: Connection Attempt Delay). */
const attemptDelayMs = 250;
/** More addresses of one name than this are not tried; all of them are vetted. */
const addressesDialledMax = 16;
/** A lookup younger than this answers others for the same name too; an older one may be hanging. */
const lookupSharedMs = 1_000;
const tlsSessionsMax = 256;

export function createConnector(options: ConnectorOptions): Connector {
  const resolve = createResolver(options.policy, options.lookup);
  const secure = createTlsClient(options.extraCa, options.onSocket);
  return async (target, deadline) => {
    const addresses = await resolve(target.host, deadline);
    if ('kind' in addresses) return addresses;
    const socket = await dial(addresses, target.port, deadline, options.onSocket);
    if ('kind' in socket || !target.secure) return socket;
    if (deadline.ended) {
      socket.destroy();
      return problems.cancelled;
    }
    return secure(socket, target, deadline);
  };
}

type Resolver = (host: string, deadline: Deadline) => Promise<readonly string[] | Problem>;

/** The addresses of a host, every one of them allowed. */
function createResolver(policy: AddressPolicy, lookup: Lookup): Resolver {
  const underway = new Map<string, ReturnType<Lookup>>();

  /** One lookup per name at a time: getaddrinfo occupies a thread of a small pool, and a burst asks for one name. */
  function sharedLookup(host: string): ReturnType<Lookup> {
    const shared = underway.get(host);
    if (shared !== undefined) return shared;
    const started = lookup(host);
    underway.set(host, started);
    const forget = () => {
      clearTimeout(timer);
      if (underway.get(host) === started) underway.delete(host);
    };
    const timer = setTimeout(forget, lookupSharedMs).unref();
    started.then(forget, forget);
    return started;
  }

  return async (host, deadline) => {
    const denial = policy.hostDenial(host);
    if (denial !== undefined) return denied(denial);
    const literal = host.startsWith('[') ? host.slice(1, -1) : host;
    if (isAddress(literal)) return [literal];
    if (isLocalhost(host)) return localhostAddresses.filter((a) => policy.addressDenial(a, host) === undefined);
    deadline.enter('dns');
    let found: Awaited<ReturnType<Lookup>> | Problem;
    try {
      found = await unlessEnded(deadline, () => sharedLookup(host));
    } catch {
      found = problems.unresolvable;
    }
    deadline.enter('connect');
    if ('kind' in found) return found;
    if (found.length === 0) return problems.unresolvable;
    // One denied address refuses the name: what it resolves to is then in someone else's hands. Which, is not told.
    if (found.some(({ address }) => policy.addressDenial(address, host) !== undefined)) {
      return denied('the name resolves to an address that is not allowed');
    }
    return interleaved(found.map(({ address }) => address)).slice(0, addressesDialledMax);
  };
}

/** Waits for what cannot be cancelled, but no longer than the deadline. */
function unlessEnded<T>(deadline: Deadline, start: () => Promise<T>): Promise<T | Problem> {
  return new Promise((resolve, reject) => {
    deadline.onEnd(() => resolve(problems.cancelled));
    start()
      .finally(() => deadline.onEnd(undefined))
      .then(resolve, reject);
  });
}

/** Alternates the families, beginning with the first address's (RFC 8305, 4). */
function interleaved(addresses: readonly string[]): string[] {
  const isFirstFamily = (address: string) => address.includes(':') === addresses[0]?.includes(':');
  const first = addresses.filter(isFirstFamily);
  const second = addresses.filter((address) => !isFirstFamily(address));
  return Array.from({ length: Math.max(first.length, second.length) }, (_, i) => [first[i], second[i]])
    .flat()
    .filter((address) => address !== undefined);
}

/** Happy eyeballs over vetted addresses: the next starts when one fails or takes long, the first to connect wins. */
function dial(
  addresses: readonly string[],
  port: number,
  deadline: Deadline,
  onSocket: (socket: net.Socket) => void,
): Promise<net.Socket | Problem> {
  return new Promise((resolve) => {
    const attempts = new Set<net.Socket>();
    let next = 0;
    let done = false;
    let timer: NodeJS.Timeout | undefined;

    function finish(result: net.Socket | Problem): void {
      if (done) return;
      done = true;
      clearTimeout(timer);
      deadline.onEnd(undefined);
      for (const socket of attempts) if (socket !== result) socket.destroy();
      resolve(result);
    }

    function attempt(): void {
      clearTimeout(timer);
      const host = addresses[next];
      if (done) return;
      if (host === undefined) {
        if (attempts.size === 0) finish(problems.connectFailed);
        return;
      }
      next += 1;
      let socket: net.Socket;
      try {
        socket = net.connect({ host, port, noDelay: true, keepAlive: true, keepAliveInitialDelay: 60_000 });
      } catch {
        attempt();
        return;
      }
      attempts.add(socket);
      onSocket(socket);
      // The listener stays for the socket's life: an error between two owners must not crash the process.
      socket.on('error', () => undefined);
      socket.once('connect', () => finish(socket));
      socket.once('close', () => {
        attempts.delete(socket);
        attempt();
      });
      if (next < addresses.length) timer = setTimeout(attempt, attemptDelayMs);
    }

    deadline.onEnd(() => finish(problems.cancelled));
    attempt();
  });
}

type TlsClient = (socket: net.Socket, target: Target, deadline: Deadline) => Promise<net.Socket | Problem>;

function createTlsClient(extraCa: ExtraCa | undefined, onSocket: (socket: net.Socket) => void): TlsClient {
  // Made once: parsing the authorities anew for each connection costs milliseconds.
  const secureContext = extraCa === undefined ? undefined : tls.createSecureContext({ ca: withDefaultCa(extraCa) });
  const sessions = new Map<string, Buffer>();

  function remember(origin: string, session: Buffer): void {
    sessions.delete(origin);
    const oldest = sessions.size >= tlsSessionsMax ? sessions.keys().next().value : undefined;
    if (oldest !== undefined) sessions.delete(oldest);
    sessions.set(origin, session);
  }

  return (tcpSocket, target, deadline) =>
    new Promise((resolve) => {
      const session = sessions.get(target.origin);
      const socket = tls.connect({
        socket: tcpSocket,
        ...tlsIdentity(target.host),
        ...(secureContext === undefined ? {} : { secureContext }),
        ...(session === undefined ? {} : { session }),
        ALPNProtocols: ['http/1.1'],
        rejectUnauthorized: true,
      });
      onSocket(socket);
      let done = false;
      function finish(result: net.Socket | Problem): void {
        if (done) return;
        done = true;
        deadline.onEnd(undefined);
        if (result !== socket) {
          socket.destroy();
          tcpSocket.destroy();
        }
        resolve(result);
      }
      socket.on('error', () => undefined);
      socket.on('session', (fresh: Buffer) => remember(target.origin, fresh));
      socket.once('secureConnect', () => finish(socket));
      socket.once('close', () => {
        sessions.delete(target.origin);
        // Set only when the chain or the name did not verify; any other end of a handshake leaves it null.
        finish(socket.authorizationError ? problems.certificateRefused : problems.tlsFailed);
      });
      deadline.onEnd(() => finish(problems.cancelled));
    });
}

/** Whose certificate to expect; an IP address is verified but never sent as a server name (RFC 6066, 3). */
function tlsIdentity(host: string): { host: string; servername?: string } {
  const name = host.startsWith('[') ? host.slice(1, -1) : host.replace(/\.$/, '');
  return isAddress(name) ? { host: name } : { host: name, servername: name };
}

/** The `ca` option of Node.js replaces the default authorities; ours are to come on top of them. */
function withDefaultCa(extraCa: ExtraCa): (string | Buffer)[] {
  const { getCACertificates } = tls as { getCACertificates?: (type: 'default') => string[] };
  // From Node.js 22.15 on this includes NODE_EXTRA_CA_CERTS; before, only the bundled ones can be had.
  const defaults = getCACertificates?.('default') ?? tls.rootCertificates;
  return [...defaults, ...(Array.isArray(extraCa) ? extraCa : [extraCa])];
}
