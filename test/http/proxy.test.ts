import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import http2 from 'node:http2';
import net from 'node:net';
import type { TLSSocket } from 'node:tls';
import { describe, expect, it } from 'vitest';
import { createAddressPolicy } from '../../src/core/addresses.ts';
import type { HttpClient, HttpClientOptions } from '../../src/http/client.ts';
import { type ForwardProxy, forwardProxy, pairs } from './forward-proxy.ts';
import {
  closedPort,
  expectFailure,
  expectReply,
  httpServer,
  httpsServer,
  listen,
  request,
  serverIdentity,
  tcpServer,
  testCa,
  testClient,
  text,
  tlsServer,
  watchDialling,
} from './loopback.ts';
import corpus from './ssrf-corpus.json' with { type: 'json' };

const basic = (credentials: string) => `Basic ${Buffer.from(credentials).toString('base64')}`;

/** A client whose requests all go through the proxy, and which resolves no name. */
function clientThrough(url: string, options: Partial<HttpClientOptions> = {}): HttpClient {
  return testClient({
    proxy: { http: url, https: url },
    policy: createAddressPolicy({ allow: ['loopback', '*.example'] }),
    lookup: (name) => Promise.reject(new Error(`looked up ${name}`)),
    tls: { ca: testCa },
    ...options,
  });
}

/** The proxy's URL with credentials. */
const withCredentials = (proxy: ForwardProxy, credentials: string) => proxy.url.replace('//', `//${credentials}@`);

/** What a request brought along, as JSON. */
const echo: Parameters<typeof httpServer>[0] = (incoming, response) => {
  const chunks: Buffer[] = [];
  incoming.on('data', (chunk: Buffer) => chunks.push(chunk));
  incoming.on('end', () => {
    const body = Buffer.concat(chunks).toString('base64');
    response.end(JSON.stringify({ method: incoming.method, url: incoming.url, headers: incoming.rawHeaders, body }));
  });
};

describe('http through a proxy', () => {
  it('asks for the whole URL, and leaves the name to the proxy', async () => {
    const server = await httpServer(echo);
    const proxy = await forwardProxy();
    const url = `http://target.example:${server.port}/a%20b?c=d#e`;
    const reply = expectReply(await clientThrough(proxy.url).send(request(url, { headers: [['X-Own', 'yes']] })));
    expect(JSON.parse(text(reply))).toMatchObject({ method: 'GET', url: '/a%20b?c=d' });
    expect(proxy.asked).toHaveLength(1);
    const { method, target, headers } = proxy.asked[0] ?? { headers: [] };
    expect({ method, target }).toEqual({ method: 'GET', target: `http://target.example:${server.port}/a%20b?c=d` });
    expect(pairs(headers)).toEqual(
      expect.arrayContaining([
        ['X-Own', 'yes'],
        ['Proxy-Connection', 'Keep-Alive'],
      ]),
    );
    const host = pairs(headers).filter(([name]) => name.toLowerCase() === 'host');
    expect(host.map(([, value]) => value)).toEqual([`target.example:${server.port}`]);
    expect(headers.join()).not.toContain('Proxy-Authorization');
  });

  it('says of the host only what the URL says: a proxy that goes by Host would be led elsewhere', async () => {
    const server = await httpServer(echo);
    const proxy = await forwardProxy();
    const url = `http://target.example:${server.port}/`;
    expectReply(await clientThrough(proxy.url).send(request(url, { headers: [['host', 'internal.service']] })));
    const hosts = pairs(proxy.asked[0]?.headers ?? []).filter(([name]) => name.toLowerCase() === 'host');
    expect(hosts).toEqual([['Host', `target.example:${server.port}`]]);
  });

  it('sends bodies byte by byte as they are', async () => {
    const server = await httpServer(echo);
    const proxy = await forwardProxy();
    const client = clientThrough(proxy.url);
    for (const body of [new Uint8Array(0), randomBytes(1), randomBytes(300_000)]) {
      const reply = await client.send(request(`${server.url}/post`, { method: 'POST', body }));
      const received = (JSON.parse(text(expectReply(reply))) as { body: string }).body;
      expect(Buffer.from(received, 'base64').equals(body)).toBe(true);
    }
  });

  it('keeps the connection, and takes a new one when the proxy has closed it', async () => {
    const server = await httpServer((_incoming, response) => response.end('here'));
    const proxy = await forwardProxy();
    const client = clientThrough(proxy.url);
    for (let i = 0; i < 3; i += 1) expectReply(await client.send(request(server.url)));
    expect(proxy.connections()).toBe(1);
    const other = await httpServer((_incoming, response) => response.end('there'));
    const closing = await tcpServer((socket) => {
      // Announces nothing, and leaves with the second request.
      let requests = 0;
      socket.on('data', () => {
        requests += 1;
        if (requests === 2) socket.resetAndDestroy();
        else socket.write('HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok');
      });
    });
    const second = clientThrough(closing.url);
    expectReply(await second.send(request(other.url)));
    expect(text(expectReply(await second.send(request(other.url))))).toBe('ok');
    expect(closing.connections()).toBe(2);
  });

  it('a 407 is an answer, as any other status of the proxy', async () => {
    const proxy = await forwardProxy({ authorization: basic('user:right') });
    const reply = await clientThrough(withCredentials(proxy, 'user:wrong')).send(request('http://target.example/'));
    expect(expectReply(reply)).toMatchObject({ status: 407 });
  });
});

