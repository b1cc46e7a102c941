import { once } from 'node:events';
import http2, { type Http2SecureServer, type ServerHttp2Session, type ServerHttp2Stream } from 'node:http2';
import { describe, expect, it, vi } from 'vitest';
import type { HttpClient } from '../../src/http/client.ts';
import {
  expectFailure,
  expectReply,
  httpServer,
  listen,
  request,
  serverIdentity,
  type TestServer,
  tcpServer,
  testCa,
  testClient,
  text,
  tlsServer,
  watchDialling,
} from './loopback.ts';

type Respond = (stream: ServerHttp2Stream, headers: http2.IncomingHttpHeaders) => void;

/** A server that speaks HTTP/2 and nothing else. */
async function http2Server(
  respond: Respond,
  settings: http2.Settings = {},
): Promise<TestServer & { readonly sessions: ServerHttp2Session[] }> {
  const server: Http2SecureServer = http2.createSecureServer({ ...serverIdentity(), allowHTTP1: false, settings });
  const sessions: ServerHttp2Session[] = [];
  server.on('session', (session) => {
    sessions.push(session);
    session.on('error', () => undefined);
  });
  server.on('stream', (stream, headers) => {
    stream.on('error', () => undefined);
    respond(stream, headers);
  });
  return { ...(await listen(server, 'https')), sessions };
}

function client(options: Parameters<typeof testClient>[0] = {}): HttpClient {
  return testClient({ tls: { ca: testCa }, ...options });
}

const ok: Respond = (stream, headers) => {
  stream.respond({ ':status': 200 });
  stream.end(String(headers[':path']));
};

