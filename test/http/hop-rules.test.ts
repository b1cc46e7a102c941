import http2 from 'node:http2';
import { describe, expect, it } from 'vitest';
import { createAddressPolicy } from '../../src/core/addresses.ts';
import type { HostRule } from '../../src/core/policy.ts';
import type { HttpClientOptions } from '../../src/http/client.ts';
import { forwardProxy } from './forward-proxy.ts';
import {
  expectReply,
  httpServer,
  httpsServer,
  listen,
  request,
  serverIdentity,
  type TestServer,
  testCa,
  testClient,
  text,
  watchDialling,
} from './loopback.ts';
import corpus from './ssrf-corpus.json' with { type: 'json' };

/** Looks every name up as this machine, and remembers which. */
function recordingLookup() {
  const asked: string[] = [];
  const lookup = async (name: string) => {
    asked.push(name);
    return [{ address: '127.0.0.1', family: 4 }];
  };
  return { asked, lookup };
}

/** A server that redirects everything but `/end` to where the query says. */
function redirector(status = 302): Promise<TestServer> {
  return httpServer(({ url = '', method, headers }, response) => {
    const location = new URL(url, 'http://x').searchParams.get('to');
    if (location === null) response.end(`${method} ${headers.host}`);
    else response.writeHead(status, { Location: Buffer.from(location).toString('latin1') }).end();
  });
}

const to = (location: string) => `/?to=${encodeURIComponent(location)}`;

const allowed = createAddressPolicy({ allow: ['*.example', 'example', '127.0.0.1', '::1'] });

describe('rows of net.policy', () => {
  const rules: readonly HostRule[] = [
    { host: 'start.example', methods: null },
    { host: 'reads.example', methods: ['GET', 'HEAD'] },
    { host: 'writes.example', methods: ['POST'] },
    { host: '*.below.example', methods: null },
    { host: '127.0.0.1', methods: null },
    { host: '::1', methods: ['GET'] },
  ];
  const noHost = 'Denied by the address policy: no row of net.policy lets this role reach this host';
  const noMethod = (method: string) =>
    `Denied by the address policy: no row of net.policy lets this role send ${method} to this host`;

  it('without them, requests go anywhere', async () => {
    const server = await redirector();
    const { lookup } = recordingLookup();
    const client = testClient({ policy: allowed, lookup });
    expectReply(await client.send(request(`http://any.example:${server.port}/end`)));
    expect(await client.send(request(`http://any.example:${server.port}/end`, { hostRules: [] }))).toMatchObject({
      code: 'denied',
      message: noHost,
    });
  });

  it.each([
    ['other.example', noHost],
    ['below.example', noHost],
    ['xbelow.example', noHost],
    ['start.example.evil.example', noHost],
    ['start.example@other.example', noHost],
    ['[::ffff:127.0.0.1]', noHost],
    ['127.0.0.2', noHost],
    ['0x7f.2', noHost],
    ['writes.example', noMethod('GET')],
    ['WRITES.example.', noMethod('GET')],
    ['wr%69tes.ｅxample', noMethod('GET')],
  ])('refuse %s, asked for or redirected to, before anything is resolved or dialled', async (host, message) => {
    const server = await redirector();
    const { asked, lookup } = recordingLookup();
    const dialled = watchDialling();
    const client = testClient({ policy: allowed, lookup });
    const refused = { code: 'denied', message };
    expect(await client.send(request(`http://${host}:${server.port}/end`, { hostRules: rules }))).toMatchObject(
      refused,
    );
    expect(asked).toEqual([]);
    expect(dialled.sockets).toEqual([]);
    const start = `http://start.example:${server.port}`;
    const redirected = request(start + to(`//${host}:${server.port}/end`), { hostRules: rules });
    expect(await client.send(redirected)).toMatchObject(refused);
    expect(asked).toEqual(['start.example']);
    expect(dialled.sockets).toHaveLength(1);
  });

  it.each([
    ['reads.example', 'reads.example'],
    ['READS.Example.', 'reads.example.'],
    ['r%65ads.example', 'reads.example'],
    ['ｒｅａｄｓ。example', 'reads.example'],
    ['user:pass@reads.example', 'reads.example'],
    ['x.below.example', 'x.below.example'],
    ['y.x.below.example', 'y.x.below.example'],
    ['127.1', '127.0.0.1'],
    ['0x7f000001', '127.0.0.1'],
    ['017700000001', '127.0.0.1'],
  ])('let %s be reached, in every spelling, asked for or redirected to', async (host, named) => {
    const server = await redirector();
    const client = testClient({ policy: allowed, lookup: recordingLookup().lookup });
    const start = `http://start.example:${server.port}`;
    for (const url of [
      `http://${host}:${server.port}/end`,
      start + to(`http://${host}:${server.port}/end`),
      start + to(`http:/\\${host}:${server.port}/end`),
    ]) {
      const reply = expectReply(await client.send(request(url, { hostRules: rules })));
      expect(text(reply)).toBe(`GET ${named}:${server.port}`);
    }
  });

  it('know an IPv6 address in every spelling', async () => {
    const client = testClient({ policy: allowed });
    for (const host of ['[::1]', '[0:0:0:0:0:0:0:1]', '[0::0001]', '[::0.0.0.1]']) {
      const outcome = await client.send(request(`http://${host}:1/`, { hostRules: rules }));
      expect(outcome, host).toMatchObject({ code: 'connect_failed' });
      const posted = await client.send(request(`http://${host}:1/`, { method: 'POST', hostRules: rules }));
      expect(posted, host).toMatchObject({ code: 'denied', message: noMethod('POST') });
    }
  });

  it.each([
    [303, 'POST', 'writes.example', noMethod('GET')],
    [302, 'POST', 'writes.example', noMethod('GET')],
    [307, 'POST', 'reads.example', noMethod('POST')],
    [308, 'DELETE', 'reads.example', noMethod('DELETE')],
  ])('go by the method that a %i makes of %s', async (status, method, host, message) => {
    const server = await redirector(status);
    const client = testClient({ policy: allowed, lookup: recordingLookup().lookup });
    const url = `http://start.example:${server.port}${to(`http://${host}:${server.port}/end`)}`;
    expect(await client.send(request(url, { method, hostRules: rules }))).toMatchObject({ code: 'denied', message });
  });

  it('let through what a redirect makes of the method', async () => {
    for (const [status, method, host, sent] of [
      [303, 'POST', 'reads.example', 'GET'],
      [307, 'POST', 'writes.example', 'POST'],
    ] as const) {
      const server = await redirector(status);
      const client = testClient({ policy: allowed, lookup: recordingLookup().lookup });
      const url = `http://start.example:${server.port}${to(`http://${host}:${server.port}/end`)}`;
      const reply = expectReply(await client.send(request(url, { method, hostRules: rules })));
      expect(text(reply)).toBe(`${sent} ${host}:${server.port}`);
    }
  });

  it('are looked at over a connection that others have made', async () => {
    const server = await redirector();
    const client = testClient({ policy: allowed, lookup: recordingLookup().lookup });
    const url = `http://other.example:${server.port}/end`;
    expectReply(await client.send(request(url)));
    expect(await client.send(request(url, { hostRules: rules }))).toMatchObject({ code: 'denied' });
    expect(server.connections()).toBe(1);
  });
});

