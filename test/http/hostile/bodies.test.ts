import { gzipSync } from 'node:zlib';
import { describe, expect, it } from 'vitest';
import { testClient } from '../loopback.ts';
import { answered, expectRowOfReply, rowLeftBy } from './rows.ts';
import { hostileServer, replying } from './servers.ts';

// Bodies that are not what their headers say: the row has the text as far as there is one, and the bytes where that is not all.

const latin1 = (text: string): Buffer => Buffer.from(text, 'latin1');

describe('a body whose charset lies', () => {
  it.each([
    ['UTF-8 that is Latin-1', 'text/plain; charset=utf-8', '\xff\xe9', '\uFFFD\uFFFD', false],
    ['UTF-8 that is cut within a character', 'text/plain; charset=utf-8', 'a\xc3', 'a\uFFFD', false],
    ['UTF-8 with a surrogate', 'text/plain', '\xed\xa0\x80', '\uFFFD\uFFFD\uFFFD', false],
    ['Latin-1 that is UTF-8', 'text/plain; charset=iso-8859-1', '\xc3\xa9', '\u00c3\u00a9', true],
    ['UTF-16 of three bytes', 'text/plain; charset=utf-16le', 'a\0b', 'a\uFFFD', false],
    ['Shift_JIS that is none', 'text/plain; charset=shift_jis', '\x81', '\uFFFD', false],
    ['a charset that nobody knows', 'text/plain; charset=klingon', 'ok', 'ok', false],
    ['a charset of quotation marks', 'text/plain; charset="', '\xc3\xa9', '\u00e9', false],
    ['JSON with a NUL', 'application/json', '"\0"', '"\uFFFD"', false],
    ['text that is gzip', 'text/plain', '\x1f\x8b\x08', '\x1f\uFFFD\x08', false],
  ])('%s', async (_what, contentType, bytes, content, isExact) => {
    const length = String(bytes.length);
    const row = answered({
      contentType,
      headersJson: JSON.stringify({ 'Content-Type': contentType, 'Content-Length': length }),
      content,
      contentBytes: isExact ? null : latin1(bytes),
    });
    const head = `HTTP/1.1 200 OK\r\nContent-Type: ${contentType}\r\nContent-Length: ${length}\r\n\r\n`;
    await expectRowOfReply(`${head}${bytes}`, row, { kept: true });
  });

  it('is read by the last of two Content-Types', async () => {
    const types = ['text/plain; charset=utf-8', 'text/plain; charset=iso-8859-1'];
    const row = answered({
      contentType: types[1] ?? '',
      headersJson: `{"Content-Type":"${types[0]}","Content-Type":"${types[1]}","Content-Length":"1"}`,
      content: '\u00e9',
    });
    const lines = types.map((type) => `Content-Type: ${type}\r\n`).join('');
    await expectRowOfReply(`HTTP/1.1 200 OK\r\n${lines}Content-Length: 1\r\n\r\n\xe9`, row, { kept: true });
  });
});

describe('a body whose Content-Encoding', () => {
  it.each(['gzip', 'deflate', 'br', 'zzz', 'gzip, gzip, gzip', ''])('%j lies is left as it is', async (coding) => {
    const headersJson = JSON.stringify({ 'Content-Encoding': coding, 'Content-Length': '2' });
    const bytes = `HTTP/1.1 200 OK\r\nContent-Encoding: ${coding}\r\nContent-Length: 2\r\n\r\nok`;
    await expectRowOfReply(bytes, answered({ headersJson }), { kept: true });
  });

  it('would make it ten thousand times as long is not decoded', async () => {
    const bomb = gzipSync(gzipSync(Buffer.alloc(20 * 1024 * 1024)));
    const head = `HTTP/1.1 200 OK\r\nContent-Encoding: gzip, gzip\r\nContent-Length: ${bomb.length}\r\n\r\n`;
    const server = await hostileServer(replying(head + bomb.toString('latin1')));
    const row = await rowLeftBy(testClient(), server.url);
    expect(row).toMatchObject({ statusCode: 200, truncated: false });
    expect(row.contentBytes).toEqual(bomb);
  });
});
