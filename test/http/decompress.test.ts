import zlib from 'node:zlib';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { Reply } from '../../src/core/outcome.ts';
import { expectReply, httpServer, request, tcpServer, testClient, text } from './loopback.ts';

const encoders: Readonly<Record<string, (body: Uint8Array) => Buffer>> = {
  gzip: (body) => zlib.gzipSync(body),
  'x-gzip': (body) => zlib.gzipSync(body),
  deflate: (body) => zlib.deflateSync(body),
  br: (body) => zlib.brotliCompressSync(body),
};

/** A server that answers with this body as if it were so encoded. */
async function serve(encoding: string | string[], body: Uint8Array): Promise<string> {
  const { url } = await httpServer((_incoming, response) =>
    response.writeHead(200, { 'Content-Encoding': encoding }).end(body),
  );
  return url;
}

const long = Buffer.from('The quick brown fox jumps over the lazy dog. '.repeat(3_000));
const gzipped = zlib.gzipSync(long);

describe('where compressed replies are wanted', () => {
  it('they are asked for, unless the caller asks for something', async () => {
    const asked: (string | undefined)[] = [];
    const { url } = await httpServer((incoming, response) => {
      asked.push(incoming.headers['accept-encoding'] as string | undefined);
      response.writeHead(asked.length === 3 ? 302 : 200, { Location: '/' }).end();
    });
    const client = testClient({ decompress: true });
    await client.send(request(url));
    await client.send(request(url, { headers: [['accept-encoding', 'identity']] }));
    await client.send(request(url));
    await testClient().send(request(url));
    expect(asked).toEqual(['gzip, deflate, br', 'identity', 'gzip, deflate, br', 'gzip, deflate, br', undefined]);
  });

  it('they are decoded, and the headers stay as they were', async () => {
    const client = testClient({ decompress: true });
    const coding = fc.constantFrom('gzip', 'x-gzip', 'deflate', 'br', 'GZIP', 'identity');
    await fc.assert(
      fc.asyncProperty(fc.array(coding, { maxLength: 5 }), fc.uint8Array({ maxLength: 300 }), async (codings, body) => {
        let encoded: Uint8Array = body;
        for (const name of codings) encoded = encoders[name.toLowerCase()]?.(encoded) ?? encoded;
        const reply = expectReply(await client.send(request(await serve(codings.join(' , '), encoded))));
        expect(Buffer.from(reply.body)).toEqual(Buffer.from(body));
        expect(reply.truncated).toBe(false);
        expect(reply.headers).toContainEqual(['Content-Encoding', codings.join(' , ')]);
      }),
      { numRuns: 50 },
    );
    const raw = await serve('deflate', zlib.deflateRawSync(long));
    expect(text(expectReply(await client.send(request(raw))))).toBe(long.toString());
    const twoHeaders = await serve(['gzip', 'br'], zlib.brotliCompressSync(gzipped));
    expect(text(expectReply(await client.send(request(twoHeaders))))).toBe(long.toString());
    const members = await serve('gzip', Buffer.concat([gzipped, gzipped]));
    expect(expectReply(await client.send(request(members))).body.byteLength).toBe(2 * long.byteLength);
  });

  it.each([
    ['unknown', 'zstd', Buffer.from('x')],
    ['quoted', '"gzip"', gzipped],
    ['no such thing', 'gzip', Buffer.from('plain text')],
    ['of a wrong checksum', 'gzip', Buffer.from(gzipped).fill(0, gzipped.length - 8)],
    ['six times', 'gzip,gzip,gzip,gzip,gzip,gzip', gzipped],
    ['chunked', 'chunked', Buffer.from('0\r\n\r\n')],
  ])('one that is %s fails the request', async (_what, encoding, body) => {
    expect(await testClient({ decompress: true }).send(request(await serve(encoding, body)))).toMatchObject({
      kind: 'failure',
      code: 'bad_content_encoding',
      message: 'Unrecognized or bad HTTP Content or Transfer-Encoding',
    });
  });

  it('an empty body is empty, whatever it is said to be', async () => {
    const client = testClient({ decompress: true });
    for (const encoding of ['gzip', 'zstd', '']) {
      expect(expectReply(await client.send(request(await serve(encoding, Buffer.alloc(0))))).body.byteLength).toBe(0);
    }
  });

  it.each([
    ['gzip', (body: Uint8Array) => zlib.gunzipSync(body, { finishFlush: zlib.constants.Z_SYNC_FLUSH })],
    ['deflate', (body: Uint8Array) => zlib.inflateSync(body, { finishFlush: zlib.constants.Z_SYNC_FLUSH })],
    [
      'br',
      (body: Uint8Array) => zlib.brotliDecompressSync(body, { finishFlush: zlib.constants.BROTLI_OPERATION_FLUSH }),
    ],
  ])('one that ends early is as much as can be had of it: %s', async (coding, decodedAsFarAsItGoes) => {
    const sparse = Buffer.from(Array.from({ length: 200_000 }, (_, i) => ((i * 48_271) % 65_537) & 15));
    const whole = encoders[coding]?.(sparse) ?? Buffer.alloc(0);
    const cut = whole.subarray(0, whole.byteLength - 30);
    const reply = expectReply(await testClient({ decompress: true }).send(request(await serve(coding, cut))));
    expect(reply.truncated).toBe(true);
    expect(Buffer.from(reply.body).equals(decodedAsFarAsItGoes(cut))).toBe(true);
    expect(reply.body.byteLength).toBeGreaterThan(100_000);
  });

  it.each(['gzip', 'deflate', 'br'])('a bomb is cut at the limit of what it decodes to: %s', async (coding) => {
    const bomb = encoders[coding]?.(Buffer.alloc(50_000_000)) ?? Buffer.alloc(0);
    for (const responseBytesMax of [1_024, 65_536, 65_537, 1_000_000]) {
      const client = testClient({ decompress: true, responseBytesMax });
      const reply = expectReply(await client.send(request(await serve(coding, bomb))));
      expect([reply.body.byteLength, reply.truncated]).toEqual([responseBytesMax, true]);
      reply.release?.();
    }
    const exact = testClient({ decompress: true, responseBytesMax: long.byteLength });
    const reply = expectReply(await exact.send(request(await serve(coding, encoders[coding]?.(long) ?? long))));
    expect([reply.body.byteLength, reply.truncated]).toEqual([long.byteLength, false]);
  });

  it('what is not compressed, and what cannot be, is cut at the same limit', async () => {
    const client = testClient({ decompress: true, responseBytesMax: 100_000 });
    const noise = Buffer.from(Array.from({ length: 100_001 }, () => Math.floor(Math.random() * 256)));
    for (const [encoding, body, bytes, truncated] of [
      ['', noise.subarray(1), 100_000, false],
      ['', noise, 100_000, true],
      ['', Buffer.concat([noise, noise]), 100_000, true],
      ['gzip', zlib.gzipSync(noise.subarray(1)), 100_000, false],
      ['gzip', zlib.gzipSync(noise), 100_000, true],
    ] as const) {
      const reply = expectReply(await client.send(request(await serve(encoding, body))));
      expect([reply.body.byteLength, reply.truncated]).toEqual([bytes, truncated]);
      reply.release?.();
    }
  });

  it('large ones wait until others are recorded, small ones do not, and the deadline holds', async () => {
    const bomb = zlib.gzipSync(Buffer.alloc(20_000_000));
    const url = await serve('gzip', bomb);
    const small = await serve('gzip', zlib.gzipSync('small'));
    const client = testClient({ decompress: true });
    const first: Reply[] = [];
    for (let i = 0; i < 3; i++) first.push(expectReply(await client.send(request(url))));
    for (let i = 0; i < 5; i++) expect(text(expectReply(await client.send(request(small))))).toBe('small');
    expect(await client.send(request(url, { timeoutMs: 200 }))).toMatchObject({ code: 'timed_out' });
    const next = client.send(request(url));
    expect(text(expectReply(await client.send(request(small))))).toBe('small');
    first[0]?.release?.();
    expect(expectReply(await next)).toMatchObject({ truncated: true });
  });

  it('many at once, some given up, leave every one an outcome', async () => {
    const url = await serve('gzip', gzipped);
    const client = testClient({ decompress: true });
    const send = async (timeoutMs: number): Promise<string> => {
      const outcome = await client.send(request(url, { timeoutMs }));
      if (outcome.kind === 'failure') return outcome.code;
      outcome.release?.();
      return text(outcome) === long.toString() ? 'whole' : 'something else';
    };
    const results = await Promise.all(Array.from({ length: 60 }, (_, i) => send(i % 3 === 0 ? 1 : 20_000)));
    for (const [i, result] of results.entries()) {
      expect(i % 3 === 0 ? ['whole', 'timed_out'] : ['whole']).toContain(result);
    }
    expect(expectReply(await client.send(request(url))).truncated).toBe(false);
  });
});

