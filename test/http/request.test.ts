import { describe, expect, it } from 'vitest';
import type { HeaderList } from '../../src/core/request.ts';
import { expectReply, httpServer, type RequestParts, request, tcpServer, testClient } from './loopback.ts';

/** What a server receives, byte for byte (a character each), of one request. */
async function received(parts: RequestParts & { path?: string; userinfo?: string }): Promise<string> {
  let bytes = '';
  const server = await tcpServer((socket) => {
    socket.on('data', (chunk) => {
      bytes += chunk.toString('latin1');
      socket.end('HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n');
    });
  });
  const url = `http://${parts.userinfo ?? ''}127.0.0.1:${server.port}${parts.path ?? '/'}`;
  expectReply(await testClient().send(request(url, parts)));
  return bytes.replace(`127.0.0.1:${server.port}`, 'HOST');
}

const head = 'Host: HOST\r\n';
const ours = 'User-Agent: pgfetch-test/1\r\nAccept: */*\r\n';

describe('a request on the wire', () => {
  it('carries the defaults and nothing else', async () => {
    expect(await received({ path: '/p/%20?q=a b#frag' })).toBe(`GET /p/%20?q=a%20b HTTP/1.1\r\n${head}${ours}\r\n`);
  });

  it("carries the caller's headers as they are, in order, with repetitions", async () => {
    const headers: HeaderList = [
      ['x-B', ' two  blanks '],
      ['X-a', '1'],
      ['x-b', ''],
      ['X-A', '2'],
      ['__proto__', 'x'],
      ['Accept-Encoding', 'gzip'],
      ['X-Unicode', 'é日'],
    ];
    const utf8 = Buffer.from('é日').toString('latin1');
    expect(await received({ headers })).toBe(
      `GET / HTTP/1.1\r\n${head}${ours}x-B: two  blanks\r\nX-a: 1\r\nx-b: \r\nX-A: 2\r\n__proto__: x\r\nAccept-Encoding: gzip\r\nX-Unicode: ${utf8}\r\n\r\n`,
    );
  });

  it('takes User-Agent, Accept and Host from the caller', async () => {
    const headers: HeaderList = [
      ['user-agent', 'mine'],
      ['ACCEPT', 'a/b'],
      ['hOst', 'virtual.example:81'],
    ];
    expect(await received({ headers })).toBe(
      'GET / HTTP/1.1\r\nHost: virtual.example:81\r\nuser-agent: mine\r\nACCEPT: a/b\r\n\r\n',
    );
  });

  it.each(['POST', 'PUT', 'PATCH'])('%s sends the bytes with their length, even none', async (method) => {
    const body = Buffer.from([0, 255, 13, 10, 0x80]);
    expect(await received({ method, body })).toBe(
      `${method} / HTTP/1.1\r\n${head}${ours}Content-Length: 5\r\n\r\n\0\u00ff\r\n\u0080`,
    );
    for (const none of [null, new Uint8Array(0)]) {
      expect(await received({ method, body: none })).toBe(
        `${method} / HTTP/1.1\r\n${head}${ours}Content-Length: 0\r\n\r\n`,
      );
    }
  });

  it('sends a view of a larger buffer as that view', async () => {
    const body = new Uint8Array(Buffer.from('abcdef').buffer.slice(0)).subarray(0, 0);
    expect(await received({ method: 'POST', body })).toContain('Content-Length: 0');
    const view = new Uint8Array(new TextEncoder().encode('abcdef').buffer, 2, 3);
    expect(await received({ method: 'POST', body: view })).toMatch(/Content-Length: 3\r\n\r\ncde$/);
  });

  it.each([
    ['get', 'GET'],
    ['Post', 'POST'],
    ['delete', 'DELETE'],
    ['PURGE', 'PURGE'],
    ['Purge', 'Purge'],
  ])('the method %s goes as %s', async (method, sent) => {
    expect(await received({ method })).toMatch(new RegExp(`^${sent} / HTTP/1.1\r\n`));
  });

  it('DELETE may have a body', async () => {
    expect(await received({ method: 'DELETE', body: 'x' })).toMatch(/Content-Length: 1\r\n\r\nx$/);
  });

  it('blanks around a value are not sent', async () => {
    const headers: HeaderList = [
      ['a', ' \t x y\t '],
      ['b', '\t'],
      ['host', ' h.example '],
    ];
    const sent = await received({ headers });
    expect(sent).toContain('\r\na: x y\r\nb: \r\n');
    expect(sent).toMatch(/\r\nhost: h\.example\r\n/i);
  });

  it.each([
    ['user:pass@', 'user:pass'],
    ['user@', 'user:'],
    [':pass@', ':pass'],
    ['a%3Ab%40:%C3%A9%FF@', 'a:b@:\u00c3\u00a9\u00ff'],
  ])('credentials %s in the URL become Basic', async (userinfo, plain) => {
    const basic = Buffer.from(plain, 'latin1').toString('base64');
    expect(await received({ userinfo })).toContain(`\r\nAuthorization: Basic ${basic}\r\n`);
    const own: HeaderList = [['authorization', 'Bearer x']];
    expect(await received({ userinfo, headers: own })).not.toContain('Basic');
  });
});