describe('https through a proxy', () => {
  it('asks for a tunnel with nothing of the request in it, and verifies the target', async () => {
    const server = await httpsServer('other', echo);
    const proxy = await forwardProxy();
    const client = clientThrough(proxy.url);
    const headers = [
      ['Authorization', 'Bearer abc'],
      ['X-Own', 'yes'],
    ] as const;
    const url = `https://other.example:${server.port}`;
    const body = randomBytes(300_000);
    const reply = await client.send(request(`${url}/path?query`, { method: 'POST', headers, body }));
    const received = JSON.parse(text(expectReply(reply))) as { url: string; headers: string[]; body: string };
    expect(received.url).toBe('/path?query');
    expect(received.headers.join('\n')).not.toMatch(/proxy/i);
    expect(pairs(received.headers)).toEqual(expect.arrayContaining([...headers]));
    expect(Buffer.from(received.body, 'base64').equals(body)).toBe(true);
    const authority = `other.example:${server.port}`;
    expect(proxy.asked).toEqual([
      { method: 'CONNECT', target: authority, headers: ['Host', authority, 'Proxy-Connection', 'Keep-Alive'] },
    ]);
    expect(await client.send(request(`https://wrong.example:${server.port}`))).toMatchObject({
      code: 'certificate_wrong_host',
    });
  });

  it('speaks HTTP/2 through it where the server does', async () => {
    const server = http2.createSecureServer(serverIdentity('localhost'));
    server.on('stream', (stream, headers) => stream.end(`${headers[':method']} ${headers[':path']}`));
    const { url } = await listen(server, 'https');
    const proxy = await forwardProxy();
    const client = clientThrough(withCredentials(proxy, 'user:secret'));
    const replies = await Promise.all(['/a', '/b', '/c'].map((path) => client.send(request(url + path))));
    expect(replies.map((reply) => text(expectReply(reply)))).toEqual(['GET /a', 'GET /b', 'GET /c']);
    expect(proxy.connections()).toBe(1);
  });

  it('keeps the tunnel', async () => {
    const server = await httpsServer('localhost', (_incoming, response) => response.end('here'));
    const proxy = await forwardProxy();
    const client = clientThrough(proxy.url);
    for (let i = 0; i < 3; i += 1) expectReply(await client.send(request(server.url)));
    expect({ proxy: proxy.connections(), server: server.connections() }).toEqual({ proxy: 1, server: 1 });
  });

  it('writes an IPv6 address in brackets', async () => {
    const proxy = await forwardProxy();
    expectFailure(await clientThrough(proxy.url).send(request(`https://[::1]:${await closedPort()}/`)));
    expect(proxy.asked[0]?.target).toMatch(/^\[::1\]:\d+$/);
  });

  it('a target that the proxy does not reach, and one that leaves at once', async () => {
    const proxy = await forwardProxy();
    const client = clientThrough(proxy.url);
    expect(await client.send(request(`https://target.example:${await closedPort()}/`))).toMatchObject({
      code: 'proxy_failed',
      message: 'Failure when receiving data from the peer: CONNECT tunnel failed, response 502',
    });
    const leaving = await tcpServer((socket) => socket.destroy());
    expect(await client.send(request(`https://target.example:${leaving.port}/`))).toMatchObject({
      code: 'tls_failed',
      message: 'SSL connect error',
    });
  });
});

