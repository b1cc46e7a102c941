import type net from 'node:net';
import type { Duplex } from 'node:stream';
import tls from 'node:tls';
import { type ClientCertificate, certificateFor } from '../core/client-certificate.ts';
import { isAddress } from '../core/hosts.ts';
import type { Deadline } from './deadline.ts';
import { type Problem, problems, refusedCertificate } from './failures.ts';

/** Certificates as `tls.createSecureContext` takes them. */
export type ExtraCa = string | Buffer | readonly (string | Buffer)[];

/** Whom to trust, and what to show to whom. */
export type TlsSettings = {
  /** Trusted beside the authorities that Node.js trusts: roots, intermediates, or certificates of single servers. */
  readonly ca?: ExtraCa | undefined;
  /** Shown to the hosts they name, where these ask for one. The first that names a host is used. */
  readonly clientCertificates?: readonly ClientCertificate[] | undefined;
};

/** Who shall be at the other end, and what to speak. */
export type TlsPeer = {
  /** As `URL.hostname` writes it: whose certificate to expect, and whose to show. */
  readonly host: string;
  /** Scheme, host and port: whose sessions may be resumed. */
  readonly origin: string;
  /** The protocols to offer, the best first. The socket's `alpnProtocol` says which was chosen; false: the server did not choose. */
  readonly alpn: readonly string[];
};

/**
 * Shakes hands over anything that is connected, a TLS connection too. Never rejects; if there is no agreement by the end of the
 * deadline, or ever, what it was given is destroyed.
 */
export type TlsClient = (stream: Duplex, peer: TlsPeer, deadline: Deadline) => Promise<tls.TLSSocket | Problem>;

const sessionsMax = 256;

/** Makes a {@link TlsClient}; `onSocket` is told of every socket that it makes. */
export function createTlsClient(settings: TlsSettings, onSocket: (socket: net.Socket) => void): TlsClient {
  const { ca, clientCertificates = [] } = settings;
  const contexts = new Map<ClientCertificate | undefined, tls.SecureContext>();
  // What a session was made with depends on the host alone, and so on the origin: whose certificate was verified, and which
  // was shown. Node.js does not look at a certificate again when a session is resumed.
  const sessions = new Map<string, Buffer>();

  /** Made once, when it is needed first: with authorities of one's own each costs 20 ms and a megabyte. */
  function contextFor(host: string): tls.SecureContext {
    const certificate = certificateFor(host, clientCertificates);
    let context = contexts.get(certificate);
    if (context === undefined) {
      context = tls.createSecureContext({
        // As libcurl, partial chains: whatever was declared trusted is, and needs no root above it. Not without such: on Node.js 20
        // the switch loses what NODE_EXTRA_CA_CERTS says.
        ...(ca === undefined ? {} : { ca: withDefaultCa(ca), allowPartialTrustChain: true }),
        ...(certificate === undefined ? {} : credentials(certificate)),
      });
      contexts.set(certificate, context);
    }
    return context;
  }

  function remember(origin: string, session: Buffer): void {
    sessions.delete(origin);
    const oldest = sessions.size >= sessionsMax ? sessions.keys().next().value : undefined;
    if (oldest !== undefined) sessions.delete(oldest);
    sessions.set(origin, session);
  }

  return (stream, { host, origin, alpn }, deadline) =>
    new Promise((resolve) => {
      const session = sessions.get(origin);
      const socket = tls.connect({
        socket: stream,
        ...identity(host),
        secureContext: contextFor(host),
        ...(session === undefined ? {} : { session }),
        ALPNProtocols: [...alpn],
        checkServerIdentity,
        rejectUnauthorized: true,
      });
      onSocket(socket);
      let done = false;
      function finish(result: tls.TLSSocket | Problem): void {
        if (done) return;
        done = true;
        deadline.onEnd(undefined);
        if (result !== socket) {
          // If it was the session that displeased, the next handshake is a whole one.
          sessions.delete(origin);
          socket.destroy();
          stream.destroy();
        }
        resolve(result);
      }
      // It stays for the socket's life: an error between two owners must not crash the process.
      socket.on('error', () => undefined);
      // Node.js holds it back until the certificate is verified.
      socket.on('session', (fresh: Buffer) => remember(origin, fresh));
      socket.once('secureConnect', () => finish(socket));
      socket.once('close', () => {
        // Set only when the chain or the name did not verify; any other end of a handshake leaves it null.
        const { authorizationError } = socket;
        finish(authorizationError ? refusedCertificate(String(authorizationError)) : problems.tlsFailed);
      });
      deadline.onEnd(() => finish(problems.cancelled));
    });
}

function credentials({ cert, key = cert, passphrase }: ClientCertificate): tls.SecureContextOptions {
  return { cert, key, ...(passphrase === undefined ? {} : { passphrase }) };
}

/** Whose certificate to expect; an IP address is verified but never sent as a server name (RFC 6066, 3). */
function identity(host: string): { host: string; servername?: string } {
  const name = host.startsWith('[') ? host.slice(1, -1) : host.replace(/\.$/, '');
  return isAddress(name) ? { host: name } : { host: name, servername: name };
}

/** As libcurl: where a certificate has no alternative names, the common one counts, for an address too. */
function checkServerIdentity(host: string, certificate: tls.PeerCertificate): Error | undefined {
  const { subject, subjectaltname } = certificate;
  const isNamed = subjectaltname === undefined && isAddress(host) && subject?.CN === host;
  return isNamed ? undefined : tls.checkServerIdentity(host, certificate);
}

/** The `ca` option of Node.js replaces the default authorities; ours are to come on top of them. */
function withDefaultCa(extra: ExtraCa): (string | Buffer)[] {
  const { getCACertificates } = tls as { getCACertificates?: (type: 'default') => string[] };
  // From Node.js 22.15 on this includes NODE_EXTRA_CA_CERTS; before, only the bundled ones can be had.
  const defaults = getCACertificates?.('default') ?? tls.rootCertificates;
  return [...defaults, ...(Array.isArray(extra) ? extra : [extra])];
}
