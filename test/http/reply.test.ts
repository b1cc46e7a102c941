import { gzipSync } from 'node:zlib';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { expectReply, httpServer, request, scriptedServer, testClient, text } from './loopback.ts';

describe('the headers of a reply', () => {
  it('keep names, order, repetitions and bytes', async () => {
    const server = await scriptedServer(
      'HTTP/1.1 299 Whatever\r\nX-b: 1\r\nMissingValue:\r\nx-B: \u00e9\u00ff \r\nSet-Cookie: a=b\r\nset-cookie: c=d\r\n__proto__: x\r\nContent-Length: 0\r\n\r\n',
    );
    const reply = expectReply(await testClient().send(request(server.url)));
    expect(reply.status).toBe(299);
    expect(reply.headers.map(([name, value]) => [name, value.trim()])).toEqual([
      ['X-b', '1'],
      ['MissingValue', ''],
      ['x-B', '\u00e9\u00ff'],
      ['Set-Cookie', 'a=b'],
      ['set-cookie', 'c=d'],
      ['__proto__', 'x'],
      ['Content-Length', '0'],
    ]);
  });

  it('are those of the final reply, not of an informational one', async () => {
    const server = await scriptedServer(
      'HTTP/1.1 103 E\r\nA: 1\r\n\r\nHTTP/1.1 200 OK\r\nB: 2\r\nContent-Length: 1\r\n\r\nx',
    );
    const reply = expectReply(await testClient().send(request(server.url)));
    expect(reply.headers.map(([name]) => name)).toEqual(['B', 'Content-Length']);
  });
});

describe('the body of a reply', () => {
  it.each([200, 404, 500, 999])('comes with status %i', async (status) => {
    const server = await scriptedServer(`HTTP/1.1 ${status} X\r\nContent-Length: 2\r\n\r\n\0\u00ff`);
    const reply = expectReply(await testClient().send(request(server.url)));
    expect([reply.status, [...reply.body], reply.truncated]).toEqual([status, [0, 255], false]);
  });

  it.each([
    ['to the end of the connection', 'HTTP/1.1 200 OK\r\n\r\nabc', 'abc'],
    ['of HTTP/1.0', 'HTTP/1.0 200 OK\r\n\r\nabc', 'abc'],
    [
      'in chunks, with trailers',
      'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n2\r\nbc\r\n0\r\nT: x\r\n\r\n',
      'abc',
    ],
  ])('%s', async (_what, bytes, body) => {
    const server = await scriptedServer(bytes, 'end');
    expect(text(expectReply(await testClient().send(request(server.url))))).toBe(body);
  });

  it.each([
    ['GET', 204, ''],
    ['GET', 204, 'Content-Length: 5\r\n'],
    ['GET', 304, 'Content-Length: 5\r\n'],
    ['HEAD', 200, 'Content-Length: 5\r\n'],
    ['HEAD', 404, ''],
  ])('%s %i has none (%j)', async (method, status, lengthHeader) => {
    const server = await scriptedServer(`HTTP/1.1 ${status} X\r\n${lengthHeader}\r\n`);
    const client = testClient();
    for (let i = 0; i < 2; i++) {
      const reply = expectReply(await client.send(request(server.url, { method })));
      expect([reply.status, reply.body.length, reply.truncated]).toEqual([status, 0, false]);
    }
  });

  it('is not decompressed', async () => {
    const zipped = gzipSync('x'.repeat(100_000));
    const server = await httpServer((incoming, response) => {
      expect(incoming.headers['accept-encoding']).toBeUndefined();
      response.writeHead(200, { 'Content-Encoding': 'gzip' }).end(zipped);
    });
    const reply = expectReply(await testClient().send(request(server.url)));
    expect(Buffer.from(reply.body).equals(zipped)).toBe(true);
  });

  it('is cut at the limit, and only beyond it', async () => {
    const server = await httpServer((incoming, response) => response.end('x'.repeat(Number(incoming.url?.slice(1)))));
    const client = testClient({ responseBytesMax: 1_000 });
    for (const [bytes, truncated] of [
      [999, false],
      [1_000, false],
      [1_001, true],
      [500_000, true],
    ] as const) {
      const reply = expectReply(await client.send(request(`${server.url}/${bytes}`)));
      expect([reply.body.length, reply.truncated]).toEqual([Math.min(bytes, 1_000), truncated]);
    }
  });

  it('is cut while it streams, and the server let go', async () => {
    const server = await httpServer((_incoming, response) => {
      const more = () => {
        while (!response.destroyed && response.write(Buffer.alloc(65_536)));
      };
      response.on('drain', more);
      more();
    });
    const reply = expectReply(await testClient({ responseBytesMax: 200_000 }).send(request(server.url)));
    expect([reply.body.length, reply.truncated]).toEqual([200_000, true]);
    await server.idle();
  });

  it('is put together from any pieces', async () => {
    const pieces = { current: [] as Uint8Array[] };
    const server = await httpServer((_incoming, response) => {
      for (const piece of pieces.current) response.write(piece);
      response.end();
    });
    const client = testClient({ responseBytesMax: 300 });
    await fc.assert(
      fc.asyncProperty(fc.array(fc.uint8Array({ minLength: 1, maxLength: 60 }), { maxLength: 10 }), async (sent) => {
        pieces.current = sent;
        const whole = Buffer.concat(sent);
        const reply = expectReply(await client.send(request(server.url)));
        expect(Buffer.from(reply.body).equals(whole.subarray(0, 300))).toBe(true);
        expect(reply.truncated).toBe(whole.length > 300);
      }),
      { numRuns: 60 },
    );
  });
});