describe('the worker’s own restrictions', () => {
  const restricted = (options: Parameters<typeof createAddressPolicy>[0], more: Partial<HttpClientOptions> = {}) => {
    const { asked, lookup } = recordingLookup();
    const policy = createAddressPolicy({ allow: ['*.example'], ...options });
    return { asked, client: testClient({ policy, lookup, tls: { ca: testCa }, ...more }) };
  };

  it('hold for every hop, before a name is resolved', async () => {
    const server = await redirector();
    const dialled = watchDialling();
    const { port } = server;
    const start = `http://start.example:${port}`;
    for (const [options, location, rule] of [
      [{ only: ['start.example'] }, `http://other.example:${port}/end`, 'this host is not in the only list'],
      [{ ports: [port] }, `http://start.example:${port - 1}/end`, `port ${port - 1} is not in the ports list`],
      [{ ports: [port] }, 'http://start.example/end', 'port 80 is not in the ports list'],
      [{ schemes: ['http'] }, `https://start.example:${port}/end`, 'https is not in the schemes list'],
    ] as const) {
      const { asked, client } = restricted(options);
      expectReply(await client.send(request(`${start}/end`)));
      const before = dialled.sockets.length;
      for (const url of [location, start + to(location)]) {
        expect(await client.send(request(url))).toMatchObject({
          code: 'denied',
          message: `Denied by the address policy: ${rule}`,
        });
      }
      expect(asked).toEqual(['start.example']);
      expect(dialled.sockets).toHaveLength(before);
    }
  });

  it('hold behind a proxy, which is not asked', async () => {
    const server = await redirector();
    const proxy = await forwardProxy();
    const { port } = server;
    const through = { proxy: { http: proxy.url, https: proxy.url } };
    const { client } = restricted({ only: ['start.example'], ports: [port] }, through);
    expectReply(await client.send(request(`http://start.example:${port}/end`)));
    expect(proxy.asked).toHaveLength(1);
    for (const url of [`http://other.example:${port}/`, `https://other.example:${port}/`, 'http://start.example/']) {
      expect(await client.send(request(url))).toMatchObject({ code: 'denied' });
      expect(await client.send(request(`http://start.example:${port}${to(url)}`))).toMatchObject({ code: 'denied' });
    }
    expect(proxy.asked.filter(({ target }) => !target.startsWith(`http://start.example:${port}/`))).toEqual([]);
  });

  it('https alone: http is refused, and followed by no redirect', async () => {
    const plain = await redirector();
    const secure = await httpsServer('localhost', (_incoming, response) => {
      response.writeHead(302, { Location: plain.url }).end();
    });
    const client = testClient({
      policy: createAddressPolicy({ allow: ['loopback'], schemes: ['https'] }),
      tls: { ca: testCa },
    });
    for (const url of [plain.url, secure.url]) {
      expect(await client.send(request(url))).toMatchObject({
        message: 'Denied by the address policy: http is not in the schemes list',
      });
    }
    expect(plain.connections()).toBe(0);
  });
});

