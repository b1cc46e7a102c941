import type net from 'node:net';
import tls from 'node:tls';
import { isAddress } from '../core/addresses.ts';
import type { Target } from './connector.ts';
import type { Deadline } from './deadline.ts';
import { type Problem, problems } from './failures.ts';

/** Certificates as `tls.createSecureContext` takes them. */
export type ExtraCa = string | Buffer | readonly (string | Buffer)[];

/** Shakes hands over a connected socket. Never rejects; at the end of the deadline the socket is destroyed. */
export type TlsClient = (socket: net.Socket, target: Target, deadline: Deadline) => Promise<net.Socket | Problem>;

const tlsSessionsMax = 256;

/** Makes a {@link TlsClient} that trusts `extraCa` beside the authorities that Node.js trusts. */
export function createTlsClient(extraCa: ExtraCa | undefined, onSocket: (socket: net.Socket) => void): TlsClient {
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
        ALPNProtocols: ['h2', 'http/1.1'],
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
