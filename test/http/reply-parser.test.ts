import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { HeaderList } from '../../src/core/request.ts';
import { ReplyParser } from '../../src/http/reply-parser.ts';

type Read = {
  status: number | undefined;
  headers: HeaderList;
  body: string;
  end: 'open' | 'complete' | string;
  isReusable: boolean;
  /** What of the input was not part of the reply. */
  rest: string;
};

/** What a parser makes of a reply that comes in these pieces; `closed`: the server then ends the connection. */
function read(
  pieces: readonly Buffer[],
  options: { method?: string; closed?: boolean; headBytesMax?: number } = {},
): Read {
  const { method = 'GET', closed = false, headBytesMax = 300 * 1024 } = options;
  const seen: Read = { status: undefined, headers: [], body: '', end: 'open', isReusable: false, rest: '' };
  const parser = new ReplyParser(
    {
      onHead(status, headers) {
        seen.status = status;
        seen.headers = headers;
      },
      onBody(chunk) {
        seen.body += Buffer.from(chunk).toString('latin1');
      },
      onComplete() {
        seen.end = seen.end === 'open' ? 'complete' : 'twice';
      },
      onBroken(problem) {
        seen.end = seen.end === 'open' ? problem.message : 'twice';
      },
    },
    headBytesMax,
  );
  parser.begin(method);
  for (const piece of pieces) seen.rest += piece.subarray(parser.feed(piece)).toString('latin1');
  if (closed) parser.finish();
  seen.isReusable = parser.isReusable;
  // Behind what makes no sense nothing is anything.
  if (seen.end !== 'complete') seen.rest = '';
  return seen;
}

function readText(reply: string, options: Parameters<typeof read>[1] = {}): Read {
  return read([Buffer.from(reply, 'latin1')], options);
}

const ok = 'HTTP/1.1 200 OK\r\n';
const length2 = 'Content-Length: 2\r\n';

describe('a connection is used again', () => {
  it.each([
    ['a counted body', `${ok}${length2}\r\nhi`],
    ['chunks', `${ok}Transfer-Encoding: chunked\r\n\r\n2;x=y\r\nhi\r\n0\r\nT: x\r\n\r\n`],
    ['no body', 'HTTP/1.1 204 No Content\r\n\r\n'],
    ['304 with the length that it would have', `HTTP/1.1 304 X\r\n${length2}\r\n`],
    ['HTTP/1.0 that says so', `HTTP/1.0 200 OK\r\nConnection: Keep-Alive\r\n${length2}\r\nhi`],
    ['interim replies before it', `HTTP/1.1 100 C\r\n\r\nHTTP/1.1 103 X\r\nA: b\r\n\r\n${ok}${length2}\r\nhi`],
  ])('after %s', (_what, reply) => {
    expect(readText(reply)).toMatchObject({ end: 'complete', isReusable: true, rest: '' });
  });

  it.each([
    ['where the server says close', `${ok}Connection: x, Close\r\n${length2}\r\nhi`],
    ['of HTTP/1.0', `HTTP/1.0 200 OK\r\n${length2}\r\nhi`],
    ['of a version that has no such lines', `HTTP/2 200 OK\r\n${length2}\r\nhi`],
    ['with both lengths', `${ok}${length2}Transfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n`],
    ['with a length twice', `${ok}${length2}${length2}\r\nhi`],
    ['with a length that is more than digits', `${ok}Content-Length: 2, 2\r\n\r\nhi`],
    ['with a blank before the colon of the length', `${ok}Content-Length : 2\r\n\r\nhi`],
    ['with lines that end in LF', `${ok}Content-Length: 2\n\r\nhi`],
    ['with lines that end in two CRs', `${ok}A: b\r\r\n${length2}\r\nhi`],
    ['with a CR in a value', `${ok}A: b\rContent-Length: 9\r\n${length2}\r\nhi`],
    ['with a folded field', `${ok}A: b\r\n c\r\n${length2}\r\nhi`],
    ['with chunks whose lines end in LF', `${ok}Transfer-Encoding: chunked\r\n\r\n2\nhi\r\n0\r\n\r\n`],
    ['with a coding that says nothing', `${ok}Transfer-Encoding: identity\r\n${length2}\r\nhi`],
  ])('but not after a reply %s, which is understood', (_what, reply) => {
    expect(readText(reply)).toMatchObject({ status: 200, body: 'hi', end: 'complete', isReusable: false, rest: '' });
  });

  it('what follows a reply is not part of it', () => {
    expect(readText(`${ok}${length2}\r\nhi${ok}`)).toMatchObject({ body: 'hi', end: 'complete', rest: ok });
    expect(readText(`HTTP/1.1 204 X\r\n${length2}\r\nhi`)).toMatchObject({ body: '', end: 'complete', rest: 'hi' });
  });
});