describe('HTTP/2', () => {
  it('is spoken to a server that speaks nothing else, hundreds of requests over one connection', async () => {
    const server = await http2Server(ok);
    const http = client();
    const paths = Array.from({ length: 500 }, (_, i) => `/${i}?x`);
    const bodies = await Promise.all(
      paths.map(async (path) => text(expectReply(await http.send(request(server.url + path))))),
    );
    expect(bodies).toEqual(paths);
    expect(server.sessions.length).toBeLessThanOrEqual(5);
    const before = server.sessions.length;
    for (const path of paths.slice(0, 20)) expectReply(await http.send(request(server.url + path)));
    expect(server.sessions).toHaveLength(before);
  });

  it('is chosen over HTTP/1.1 where the server offers both, and HTTP/1.1 where it has no HTTP/2', async () => {
    const both = http2.createSecureServer({ ...serverIdentity(), allowHTTP1: true }, (incoming, response) =>
      response.end(incoming.httpVersion),
    );
    const { url } = await listen(both, 'https');
    expect(text(expectReply(await client().send(request(url))))).toBe('2.0');
    const old = await tlsServer({ ALPNProtocols: ['http/1.1'] }, (socket) =>
      socket.on('data', () => socket.end('HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n11')),
    );
    expect(text(expectReply(await client().send(request(old.url))))).toBe('11');
  });

  it('carries methods, headers and bodies as they are, in both directions', async () => {
    const seen: http2.IncomingHttpHeaders[] = [];
    const server = await http2Server((stream, headers) => {
      seen.push(headers);
      const chunks: Buffer[] = [];
      stream.on('data', (chunk: Buffer) => chunks.push(chunk));
      stream.on('end', () => {
        stream.additionalHeaders({ ':status': 103, link: '</a>' });
        stream.respond({
          ':status': 201,
          'x-a': ['1', '2'],
          'set-cookie': ['a', 'b'],
          'x-utf8': Buffer.from('é').toString('latin1'),
        });
        stream.end(Buffer.concat(chunks));
      });
    });
    const body = Buffer.from([0, 255, 13, 10, 0x80]);
    const headers = [
      ['X-A', '1'],
      ['x-b', 'é'],
      ['X-A', '2'],
      ['Host', 'virtual.example'],
      ['__proto__', 'p'],
    ] as const;
    const reply = expectReply(await client().send(request(`${server.url}/p?q`, { method: 'PATCH', headers, body })));
    expect(Buffer.from(reply.body).equals(body)).toBe(true);
    expect(reply.status).toBe(201);
    expect(reply.headers.filter(([name]) => name !== 'date')).toEqual([
      ['x-a', '1'],
      ['x-a', '2'],
      ['set-cookie', 'a'],
      ['set-cookie', 'b'],
      ['x-utf8', Buffer.from('é').toString('latin1')],
    ]);
    expect(seen[0]).toMatchObject({
      ':method': 'PATCH',
      ':path': '/p?q',
      ':authority': 'virtual.example',
      'x-a': '1, 2',
      'x-b': Buffer.from('é').toString('latin1'),
      'content-length': '5',
      'user-agent': 'pgfetch-test/1',
    });
    expect(Object.entries(seen[0] ?? {})).toContainEqual(['__proto__', 'p']);
  });

  it.each([
    ['HEAD', 200],
    ['GET', 204],
    ['GET', 304],
  ])('%s answered with %i has no body', async (method, status) => {
    const server = await http2Server((stream) =>
      stream.respond({ ':status': status, ...(status === 204 ? {} : { 'content-length': 7 }) }, { endStream: true }),
    );
    const reply = expectReply(await client().send(request(server.url, { method })));
    expect([reply.status, reply.body.length]).toEqual([status, 0]);
  });

  it('keeps what fits of a body beyond the limit, and the connection', async () => {
    const server = await http2Server((stream) => {
      stream.respond({ ':status': 200 });
      stream.end(Buffer.alloc(1_000_000, 'x'));
    });
    const http = client({ responseBytesMax: 100_000 });
    for (let i = 0; i < 3; i++) {
      expect(expectReply(await http.send(request(server.url)))).toMatchObject({
        truncated: true,
        body: { length: 100_000 },
      });
    }
    expect(server.sessions).toHaveLength(1);
  });

  it('large bodies wait for each other and all arrive', async () => {
    const server = await http2Server((stream) => {
      stream.respond({ ':status': 200 });
      stream.end(Buffer.alloc(300_000, 'x'));
    });
    const http = client({ responseBytesMax: 16 * 1024 * 1024 });
    const sizes = await Promise.all(
      Array.from({ length: 20 }, async () => {
        const reply = expectReply(await http.send(request(server.url)));
        reply.release?.();
        return reply.body.length;
      }),
    );
    expect(new Set(sizes)).toEqual(new Set([300_000]));
  });

  it('asks no more at a time than the server takes', async () => {
    let atOnce = 0;
    let most = 0;
    const server = await http2Server(
      (stream) => {
        atOnce += 1;
        most = Math.max(most, atOnce);
        setImmediate(() => {
          atOnce -= 1;
          stream.respond({ ':status': 200 }, { endStream: true });
        });
      },
      { maxConcurrentStreams: 3 },
    );
    const http = client({ connectionsPerOriginMax: 2 });
    expectReply(await http.send(request(server.url)));
    await Promise.all(Array.from({ length: 100 }, async () => expectReply(await http.send(request(server.url)))));
    expect(most).toBeGreaterThan(1);
    expect(most).toBeLessThanOrEqual(6);
  });

  it('a POST that the server refused unseen is sent again on another connection, once', async () => {
    let posts = 0;
    const server = await http2Server((stream, headers) => {
      posts += 1;
      if (posts === 1) stream.close(http2.constants.NGHTTP2_REFUSED_STREAM);
      else ok(stream, headers);
    });
    expectReply(await client().send(request(server.url, { method: 'POST', body: 'x' })));
    expect(posts).toBe(2);
  });

  it('a stream that the server breaks off fails, and is not repeated', async () => {
    let posts = 0;
    const server = await http2Server((stream) => {
      posts += 1;
      stream.close(http2.constants.NGHTTP2_INTERNAL_ERROR);
    });
    expect(expectFailure(await client().send(request(server.url)))).toMatchObject({
      code: 'bad_reply',
      message: 'Stream error in the HTTP/2 framing layer',
    });
    expect(posts).toBe(1);
  });

  it('a body that ends early is a partial file', async () => {
    const server = await http2Server((stream) => {
      stream.respond({ ':status': 200 });
      stream.write('abc', () => setImmediate(() => stream.session?.destroy()));
    });
    expect(expectFailure(await client().send(request(server.url))).code).toBe('receive_failed');
  });

  it.each(['goaway', 'close', 'destroy'] as const)(
    'a connection that the server ends by %s between requests is replaced',
    async (how) => {
      const server = await http2Server(ok);
      const http = client();
      for (let round = 1; round <= 3; round++) {
        expectReply(await http.send(request(server.url, { method: 'POST', body: 'x' })));
        expect(server.sessions).toHaveLength(round);
        const session = server.sessions.at(-1);
        if (session === undefined) throw new Error('no session');
        const closed = once(session, 'close');
        if (how === 'goaway') session.goaway();
        session[how === 'destroy' ? 'destroy' : 'close']();
        await closed;
      }
    },
  );

  it('a request without an answer takes its time-out, and nobody after it waits on that connection', async () => {
    let silent = true;
    const server = await http2Server((stream, headers) => {
      if (!silent) ok(stream, headers);
    });
    const http = client();
    expect(expectFailure(await http.send(request(server.url, { timeoutMs: 200 }))).code).toBe('timed_out');
    silent = false;
    expectReply(await http.send(request(server.url)));
    expect(server.sessions).toHaveLength(2);
  });

  it('a server that chose HTTP/2 and speaks something else fails the request', async () => {
    for (const reply of ['HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n', '\0'.repeat(100), '']) {
      const server = await tlsServer({ ALPNProtocols: ['h2'] }, (socket) => socket.on('data', () => socket.end(reply)));
      const outcome = expectFailure(await client().send(request(server.url, { timeoutMs: 3_000 })));
      expect(outcome.code).toMatch(reply === '' ? /^(empty_reply|receive_failed)$/ : /^bad_reply$/);
      await server.idle();
    }
  });

  it('redirects leave it and lead to it', async () => {
    const plain = await httpServer((_incoming, response) => response.end('plain'));
    const server = await http2Server((stream, headers) => {
      if (headers[':path'] === '/away') stream.respond({ ':status': 302, location: plain.url }, { endStream: true });
      else ok(stream, headers);
    });
    const back = await httpServer((_incoming, response) =>
      response.writeHead(307, { Location: `${server.url}/b` }).end(),
    );
    expect(text(expectReply(await client().send(request(`${server.url}/away`))))).toBe('plain');
    expect(text(expectReply(await client().send(request(back.url))))).toBe('/b');
  });

  it('leaves nothing behind', async () => {
    const server = await http2Server((stream, headers) => {
      if (headers[':path'] !== '/hang') ok(stream, headers);
    });
    const http = client();
    const hanging = http.send(request(`${server.url}/hang`));
    expectReply(await http.send(request(server.url)));
    await http.close();
    expect(expectFailure(await hanging).code).toBe('cancelled');
    await server.idle();
  });

  it('a server that says goodbye and never closes keeps no socket', async () => {
    const server = await http2Server((stream, headers) => {
      const { session } = stream;
      ok(stream, headers);
      stream.on('close', () => session?.goaway());
    });
    const { sockets } = watchDialling();
    const http = client();
    for (let i = 0; i < 5; i++) {
      expectReply(await http.send(request(server.url)));
      await vi.waitFor(() => expect(sockets.every((socket) => socket.destroyed)).toBe(true));
    }
    expect(sockets).toHaveLength(5);
  });

  it('a server that names origins without end is left, and holds no memory', async () => {
    const server = await http2Server((stream, headers) => {
      ok(stream, headers);
      if (headers[':path'] !== '/flood') return;
      const session = stream.session as ServerHttp2Session | undefined;
      for (let i = 0; i < 40; i++)
        session?.origin(...Array.from({ length: 100 }, (_, n) => `https://${i}-${n}.example`));
    });
    const http = client();
    // Its answer may come first or the end that we make of it.
    await http.send(request(`${server.url}/flood`));
    await server.idle();
    expectReply(await http.send(request(server.url)));
  });

  it('a server that takes one request at a time gets several connections', async () => {
    const server = await http2Server(
      (stream, headers) => {
        setTimeout(() => ok(stream, headers), headers[':path'] === '/slow' ? 300 : 0);
      },
      { maxConcurrentStreams: 1 },
    );
    const http = client();
    expectReply(await http.send(request(server.url)));
    for (let round = 0; round < 3; round++) {
      await Promise.all([1, 2, 3, 4].map(async () => expectReply(await http.send(request(`${server.url}/slow`)))));
    }
    expect(server.sessions.length).toBeGreaterThanOrEqual(4);
    expect(server.sessions.length).toBeLessThanOrEqual(10);
  });

  it('those that wait for a connection get one, whatever becomes of the first', async () => {
    const server = await http2Server((stream, headers) => {
      if (headers[':path'] === '/') ok(stream, headers);
    });
    const http = client();
    // More than one connection takes, and none of them is ever answered.
    const hanging = Array.from({ length: 100 }, () => http.send(request(`${server.url}/hang`, { timeoutMs: 5_000 })));
    const quick = await Promise.all(
      Array.from({ length: 200 }, () => http.send(request(server.url, { timeoutMs: 4_000 }))),
    );
    expect(new Set(quick.map((outcome) => outcome.kind))).toEqual(new Set(['reply']));
    await http.close();
    await Promise.all(hanging);
  });

  it('a handshake that hangs holds up those that wait for it for a moment only', async () => {
    let connections = 0;
    const good = http2.createSecureServer({ ...serverIdentity() }, (_incoming, response) => response.end('good'));
    const server = await tcpServer((socket) => {
      connections += 1;
      if (connections > 1) good.emit('connection', socket);
    });
    const url = server.url.replace('http:', 'https:');
    const http = client();
    const hanging = http.send(request(url, { timeoutMs: 8_000 }));
    const others = await Promise.all([1, 2, 3].map(() => http.send(request(url, { timeoutMs: 5_000 }))));
    expect(others.map((outcome) => text(expectReply(outcome)))).toEqual(['good', 'good', 'good']);
    await http.close();
    await hanging;
  });
});
