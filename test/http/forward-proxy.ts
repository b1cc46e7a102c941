import http from 'node:http';
import https from 'node:https';
import net from 'node:net';
import { onTestFinished } from 'vitest';
import { listen, serverIdentity, type TestServer } from './loopback.ts';

/** What a proxy was asked for, as it arrived. */
export type Asked = { readonly method: string; readonly target: string; readonly headers: readonly string[] };

export type ForwardProxy = TestServer & { readonly asked: Asked[] };

export type ForwardProxyOptions = {
  /** TLS is spoken to it, with the certificate for `localhost`, or for another name. */
  readonly certificate?: 'localhost' | 'other';
  /** The Proxy-Authorization without which it answers 407. */
  readonly authorization?: string;
};

/** An HTTP proxy, gone when the test ends. To it every name means 127.0.0.1, so that a name that works was resolved by it. */
export async function forwardProxy(options: ForwardProxyOptions = {}): Promise<ForwardProxy> {
  const { certificate, authorization } = options;
  const asked: Asked[] = [];
  const agent = new http.Agent({ keepAlive: true });
  const upstreams = new Set<net.Socket>();
  onTestFinished(() => {
    agent.destroy();
    for (const upstream of upstreams) upstream.destroy();
  });

  function admits(request: http.IncomingMessage): boolean {
    asked.push({ method: request.method ?? '', target: request.url ?? '', headers: request.rawHeaders });
    return authorization === undefined || request.headers['proxy-authorization'] === authorization;
  }

  const onRequest: http.RequestListener = (request, response) => {
    if (!admits(request)) {
      response.writeHead(407, { 'Proxy-Authenticate': 'Basic realm="test"' }).end('who are you?');
      return;
    }
    const { port, pathname, search } = new URL(request.url ?? '');
    // Passed on are the fields that are not about this connection.
    const headers = pairs(request.rawHeaders).filter(([name]) => !/^(proxy-.*|connection|keep-alive)$/i.test(name));
    const onward = http.request({
      agent,
      host: '127.0.0.1',
      port: Number(port),
      method: request.method,
      path: pathname + search,
      headers: headers.flat(),
    });
    onward.on('response', (reply) => {
      response.writeHead(reply.statusCode ?? 502, reply.rawHeaders);
      reply.pipe(response);
    });
    onward.on('error', () => response.writeHead(502).end());
    request.pipe(onward);
  };

  const server =
    certificate === undefined
      ? http.createServer(onRequest)
      : https.createServer(serverIdentity(certificate), onRequest);
  server.on('connect', (request: http.IncomingMessage, socket: net.Socket, head: Buffer) => {
    if (!admits(request)) {
      socket.end('HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n');
      return;
    }
    const upstream = net.connect(Number(request.url?.split(':').at(-1)), '127.0.0.1');
    upstreams.add(upstream);
    upstream.once('connect', () => {
      socket.write('HTTP/1.1 200 Connection established\r\nVia: 1.1 test\r\n\r\n');
      upstream.write(head);
      socket.pipe(upstream).pipe(socket);
    });
    upstream.on('error', () => socket.end('HTTP/1.1 502 Bad Gateway\r\n\r\n'));
    upstream.once('close', () => socket.destroy());
    socket.once('close', () => upstream.destroy());
  });
  return { asked, ...(await listen(server, certificate === undefined ? 'http' : 'https')) };
}

/** Names and values of raw headers, two by two. */
export function pairs(rawHeaders: readonly string[]): [name: string, value: string][] {
  return rawHeaders.flatMap((name, i) => (i % 2 === 0 ? [[name, rawHeaders[i + 1] ?? '']] : []));
}