describe('what libcurl understands', () => {
  it.each([
    ['blanks in a name', 'A b: c', ['A b', 'c']],
    ['no name', ': c', ['', 'c']],
    ['no value', 'A:', ['A', '']],
    ['blanks around a value', 'A: \t c \t', ['A', 'c']],
    ['control characters', 'A: \x01\x7f', ['A', '\x01\x7f']],
    ['folded lines', 'A: b\r\n\t c \r\n d', ['A', 'b c d']],
    ['bytes beyond ASCII', 'A: \xe9', ['A', '\xe9']],
  ])('%s', (_what, field, header) => {
    expect(readText(`${ok}${field}\r\n${length2}\r\nhi`)).toMatchObject({
      status: 200,
      headers: [header, ['Content-Length', '2']],
      body: 'hi',
      end: 'complete',
    });
  });

  it.each(['http/1.1 200 OK', 'HTTP/1.1  200', 'HTTP/1.1 200OK', 'HTTP/2.0 200 OK', 'HTTP/1.0 200'])('%s', (line) => {
    expect(readText(`${line}\r\n${length2}\r\nhi`)).toMatchObject({ status: 200, body: 'hi', end: 'complete' });
  });

  it.each([
    'hello',
    'HTTP/1.2 200 OK\r\n',
    'HTTP/3 200\r\n',
    'HTTP/1.1 099 X\r\n',
    'HTTP/1.1 1000 X\r\n',
    'HTTP/1.1\t200 OK\r\n',
    ' HTTP/1.1 200 OK\r\n',
    '\r\n',
    'ICY 200 OK\r\n',
    'HTTP/1.1 OK\r\n',
  ])('but not %j', (line) => {
    expect(readText(line)).toMatchObject({ status: undefined, end: 'Unsupported protocol' });
  });

  it.each([
    ['no colon', 'Abc'],
    ['NUL', 'A: b\0c'],
    ['a fold before any field', ' x: y'],
    ['a length of letters', 'Content-Length: x'],
    ['no length', 'Content-Length:'],
    ['a length below nothing', 'Content-Length: -2'],
    ['two different lengths', 'Content-Length: 1\r\nContent-Length: 2'],
    ['two different lengths in one', 'Content-Length: 1, 2'],
    ['a CR in a name', 'A\rb: c'],
  ])('nor %s', (_what, field) => {
    expect(readText(`${ok}${field}\r\n\r\nhi`).end).toBe('Weird server reply');
  });

  it.each(['zz', '', ' 2', '-2', '+2', '00000000000000002', '2\r\nhiX'])('nor a chunk %j', (chunk) => {
    expect(readText(`${ok}Transfer-Encoding: chunked\r\n\r\n${chunk}\r\nhi\r\n0\r\n\r\n`).end).toBe(
      'Failure when receiving data from the peer',
    );
  });
});