describe('a redirect', () => {
  it.each([
    ...corpus.deny.filter((location) => location !== ''),
    '//127.0.0.1:1/',
    '\\\\127.0.0.1:1\\',
    'http:///127.0.0.1:1/',
    'http:127.0.0.1:1',
    'http:\t//127.0.0.1:1',
    '//0/',
    '//①②⑦.⓪.⓪.①:1/',
    '//ｌｏｃａｌｈｏｓｔ:1/',
    '//lo\u00adcalhost:1/',
    '//user@127.0.0.1:1/',
    '//127.0.0.1:1#@start.example/',
    '//127.0.0.1:1?@start.example/',
    '//127.0.0.1:1\\@start.example/',
    '//%31%32%37.0.0.1:1/',
    '//localhost6.localdomain6:1/',
    'javascript:alert(1)',
    'data:text/plain,x',
    'file://localhost/etc/passwd',
  ])('to %j reaches nothing', async (location) => {
    const server = await redirector();
    const { asked, lookup } = recordingLookup();
    const dialled = watchDialling();
    const client = testClient({ policy: createAddressPolicy({ allow: ['start.example'] }), lookup });
    const outcome = await client.send(request(`http://start.example:${server.port}${to(location)}`));
    // Without slashes after the scheme, or without any scheme, it is a path of the same server.
    if (/^(http:(?![/\\\t])|(?![a-z]+:|[/\\]{2}))/.test(location)) {
      expect(outcome).toMatchObject({ status: 200 });
    } else {
      expect(outcome.kind === 'failure' && outcome.code).toMatch(/^(denied|invalid_url|unsupported_scheme)$/);
    }
    expect(asked).toEqual(['start.example']);
    expect(dialled.sockets).toHaveLength(1);
  });

  it('is the only way from one server to another: Alt-Svc and Refresh are not followed', async () => {
    const other = await redirector();
    const server = await httpServer((_incoming, response) => {
      response
        .writeHead(200, { 'Alt-Svc': `h2=":${other.port}", http/1.1=":${other.port}"`, Refresh: `0;url=${other.url}` })
        .end();
    });
    const client = testClient();
    for (let i = 0; i < 3; i++) expectReply(await client.send(request(server.url)));
    expect([server.connections(), other.connections()]).toEqual([1, 0]);
  });

  it('nor does an HTTP/2 server take requests for others, or send them elsewhere, whatever it says', async () => {
    const other = await redirector();
    const http2Server = http2.createSecureServer(serverIdentity(), (_incoming, response) => response.end());
    const server = await listen(http2Server, 'https');
    // Its certificate is good for both names.
    http2Server.on('session', (session) => {
      session.origin(`https://127.0.0.1:${server.port}`);
      session.altsvc(`h2="127.0.0.1:${other.port}"`, server.url);
    });
    const client = testClient({ tls: { ca: testCa } });
    for (let i = 0; i < 2; i++) {
      expectReply(await client.send(request(`https://localhost:${server.port}/`)));
      expectReply(await client.send(request(`https://127.0.0.1:${server.port}/`)));
    }
    expect([server.connections(), other.connections()]).toEqual([2, 0]);
  });
});
