import { describe, it } from 'vitest';
import {
  answered,
  ended,
  expectRowOf,
  expectRowOfReply,
  failures,
  type HostileReply,
  notKept,
  type Row,
} from './rows.ts';
import { dripping } from './servers.ts';

// Replies that have no body, and those before the reply. The rows are those of libcurl 7.88.1, but for what is said.

const ok = 'HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok';

describe('before the reply', () => {
  it.each<[string, string, HostileReply?]>([
    ['100', 'HTTP/1.1 100 Continue\r\n\r\n'],
    ['100 with a length', 'HTTP/1.1 100 Continue\r\nContent-Length: 5\r\n\r\n'],
    ['100 with chunks', 'HTTP/1.1 100 Continue\r\nTransfer-Encoding: chunked\r\n\r\n'],
    ['100 with Connection: close', 'HTTP/1.1 100 Continue\r\nConnection: close\r\n\r\n'],
    ['100 with a Location', 'HTTP/1.1 100 Continue\r\nLocation: /x\r\n\r\n'],
    ['100 of HTTP/1.0', 'HTTP/1.0 100 Continue\r\n\r\n'],
    ['100 without a reason', 'HTTP/1.1 100\r\n\r\n'],
    ['500 times 100', 'HTTP/1.1 100 Continue\r\n\r\n'.repeat(500)],
    ['102', 'HTTP/1.1 102 Processing\r\n\r\n'],
    ['103', 'HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n'],
    ['199', 'HTTP/1.1 199 Odd\r\n\r\n'],
    ['100 and 103', 'HTTP/1.1 100 C\r\n\r\nHTTP/1.1 103 E\r\nA: b\r\n\r\nHTTP/1.1 103 E\r\nC: d\r\n\r\n'],
  ])('%s is passed over', async (_what, before, options) => {
    await expectRowOfReply(`${before}${ok}`, answered(), options);
  });

  it.each<[string, string, Row, HostileReply]>([
    ['100 and nothing else', 'HTTP/1.1 100 Continue\r\n\r\n', failures.empty, ended],
    ['100 and nothing else, for ever', 'HTTP/1.1 100 Continue\r\n\r\n', failures.timedOut, notKept],
    ['100 and then garbage', 'HTTP/1.1 100 Continue\r\n\r\ngarbage', failures.notHttp, notKept],
    ['100 with a header without a colon', `HTTP/1.1 100 Continue\r\ncolonless\r\n\r\n${ok}`, failures.weird, notKept],
  ])('%s', async (_what, bytes, row, options) => {
    await expectRowOfReply(bytes, row, options);
  });

  it('100 without end', async () => {
    await expectRowOf(dripping('', 'HTTP/1.1 100 Continue\r\n\r\n'), { row: failures.timedOut, kept: false });
  });
});

describe('a reply without a body', () => {
  it.each<[string, string, string, Partial<Row>, HostileReply]>([
    ['204', 'GET', 'HTTP/1.1 204 N\r\n\r\n', { headersJson: '{}' }, { kept: true }],
    ['204 with a length', 'GET', 'HTTP/1.1 204 N\r\nContent-Length: 5\r\n\r\n', {}, notKept],
    ['204 with a length and a body', 'GET', 'HTTP/1.1 204 N\r\nContent-Length: 5\r\n\r\nhello', {}, notKept],
    ['204 and another reply', 'GET', `HTTP/1.1 204 N\r\nContent-Length: 5\r\n\r\n${ok}`, {}, notKept],
    [
      '204 with chunks',
      'GET',
      'HTTP/1.1 204 N\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n',
      { headersJson: '{"Transfer-Encoding":"chunked"}' },
      notKept,
    ],
    [
      '304 with two lengths',
      'GET',
      'HTTP/1.1 304 N\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n',
      { headersJson: '{"Content-Length":"5","Content-Length":"6"}' },
      notKept,
    ],
    ['304 with a length', 'GET', 'HTTP/1.1 304 N\r\nContent-Length: 5\r\n\r\n', {}, { kept: true }],
    ['304 with a length and a body', 'GET', 'HTTP/1.1 304 N\r\nContent-Length: 5\r\n\r\nhello', {}, notKept],
    ['HEAD with a length', 'HEAD', 'HTTP/1.1 200 N\r\nContent-Length: 5\r\n\r\n', {}, { kept: true }],
    ['HEAD with a length and a body', 'HEAD', 'HTTP/1.1 200 N\r\nContent-Length: 5\r\n\r\nhello', {}, notKept],
    [
      'HEAD with chunks',
      'HEAD',
      'HTTP/1.1 200 N\r\nTransfer-Encoding: chunked\r\n\r\n',
      { headersJson: '{"Transfer-Encoding":"chunked"}' },
      { kept: true },
    ],
    ['HEAD without a length', 'HEAD', 'HTTP/1.1 200 N\r\n\r\n', { headersJson: '{}' }, {}],
    [
      'HEAD with a length of 20 digits',
      'HEAD',
      'HTTP/1.1 200 N\r\nContent-Length: 99999999999999999999\r\n\r\n',
      { headersJson: '{"Content-Length":"99999999999999999999"}' },
      {},
    ],
  ])('%s', async (_what, method, bytes, columns, options) => {
    const statusCode = Number(bytes.slice(9, 12));
    const row = answered({ statusCode, headersJson: '{"Content-Length":"5"}', content: null, ...columns });
    await expectRowOfReply(bytes, row, { request: { method }, ...options });
  });

  it('205, which may have one', async () => {
    await expectRowOfReply('HTTP/1.1 205 R\r\nContent-Length: 2\r\n\r\nok', answered({ statusCode: 205 }), {});
  });
});

describe('a switch of protocols that nobody asked for', () => {
  const switching = 'HTTP/1.1 101 S\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n';
  const headersJson = '{"Upgrade":"x","Connection":"upgrade"}';
  it.each([
    ['what looks like a reply', ok, ok],
    ['another protocol', 'abc', 'abc'],
  ])('is an answer, and %s behind it its body, as libcurl has it', async (_what, rest, content) => {
    await expectRowOfReply(switching + rest, answered({ statusCode: 101, headersJson, content }), ended);
  });

  it('is none if nothing follows', async () => {
    await expectRowOfReply(switching, failures.empty, ended);
    await expectRowOfReply(switching, failures.timedOut, notKept);
  });
});