describe('a request that is refused', () => {
  it.each<[string, string, string]>([
    ['', 'x', 'Invalid header name: ""'],
    ['a b', 'x', 'Invalid header name: "a b"'],
    ['a:', 'x', 'Invalid header name: "a:"'],
    ['é', 'x', 'Invalid header name: "é"'],
    ['a\r\nb', 'x', 'Invalid header name: "a\\r\\nb"'],
    ['a', 'x\r\nb: c', 'Invalid value of header "a": it holds control characters'],
    ['a', 'x\0', 'Invalid value of header "a": it holds control characters'],
    ['Content-Length', '3', 'Header "Content-Length" is not allowed: it is set by the HTTP client'],
    ['Proxy-Connection', 'x', 'Header "Proxy-Connection" is not allowed: it is set by the HTTP client'],
    ['HTTP2-Settings', 'x', 'Header "HTTP2-Settings" is not allowed: it is set by the HTTP client'],
    ['Transfer-Encoding', 'chunked', 'Header "Transfer-Encoding" is not allowed: it is set by the HTTP client'],
    ['connection', 'close', 'Header "connection" is not allowed: it is set by the HTTP client'],
    ['Expect', '100-continue', 'Header "Expect" is not allowed: it is set by the HTTP client'],
    ['Upgrade', 'h2c', 'Header "Upgrade" is not allowed: it is set by the HTTP client'],
    ['Keep-Alive', 'x', 'Header "Keep-Alive" is not allowed: it is set by the HTTP client'],
    ['TE', 'trailers', 'Header "TE" is not allowed: it is set by the HTTP client'],
    ['Trailer', 'x', 'Header "Trailer" is not allowed: it is set by the HTTP client'],
    ['Host', 'a b', 'Invalid Host: "a b"'],
    ['Host', '', 'Invalid Host: ""'],
    ['Host', 'a/b', 'Invalid Host: "a/b"'],
  ])('header %j: %j', async (name, value, message) => {
    const server = await httpServer((_incoming, response) => response.end());
    const sent = request(server.url, { method: 'POST', body: 'abc', headers: [[name, value]] });
    expect(await testClient().send(sent)).toMatchObject({ kind: 'failure', code: 'invalid_request', message });
    expect(server.connections()).toBe(0);
  });

  it.each(['', 'GE T', 'GET\r\n', 'CONNECT', 'connect', 'é'])('method %j', async (method) => {
    expect(await testClient().send(request('http://127.0.0.1/', { method }))).toMatchObject({
      code: 'invalid_request',
    });
  });

  it('two Hosts', async () => {
    const headers: HeaderList = [
      ['Host', 'a'],
      ['host', 'a'],
    ];
    expect(await testClient().send(request('http://127.0.0.1/', { headers }))).toMatchObject({
      code: 'invalid_request',
    });
  });
});

describe('a host of thousands of characters', () => {
  // Each distinct character beyond ASCII costs all those before it: a second for what a header can hold.
  const host = Array.from({ length: 20_000 }, (_, i) => String.fromCodePoint(0x4e00 + ((i * 7_919) % 20_000))).join('');

  it.each(['http://', 'https:', 'HTTP:\\\\', 'http://user@', 'ht\ttp://'])('is none: %j', async (before) => {
    expect(await testClient().send(request(`${before}${host}/`))).toMatchObject({ code: 'invalid_url' });
  });

  it.each(['http://', '//', '\\\\'])('is none after a redirect either: %j', async (before) => {
    const location = Buffer.from(`${before}${host}/`).toString('latin1');
    const server = await tcpServer((socket) => {
      socket.on('data', () => socket.end(`HTTP/1.1 302 F\r\nLocation: ${location}\r\n\r\n`, 'latin1'));
    });
    expect(await testClient().send(request(server.url))).toMatchObject({ code: 'invalid_url' });
  });
});
