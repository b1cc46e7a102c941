import { describe, expect, it } from 'vitest';
import { Cancellation } from '../../src/core/cancellation.ts';
import {
  closedPort,
  expectFailure,
  expectReply,
  httpServer,
  httpsServer,
  request,
  scriptedServer,
  tcpServer,
  testCa,
  testClient,
  text,
  tlsServer,
} from './loopback.ts';

const unresolvable = () => Promise.reject(Object.assign(new Error('getaddrinfo ENOTFOUND'), { code: 'ENOTFOUND' }));

describe('before a connection', () => {
  it.each(['', 'example.com/x', '//127.0.0.1/', 'http://', 'http://256.256.256.256/', 'http://[::1/', 'http://a b/'])(
    'refuses the URL %j',
    async (url) => {
      const outcome = expectFailure(await testClient().send(request(url)));
      expect(outcome).toMatchObject({
        code: 'invalid_url',
        message: 'URL using bad/illegal format or missing URL',
      });
    },
  );

  it.each(['ftp://127.0.0.1/', 'file:///etc/passwd', 'ws://127.0.0.1/', 'unix:/run/x.sock'])(
    'refuses the scheme of %s',
    async (url) => {
      const outcome = expectFailure(await testClient().send(request(url)));
      expect(outcome).toMatchObject({ code: 'unsupported_scheme', message: 'Unsupported protocol' });
    },
  );

  it('reports a name that does not resolve', async () => {
    const client = testClient({ lookup: unresolvable });
    expect(await client.send(request('http://nowhere.example/'))).toMatchObject({
      code: 'unresolvable',
      message: "Couldn't resolve host name",
    });
    const throwing = testClient({
      lookup: () => {
        throw new Error('no resolver');
      },
    });
    expect(await throwing.send(request('http://nowhere.example/'))).toMatchObject({ code: 'unresolvable' });
    const empty = testClient({ lookup: async () => [] });
    expect(await empty.send(request('http://nowhere.example/'))).toMatchObject({ code: 'unresolvable' });
  });

  it('reports a refused connection', async () => {
    const port = await closedPort();
    for (const host of ['127.0.0.1', 'localhost']) {
      expect(await testClient().send(request(`http://${host}:${port}/`))).toMatchObject({
        code: 'connect_failed',
        message: "Couldn't connect to server",
      });
    }
  });

  it('reports every request that waited for connections that could not be made', async () => {
    const client = testClient({ connectionsPerOriginMax: 2 });
    const url = `http://127.0.0.1:${await closedPort()}/`;
    const outcomes = await Promise.all(Array.from({ length: 20 }, () => client.send(request(url))));
    expect(outcomes.map((outcome) => outcome.kind === 'failure' && outcome.code)).toEqual(
      Array(20).fill('connect_failed'),
    );
  });
});

describe('TLS', () => {
  it('trusts the extra authority, for names and addresses', async () => {
    const server = await httpsServer('localhost', (_request, response) => response.end('secure'));
    const client = testClient({ tls: { ca: testCa } });
    for (const host of ['localhost', '127.0.0.1', 'localhost.']) {
      expect(text(expectReply(await client.send(request(`https://${host}:${server.port}/`))))).toBe('secure');
    }
  });

  it('resumes with a second connection, and still checks', async () => {
    const server = await httpsServer('localhost', (_request, response) =>
      response.writeHead(200, { Connection: 'close' }).end('secure'),
    );
    const client = testClient({ tls: { ca: testCa } });
    for (let i = 0; i < 3; i++) expectReply(await client.send(request(`https://localhost:${server.port}/`)));
    expect(server.connections()).toBe(3);
  });

  it('refuses an unknown authority', async () => {
    const server = await httpsServer('localhost', (_request, response) => response.end());
    expect(await testClient().send(request(`https://localhost:${server.port}/`))).toMatchObject({
      code: 'certificate_untrusted',
      message: 'SSL peer certificate or SSH remote key was not OK',
    });
    await server.idle();
  });

  it("refuses another host's certificate, whatever the Host header says", async () => {
    const server = await httpsServer('other', (_request, response) => response.end());
    const client = testClient({ tls: { ca: testCa } });
    const refused = { code: 'certificate_wrong_host', message: 'SSL peer certificate or SSH remote key was not OK' };
    for (const host of ['localhost', '127.0.0.1']) {
      const url = `https://${host}:${server.port}/`;
      expect(await client.send(request(url))).toMatchObject(refused);
      expect(await client.send(request(url, { headers: [['Host', 'other.example']] }))).toMatchObject(refused);
    }
  });

  it('keeps a connection when the Host header changes', async () => {
    const server = await httpsServer('localhost', (incoming, response) => response.end(incoming.headers.host));
    const client = testClient({ tls: { ca: testCa } });
    for (const host of ['a.example', 'b.example']) {
      const sent = request(`https://localhost:${server.port}/`, { headers: [['Host', host]] });
      expect(text(expectReply(await client.send(sent)))).toBe(host);
    }
    expect(server.connections()).toBe(1);
  });

  it('reports a failed handshake', async () => {
    const plain = await httpServer((_request, response) => response.end());
    const outcome = await testClient().send(request(`https://127.0.0.1:${plain.port}/`));
    expect(outcome).toMatchObject({ code: 'tls_failed', message: 'SSL connect error' });
    const closing = await tcpServer((socket) => socket.destroy());
    const closed = await testClient().send(request(`https://127.0.0.1:${closing.port}/`));
    expect(closed).toMatchObject({ code: 'tls_failed', message: 'SSL connect error' });
  });

  it('reports a server that leaves after the handshake', async () => {
    const server = await tlsServer({}, (socket) => socket.once('data', () => socket.end()));
    const client = testClient({ tls: { ca: testCa } });
    const outcome = await client.send(request(`https://localhost:${server.port}/`));
    expect(outcome).toMatchObject({ code: 'empty_reply' });
  });
});