it('nothing is decoded where they are not wanted', async () => {
  const reply = expectReply(await testClient().send(request(await serve('gzip', gzipped))));
  expect(Buffer.from(reply.body)).toEqual(gzipped);
});

describe('a body that is compressed for its way', () => {
  /** A server that answers with such a body, and then closes the connection. */
  async function serveCoded(coding: string, body: Uint8Array, more = ''): Promise<string> {
    const { url } = await tcpServer((socket) => {
      socket.on('data', () => {
        socket.write(`HTTP/1.1 200 OK\r\nTransfer-Encoding: ${coding}\r\n${more}\r\n`);
        socket.end(body);
      });
    });
    return url;
  }

  function chunked(body: Uint8Array): Buffer {
    return Buffer.concat([Buffer.from(`${body.byteLength.toString(16)}\r\n`), body, Buffer.from('\r\n0\r\n\r\n')]);
  }

  it.each<[string, Uint8Array, string?]>([
    ['gzip', gzipped],
    // Of the way of sending the length says nothing.
    ['gzip', gzipped, 'Content-Length: 5\r\n'],
    ['x-gzip, Chunked', chunked(gzipped)],
    ['gzip, deflate, chunked', chunked(zlib.deflateSync(gzipped))],
    ['br', zlib.brotliCompressSync(long)],
  ])('is what it was, asked for or not: %s', async (coding, body, more) => {
    for (const decompress of [false, true]) {
      const reply = expectReply(await testClient({ decompress }).send(request(await serveCoded(coding, body, more))));
      expect([text(reply), reply.truncated]).toEqual([long.toString(), false]);
    }
  });

  it('is undone before the coding of the content, where that is wanted', async () => {
    const url = await serveCoded('br', zlib.brotliCompressSync(gzipped), 'Content-Encoding: gzip\r\n');
    expect(text(expectReply(await testClient({ decompress: true }).send(request(url))))).toBe(long.toString());
    expect(Buffer.from(expectReply(await testClient().send(request(url))).body)).toEqual(gzipped);
  });

  it('is cut at the limit of what it decodes to', async () => {
    const client = testClient({ responseBytesMax: 100_000 });
    const reply = expectReply(
      await client.send(request(await serveCoded('gzip', zlib.gzipSync(Buffer.alloc(20_000_000))))),
    );
    expect([reply.body.byteLength, reply.truncated]).toEqual([100_000, true]);
    reply.release?.();
  });

  it.each([
    ['is no such thing', 'gzip', Buffer.from('plain text')],
    ['is coded in an unknown way', 'foo', Buffer.from('x')],
    ['is coded six times', 'gzip,gzip,gzip,gzip,gzip,gzip', gzipped],
  ])('fails the request if it %s', async (_what, coding, body) => {
    expect(await testClient().send(request(await serveCoded(coding, body)))).toMatchObject({
      kind: 'failure',
      message: 'Unrecognized or bad HTTP Content or Transfer-Encoding',
    });
  });
});