describe('credentials of a proxy', () => {
  it('go to the proxy with every request, and never to a target', async () => {
    const plain = await httpServer(echo);
    const secure = await httpsServer('localhost', echo);
    const authorization = basic('us@er:p:w');
    const proxy = await forwardProxy({ authorization });
    const client = clientThrough(withCredentials(proxy, 'us%40er:p%3Aw'));
    for (const url of [plain.url, secure.url, plain.url]) {
      const reply = expectReply(await client.send(request(url)));
      expect(reply.status).toBe(200);
      expect(text(reply)).not.toMatch(/proxy/i);
    }
    for (const { headers } of proxy.asked) {
      expect(pairs(headers).filter(([name]) => name === 'Proxy-Authorization')).toEqual([
        ['Proxy-Authorization', authorization],
      ]);
    }
  });

  it("take the place of the request's own", async () => {
    const server = await httpServer(echo);
    const proxy = await forwardProxy();
    const headers = [['proxy-authorization', 'Basic mine']] as const;
    const client = clientThrough(withCredentials(proxy, 'user:secret'));
    expectReply(await client.send(request(server.url, { headers })));
    expect(pairs(proxy.asked[0]?.headers ?? []).filter(([name]) => /^proxy-/i.test(name))).toEqual([
      ['Proxy-Authorization', basic('user:secret')],
      ['Proxy-Connection', 'Keep-Alive'],
    ]);
  });

  it('do not follow a redirect to a host that is reached directly', async () => {
    const direct = await httpServer(echo);
    const proxied = await httpServer((_incoming, response) => {
      response.writeHead(307, { Location: `http://localhost:${direct.port}/direct` }).end();
    });
    const proxy = await forwardProxy();
    const url = withCredentials(proxy, 'user:secret');
    const client = clientThrough(url, { proxy: { http: url, noProxy: 'localhost' } });
    const reply = await client.send(request(`http://target.example:${proxied.port}/`, { method: 'POST', body: 'x' }));
    const received = JSON.parse(text(expectReply(reply))) as { url: string; headers: string[] };
    expect(received.url).toBe('/direct');
    expect(received.headers.join('\n')).not.toMatch(/proxy/i);
    expect(proxy.asked.map(({ target }) => target)).toEqual([`http://target.example:${proxied.port}/`]);
  });

  it('are in no failure', async () => {
    const proxy = await forwardProxy({ authorization: basic('user:right') });
    const port = await closedPort();
    const outcomes = [
      clientThrough(withCredentials(proxy, 'user:tops3cret')).send(request('https://target.example/')),
      clientThrough(`http://user:tops3cret@127.0.0.1:${port}`).send(request('https://target.example/')),
      clientThrough('http://user:tops3cret@proxy.invalid:1').send(request('http://target.example/')),
    ];
    const failures = (await Promise.all(outcomes)).map(expectFailure);
    expect(failures.map(({ code, message }) => [code, message])).toEqual([
      ['proxy_failed', 'Failure when receiving data from the peer: CONNECT tunnel failed, response 407'],
      ['proxy_failed', "Couldn't connect to server"],
      ['proxy_failed', "Couldn't resolve proxy name"],
    ]);
    expect(JSON.stringify(failures)).not.toContain('tops3cret');
  });
});