describe('the reply', () => {
  const ok = 'HTTP/1.1 200 OK\r\n';
  const chunked = `${ok}Transfer-Encoding: chunked\r\n\r\n`;

  it.each([
    ['nothing at all', '', 'end', 'empty_reply', 'Server returned nothing (no headers, no data)'],
    ['a reset instead of a byte', '', 'reset', 'receive_failed', 'Failure when receiving data from the peer'],
    ['half a header section', `${ok}A: b`, 'end', 'receive_failed', 'Failure when receiving data from the peer'],
    ['another protocol', 'SSH-2.0-OpenSSH_9.2\r\n', 'wait', 'bad_reply', 'Unsupported protocol'],
    ['HTTP/3', 'HTTP/3 200 OK\r\n\r\n', 'wait', 'bad_reply', 'Unsupported protocol'],
    ['a status of four digits', 'HTTP/1.1 2000 OK\r\n\r\n', 'wait', 'bad_reply', 'Unsupported protocol'],
    ['status 099', 'HTTP/1.1 099 X\r\nContent-Length: 0\r\n\r\n', 'wait', 'bad_reply', 'Unsupported protocol'],
    ['status 099, closed', 'HTTP/1.1 099 X\r\n\r\n', 'end', 'bad_reply', 'Unsupported protocol'],
    [
      'a bad header after the length',
      `${ok}Content-Length: 5\r\nA b c\r\n\r\nabcde`,
      'wait',
      'bad_reply',
      'Weird server reply',
    ],
    ['two lengths', `${ok}Content-Length: 1\r\nContent-Length: 2\r\n\r\nab`, 'wait', 'bad_reply', 'Weird server reply'],
    ['a bad chunk', `${chunked}zz\r\nabc\r\n`, 'wait', 'receive_failed', 'Failure when receiving data from the peer'],
    [
      'a body shorter than its length',
      `${ok}Content-Length: 9\r\n\r\nabc`,
      'end',
      'receive_failed',
      'Transferred a partial file',
    ],
    ['a cut chunked body', `${chunked}3\r\nabc\r\n`, 'end', 'receive_failed', 'Transferred a partial file'],
    [
      'a reset within the body',
      `${ok}Content-Length: 9\r\n\r\nabc`,
      'reset',
      'receive_failed',
      'Failure when receiving data from the peer',
    ],
  ] as const)('%s', async (_what, reply, then, code, message) => {
    const server = await scriptedServer(reply, then);
    const client = testClient();
    for (const method of ['GET', 'POST']) {
      const outcome = await client.send(request(server.url, { method }));
      expect(outcome).toEqual({ kind: 'failure', code, message, timings: expect.anything() });
    }
    await server.idle();
  });

  it('a header section beyond the limit', async () => {
    const server = await scriptedServer(`${ok}X: ${'x'.repeat(5_000)}\r\nContent-Length: 0\r\n\r\n`);
    expectReply(await testClient().send(request(server.url)));
    const outcome = await testClient({ responseHeaderBytesMax: 4_096 }).send(request(server.url));
    expect(outcome).toMatchObject({ code: 'receive_failed', message: 'Failure when receiving data from the peer' });
  });

  it('survives whatever bytes a server sends', async () => {
    // A small deterministic generator: replies cut, doubled and mangled at every place.
    const whole = `${chunked}3\r\nabc\r\n0\r\nT: x\r\n\r\n`;
    const client = testClient();
    for (let at = 0; at <= whole.length; at += 3) {
      for (const mangled of [
        whole.slice(0, at),
        `${whole.slice(0, at)}\0${whole.slice(at)}`,
        `${whole}${whole.slice(at)}`,
      ]) {
        const server = await scriptedServer(mangled, 'end');
        const outcome = await client.send(request(server.url, { timeoutMs: 2_000 }));
        expect(outcome.kind === 'reply' || outcome.code !== 'failed', JSON.stringify(outcome)).toBe(true);
      }
    }
  });
});

describe('cancellation', () => {
  it('by whoever asked for it, before and while sending', async () => {
    let reached = () => {};
    const arrived = new Promise<void>((resolve) => {
      reached = resolve;
    });
    const server = await tcpServer((socket) => socket.once('data', reached));
    const client = testClient();
    const before = new Cancellation();
    before.ask();
    expect(await client.send(request(server.url), undefined, before)).toMatchObject({ code: 'cancelled' });
    const cancellation = new Cancellation();
    const sent = client.send(request(server.url), undefined, cancellation);
    await arrived;
    cancellation.ask();
    expect(await sent).toMatchObject({ kind: 'failure', code: 'cancelled', message: 'The request was cancelled' });
    await server.idle();
  });

  it('by close, whatever a request waits for', async () => {
    const silent = await tcpServer((socket) => socket.resume());
    const client = testClient({ connectionsPerOriginMax: 1, lookup: () => new Promise(() => {}) });
    const urls = [silent.url, silent.url, `https://127.0.0.1:${silent.port}/`, 'http://hanging.example/'];
    const sent = urls.map((url) => client.send(request(url)));
    await client.close();
    for (const outcome of await Promise.all(sent)) expect(outcome).toMatchObject({ code: 'cancelled' });
    expect(await client.send(request(silent.url))).toMatchObject({ code: 'cancelled' });
    await client.close();
    await silent.idle();
  });
});
