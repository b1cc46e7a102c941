import diagnostics from 'node:diagnostics_channel';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import http from 'node:http';
import https from 'node:https';
import net, { type AddressInfo } from 'node:net';
import tls from 'node:tls';
import { expect, onTestFinished, vi } from 'vitest';
import { createAddressPolicy } from '../../src/core/addresses.ts';
import type { Failure, Outcome, Reply } from '../../src/core/outcome.ts';
import type { HostRule } from '../../src/core/policy.ts';
import type { HeaderList, SendableRequest } from '../../src/core/request.ts';
import { defaultSendRules, type SendRules } from '../../src/core/send-rules.ts';
import { createHttpClient, type HttpClient, type HttpClientOptions } from '../../src/http/client.ts';

/** A client that may reach loopback, closed when the test ends. Rules that are given hold where `send` is given none. */
export function testClient(options: Partial<HttpClientOptions & SendRules> = {}): HttpClient {
  const { responseBytesMax, followInsecureRedirects, decompress } = { ...defaultSendRules, ...options };
  const ownRules = { responseBytesMax, followInsecureRedirects, decompress };
  const client = createHttpClient({
    userAgent: 'pgfetch-test/1',
    policy: createAddressPolicy({ allow: ['loopback'] }),
    connectionsPerOriginMax: 10,
    ...options,
  });
  onTestFinished(() => client.close());
  return {
    send: (request, rules = ownRules, signal) => client.send(request, rules, signal),
    close: () => client.close(),
  };
}

export type RequestParts = {
  method?: string;
  headers?: HeaderList;
  body?: Uint8Array | string | null;
  timeoutMs?: number;
  hostRules?: readonly HostRule[];
  /** The OID of who asked. */
  role?: number;
  secretHeaders?: readonly string[];
};

/** A request to send; by default a GET without headers and with a deadline that only a hanging test reaches. */
export function request(url: string, parts: RequestParts = {}): SendableRequest {
  const { method = 'GET', headers = [], body = null, timeoutMs = 10_000, hostRules, role = null } = parts;
  const { secretHeaders = [] } = parts;
  return {
    kind: 'sendable',
    row: {
      id: 1n,
      method,
      url,
      headersJson: JSON.stringify(headers),
      body: typeof body === 'string' ? Buffer.from(body) : body,
      timeoutMs,
      loginRole: role,
      setRole: null,
      signWith: null,
      extras: undefined,
    },
    headers,
    hostRules,
    secretHeaders: new Set(secretHeaders),
    spentMs: 0,
  };
}

export function expectReply(outcome: Outcome): Reply {
  if (outcome.kind !== 'reply') throw new Error(`expected a reply, got ${outcome.code}: ${outcome.message}`);
  return outcome;
}

export function expectFailure(outcome: Outcome): Failure {
  if (outcome.kind !== 'failure') throw new Error(`expected a failure, got status ${outcome.status}`);
  return outcome;
}

export function text(reply: Reply): string {
  return Buffer.from(reply.body).toString();
}

export type TestServer = {
  readonly port: number;
  /** Without a path; on 127.0.0.1 unless another address was asked for. */
  readonly url: string;
  /** Resolves once nobody is connected any more. */
  idle(): Promise<void>;
  /** How many connections there have been. */
  connections(): number;
};

/** An HTTP server on a free port of 127.0.0.1, gone when the test ends. */
export function httpServer(handler: http.RequestListener): Promise<TestServer> {
  return listen(http.createServer(handler), 'http');
}

const pem = (name: string) => readFileSync(new URL(`tls/${name}.pem`, import.meta.url));

/** The authority of {@link httpsServer}'s certificates. */
export const testCa: Buffer = pem('ca');

/** A certificate for `localhost` and the loopback addresses, or for `other.example`, with its key. */
export function serverIdentity(name: 'localhost' | 'other' = 'localhost'): { key: Buffer; cert: Buffer } {
  return { key: pem('server.key'), cert: pem(`${name}.cert`) };
}

/** An HTTPS server whose certificate is for `localhost` and the loopback addresses, or for `other.example`. */
export function httpsServer(certificate: 'localhost' | 'other', handler: http.RequestListener): Promise<TestServer> {
  return listen(https.createServer(serverIdentity(certificate), handler), 'https');
}

/** A server that speaks whatever `handler` writes to each connection. */
export function tcpServer(handler: (socket: net.Socket) => unknown): Promise<TestServer> {
  return listen(net.createServer(handler), 'http');
}

/** As {@link tcpServer}, after a TLS handshake. */
export function tlsServer(options: tls.TlsOptions, handler: (socket: net.Socket) => void): Promise<TestServer> {
  return listen(
    tls.createServer({ key: pem('server.key'), cert: pem('localhost.cert'), ...options }, handler),
    'https',
  );
}

/** A server that answers every request on every connection with the given bytes, then leaves the connection open. */
export function scriptedServer(reply: string, then: 'end' | 'reset' | 'wait' = 'wait'): Promise<TestServer> {
  return tcpServer((socket) => {
    socket.on('data', () => {
      if (then === 'end') socket.end(reply, 'latin1');
      else if (then === 'wait') socket.write(reply, 'latin1');
      // Nothing written: a reset now; otherwise once the client has had time to read, which the test's server cannot see.
      else if (reply === '') socket.resetAndDestroy();
      else socket.write(reply, 'latin1', () => setTimeout(() => socket.resetAndDestroy(), 50));
    });
  });
}

/** Listens on a free port until the test ends. */
export async function listen(server: net.Server, scheme: string, host = '127.0.0.1'): Promise<TestServer> {
  const sockets = new Set<net.Socket>();
  let total = 0;
  server.on('connection', (socket) => {
    total += 1;
    sockets.add(socket);
    socket.on('error', () => undefined);
    socket.once('close', () => sockets.delete(socket));
  });
  server.on('secureConnection', (socket: tls.TLSSocket) => socket.on('error', () => undefined));
  server.listen(0, host);
  await once(server, 'listening');
  onTestFinished(async () => {
    for (const socket of sockets) socket.destroy();
    server.close();
    await once(server, 'close');
  });
  const { port } = server.address() as AddressInfo;
  return {
    port,
    url: `${scheme}://${host.includes(':') ? `[${host}]` : host}:${port}`,
    idle: () => vi.waitFor(() => expect(sockets.size).toBe(0), 3_000),
    connections: () => total,
  };
}

/** A port on which nobody listens. */
export async function closedPort(): Promise<number> {
  const server = net.createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  server.close();
  await once(server, 'close');
  return port;
}

/** Collects the sockets that this process creates to connect somewhere, until the test ends. */
export function watchDialling(): { readonly sockets: net.Socket[] } {
  const sockets: net.Socket[] = [];
  const onSocket = (message: unknown) => sockets.push((message as { socket: net.Socket }).socket);
  diagnostics.subscribe('net.client.socket', onSocket);
  onTestFinished(() => {
    diagnostics.unsubscribe('net.client.socket', onSocket);
  });
  return { sockets };
}