describe('a proxy that is reached by TLS', () => {
  it('passes on http and https', async () => {
    const plain = await httpServer((_incoming, response) => response.end('plain'));
    const secure = await httpsServer('other', (_incoming, response) => response.end('secure'));
    const proxy = await forwardProxy({ certificate: 'localhost', authorization: basic('user:secret') });
    const client = clientThrough(withCredentials(proxy, 'user:secret'));
    const urls = [`http://target.example:${plain.port}/`, `https://other.example:${secure.port}/`];
    const replies = await Promise.all(urls.map(async (url) => text(expectReply(await client.send(request(url))))));
    expect(replies).toEqual(['plain', 'secure']);
    expect(proxy.connections()).toBe(2);
  });

  it('is offered HTTP/1.1 alone, whatever else it could', async () => {
    let chosen: unknown;
    const proxy = await tlsServer({ ALPNProtocols: ['h2', 'http/1.1'] }, (socket) => {
      chosen = (socket as TLSSocket).alpnProtocol;
      socket.end('HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n');
    });
    expectReply(await clientThrough(proxy.url).send(request('http://target.example/')));
    expect(chosen).toBe('http/1.1');
  });

  it('must have the right certificate, and speak TLS', async () => {
    const wrong = await forwardProxy({ certificate: 'other', authorization: 'never asked' });
    expect(await clientThrough(wrong.url).send(request('http://target.example/'))).toMatchObject({
      code: 'proxy_failed',
      message: 'SSL peer certificate or SSH remote key was not OK',
    });
    expect(wrong.asked).toEqual([]);
    const plain = await forwardProxy();
    const outcome = await clientThrough(plain.url.replace('http:', 'https:')).send(request('https://target.example/'));
    expect(outcome).toMatchObject({ code: 'proxy_failed', message: 'SSL connect error' });
  });
});