/** A sound reply, what it says, and whether its end is told by the connection's. */
const soundReply = fc
  .record({
    status: fc.integer({ min: 200, max: 999 }).filter((status) => status !== 204 && status !== 304),
    fields: fc.array(
      fc.tuple(fc.stringMatching(/^X-[A-Za-z]{1,9}$/), fc.stringMatching(/^([!-~]([ -~]{0,30}[!-~])?)?$/)),
      { maxLength: 6 },
    ),
    body: fc.string({ unit: 'binary-ascii', maxLength: 300 }),
    framing: fc.constantFrom('length', 'chunks', 'close'),
    chunkSizes: fc.infiniteStream(fc.integer({ min: 1, max: 40 })),
  })
  .map(({ status, fields, body, framing, chunkSizes }) => {
    const head = `HTTP/1.1 ${status} X\r\n${fields.map(([name, value]) => `${name}: ${value}\r\n`).join('')}`;
    let text = `${head}\r\n${body}`;
    if (framing === 'length') text = `${head}Content-Length: ${body.length}\r\n\r\n${body}`;
    if (framing === 'chunks') {
      text = `${head}Transfer-Encoding: chunked\r\n\r\n`;
      for (let at = 0; at < body.length; ) {
        const chunk = body.slice(at, at + (chunkSizes.next().value ?? 1));
        text += `${chunk.length.toString(16)}\r\n${chunk}\r\n`;
        at += chunk.length;
      }
      text += '0\r\n\r\n';
    }
    return { text, status, fields, body, framing };
  });

function cut(bytes: Buffer, places: readonly number[]): Buffer[] {
  const at = [
    0,
    ...[...new Set(places.map((place) => place % (bytes.length + 1)))].sort((a, b) => a - b),
    bytes.length,
  ];
  return at.slice(1).map((end, i) => bytes.subarray(at[i], end));
}

describe('properties', () => {
  it('a sound reply is read as it was written, however it is cut', () => {
    fc.assert(
      fc.property(soundReply, fc.array(fc.nat(), { maxLength: 20 }), (reply, places) => {
        const result = read(cut(Buffer.from(reply.text, 'latin1'), places), { closed: reply.framing === 'close' });
        expect(result).toMatchObject({ status: reply.status, body: reply.body, end: 'complete', rest: '' });
        expect(result.headers.filter(([name]) => name.startsWith('X-'))).toEqual(reply.fields);
        expect(result.isReusable).toBe(reply.framing !== 'close');
      }),
      { numRuns: 2_000 },
    );
  });

  it('of no reply is a part taken for the whole, and none is read twice', () => {
    fc.assert(
      fc.property(soundReply, fc.nat(), (reply, place) => {
        const bytes = Buffer.from(reply.text, 'latin1');
        const part = bytes.subarray(0, place % bytes.length);
        const result = read([part], { closed: true });
        if (reply.framing === 'close' && result.status !== undefined)
          expect(reply.body.startsWith(result.body)).toBe(true);
        else expect(result.end).not.toBe('complete');
        expect(result.end).not.toBe('open');
        expect(result.end).not.toBe('twice');
      }),
      { numRuns: 2_000 },
    );
  });

  it('whatever bytes come, the pieces they come in do not matter', () => {
    const words = [
      'HTTP/1.1 200 OK',
      'HTTP/1.1 100 C',
      '\r\n',
      '\n',
      '\r',
      ':',
      ' ',
      '\0',
      'Content-Length: 3',
      'Transfer-Encoding: chunked',
      '0',
      '3',
      'abc',
      ';',
      'é',
    ];
    const noise = fc.array(
      fc.oneof({ weight: 4, arbitrary: fc.constantFrom(...words) }, fc.string({ unit: 'binary-ascii', maxLength: 5 })),
      { maxLength: 25 },
    );
    fc.assert(
      fc.property(noise, fc.array(fc.nat(), { maxLength: 30 }), (parts, places) => {
        const bytes = Buffer.from(parts.join(''), 'latin1');
        const whole = read([bytes], { closed: true, headBytesMax: 200 });
        expect(read(cut(bytes, places), { closed: true, headBytesMax: 200 })).toEqual(whole);
      }),
      { numRuns: 5_000 },
    );
  });
});