describe('the reply to CONNECT', () => {
  const aborted = 'Failure when receiving data from the peer: Proxy CONNECT aborted';
  const failed = (status: number | string) =>
    `Failure when receiving data from the peer: CONNECT tunnel failed, response ${status}`;
  const tooLarge = 'Failure when receiving data from the peer: CONNECT response too large';

  /** A proxy that answers CONNECT with these bytes, and with more of them where they are endless. */
  const proxyThatSays = (reply: string, then: 'end' | 'reset' | 'wait' | 'repeat') =>
    tcpServer((socket) => {
      socket.once('data', () => {
        socket.write(reply, 'latin1');
        if (then === 'end') socket.end();
        else if (then === 'reset') socket.resetAndDestroy();
        else if (then === 'repeat') {
          const more = () => {
            while (!socket.destroyed && socket.write(reply, 'latin1'));
          };
          socket.on('drain', more);
          more();
        }
      });
    });

  it.each([
    ['nothing', '', 'end', aborted],
    ['a reset', '', 'reset', aborted],
    ['half a status line', 'HTTP/1.1 200 O', 'end', aborted],
    ['half a header section', 'HTTP/1.1 200 OK\r\nVia: x\r\n', 'end', aborted],
    ['bytes', '\0\x01\x02\xff', 'end', aborted],
    ['another protocol', 'SSH-2.0-OpenSSH_9.2\r\n', 'wait', failed(0)],
    ['an empty line', '\r\nHTTP/1.1 200 OK\r\n\r\n', 'wait', failed(0)],
    ['HTTP/2', 'HTTP/2 200 OK\r\n\r\n', 'wait', failed(0)],
    ['four digits', 'HTTP/1.1 2000 OK\r\n\r\n', 'wait', failed(0)],
    ['two digits', 'HTTP/1.1 20 OK\r\n\r\n', 'wait', failed(0)],
    ['100', 'HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n\r\n', 'wait', failed(100)],
    ['a redirect', 'HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1/\r\n\r\n', 'wait', failed(302)],
    ['407 with a body that does not come', 'HTTP/1.1 407 No\r\nContent-Length: 9\r\n\r\n', 'wait', failed(407)],
    ['500', 'HTTP/1.1 500 \r\n\r\n', 'end', failed(500)],
    ['999', 'HTTP/1.1 999 x\r\n\r\n', 'wait', failed(999)],
    ['an endless line', 'HTTP/1.1 200 OK', 'repeat', tooLarge],
    ['endless headers', 'HTTP/1.1 200 OK\r\nA: b\r\n', 'repeat', tooLarge],
    ['endless zeros', '\0'.repeat(1_000), 'repeat', tooLarge],
  ] as const)('%s', async (_what, reply, then, message) => {
    const proxy = await proxyThatSays(reply, then);
    const client = clientThrough(proxy.url);
    expect(await client.send(request('https://target.example/'))).toMatchObject({ code: 'proxy_failed', message });
    await proxy.idle();
  });

  it.each([
    ['HTTP/1.0 without a reason', 'HTTP/1.0 200\r\n\r\n'],
    ['another success', 'HTTP/1.1 204 No Content\r\n\r\n'],
    ['lines that end in LF', 'HTTP/1.1 200 OK\nVia: x\n\n'],
    [
      'fields about a body that there is not',
      'HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n',
    ],
    ['lines that are no fields', 'HTTP/1.1 200 OK\r\nno field\r\n folded\r\nA: b\0\r\n\r\n'],
    ['a long header section', `HTTP/1.1 200 OK\r\n${`A: ${'x'.repeat(1_000)}\r\n`.repeat(60)}\r\n`],
  ])('%s grants the tunnel, whole and byte by byte', async (_what, reply) => {
    const server = await httpsServer('localhost', (_incoming, response) => response.end('here'));
    for (const pieces of [[reply], [...reply]]) {
      const proxy = await tcpServer(async (socket) => {
        await once(socket, 'data');
        const upstream = net.connect(server.port, '127.0.0.1');
        upstream.on('error', () => undefined);
        upstream.once('close', () => socket.destroy());
        socket.once('close', () => upstream.destroy());
        socket.pause();
        for (const piece of pieces.length > 200 ? [reply.slice(0, -200), ...reply.slice(-200)] : pieces) {
          await new Promise((resolve) => socket.write(piece, 'latin1', resolve));
        }
        socket.pipe(upstream).pipe(socket);
      });
      const reached = await clientThrough(proxy.url).send(request(`https://localhost:${server.port}/`));
      expect(text(expectReply(reached))).toBe('here');
    }
  });

  it('what comes with it belongs to TLS, which refuses it', async () => {
    const proxy = await proxyThatSays('HTTP/1.1 200 OK\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n', 'wait');
    expect(await clientThrough(proxy.url).send(request('https://target.example/'))).toMatchObject({
      code: 'tls_failed',
      message: 'SSL connect error',
    });
    await proxy.idle();
  });
});

describe('the deadline', () => {
  it.each([
    ['the reply to CONNECT', '', 'https'],
    ['the rest of the reply to CONNECT', 'HTTP/1.1 200 OK\r\nVia: x\r\n', 'https'],
    ["the target's TLS", 'HTTP/1.1 200 OK\r\n\r\n', 'https'],
    ['the reply', '', 'http'],
  ])('covers a proxy that hangs: %s', async (_what, reply, scheme) => {
    const proxy = await tcpServer((socket) => socket.once('data', () => socket.write(reply)));
    const outcome = await clientThrough(proxy.url).send(request(`${scheme}://target.example/`, { timeoutMs: 200 }));
    const { code, timings } = expectFailure(outcome);
    expect(code).toBe('timed_out');
    const waitedFor = scheme === 'https' ? timings.connectMs : timings.transferMs;
    expect(waitedFor).toBeGreaterThan(timings.totalMs / 2);
    await proxy.idle();
  });

  it('closing the client ends what waits for a proxy', async () => {
    const proxy = await tcpServer((socket) => socket.resume());
    const client = clientThrough(proxy.url);
    const outcome = client.send(request('https://target.example/'));
    await expect.poll(() => proxy.connections()).toBe(1);
    await client.close();
    expect(await outcome).toMatchObject({ code: 'cancelled' });
    await proxy.idle();
  });
});

describe('which way a request takes', () => {
  it('http and https each have their own, and noProxy is reached directly', async () => {
    const plain = await httpServer((_incoming, response) => response.end());
    const secure = await httpsServer('localhost', (_incoming, response) => response.end());
    const [forHttp, forHttps] = [await forwardProxy(), await forwardProxy()];
    const proxy = { http: forHttp.url, https: forHttps.url, noProxy: 'direct.example' };
    const client = clientThrough('', { proxy, lookup: async () => [{ address: '127.0.0.1', family: 4 }] });
    for (const host of ['localhost', 'direct.example', 'below.direct.example']) {
      expectReply(await client.send(request(`http://${host}:${plain.port}/`)));
      await client.send(request(`https://${host}:${secure.port}/`));
    }
    expect(forHttp.asked.map(({ target }) => target)).toEqual([`http://localhost:${plain.port}/`]);
    expect(forHttps.asked.map(({ target }) => target)).toEqual([`localhost:${secure.port}`]);
  });

  it('each hop of a redirect goes its own', async () => {
    const target = await httpServer(echo);
    const direct = await httpServer((_incoming, response) => {
      response.writeHead(302, { Location: `http://target.example:${target.port}/` }).end();
    });
    const proxy = await forwardProxy();
    const client = clientThrough(proxy.url, { proxy: { http: proxy.url, noProxy: 'localhost' } });
    expectReply(await client.send(request(`http://localhost:${direct.port}/`)));
    expect(proxy.asked.map(({ target: url }) => url)).toEqual([`http://target.example:${target.port}/`]);
  });
});

describe('the guard before a proxy', () => {
  // A name is for the proxy to resolve; what is denied by its looks is denied before.
  const denied = corpus.deny.filter((url) => /^https?:\/\/(\[|[\d.]+[:/]|0x|localhost)/i.test(url));

  it('there is something to refuse', () => expect(denied.length).toBeGreaterThan(20));

  it.each(denied)('refuses %j without asking the proxy', async (url) => {
    const dialled = watchDialling();
    const client = clientThrough(`http://127.0.0.1:${await closedPort()}`, { policy: createAddressPolicy() });
    const outcome = await client.send(request(url));
    expect(outcome.kind === 'failure' && outcome.code).toMatch(/^(denied|invalid_url)$/);
    expect(dialled.sockets).toEqual([]);
  });

  it('refuses names by their looks, of redirects too', async () => {
    const proxy = await forwardProxy();
    const server = await httpServer((_incoming, response) => {
      response.writeHead(302, { Location: 'http://169.254.169.254/latest' }).end();
    });
    const policy = createAddressPolicy({ deny: ['secret.example'] });
    const client = clientThrough(proxy.url, { policy });
    for (const host of ['localhost', 'db', 'db.internal', 'secret.example', 'metadata.google.internal']) {
      expect(await client.send(request(`https://${host}/`))).toMatchObject({ code: 'denied' });
    }
    expect(await client.send(request(`http://public.example:${server.port}/`))).toMatchObject({ code: 'denied' });
    expect(proxy.asked.map(({ target }) => target)).toEqual([`http://public.example:${server.port}/`]);
  });

  it('does not apply to the proxy itself', async () => {
    const server = await httpServer((_incoming, response) => response.end('here'));
    const proxy = await forwardProxy();
    const client = clientThrough(`http://proxy:${proxy.port}`, {
      policy: createAddressPolicy({ deny: ['loopback', 'proxy'] }),
      lookup: async () => [{ address: '127.0.0.1', family: 4 }],
    });
    expect(text(expectReply(await client.send(request(`http://public.example:${server.port}/`))))).toBe('here');
  });
});
