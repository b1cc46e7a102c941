import { describe, it } from 'vitest';
import { answered, expectRowOf, failures, type HostileCase, type Row } from './rows.ts';
import { dripping, flooding, type Misbehaviour, replying, unread } from './servers.ts';

// What never ends: ended by the deadline where it comes slowly, by a limit where it comes fast.

const ok = 'HTTP/1.1 200 OK\r\n';
const chunked = `${ok}Transfer-Encoding: chunked\r\n\r\n`;

describe('the deadline ends', () => {
  it.each<[string, Misbehaviour, HostileCase['request']?]>([
    ['silence', () => undefined],
    ['silence within the status line', replying('HTTP/1.1 20')],
    ['silence within the headers', replying(`${ok}A: b\r\n`)],
    ['silence after the headers', replying(`${ok}Content-Length: 2\r\n\r\n`)],
    ['silence within the body', replying(`${ok}Content-Length: 2\r\n\r\no`)],
    ['silence within a chunk', replying(`${chunked}5\r\nabc`)],
    ['silence within the trailers', replying(`${chunked}2\r\nok\r\n0\r\nT: x\r\n`)],
    [
      'silence within the body of a redirect',
      replying(`HTTP/1.1 302 F\r\nLocation: /good\r\nContent-Length: 9\r\n\r\nx`),
    ],
    ['a status line that drips', dripping('HTTP/1.1 200 ', 'x')],
    ['headers that drip', dripping(ok, 'A: b\r\n')],
    ['one header that drips', dripping(`${ok}A: `, 'b')],
    ['a header that folds on and on', dripping(`${ok}A: b\r\n`, ' c\r\n')],
    ['a body that drips', dripping(`${ok}Content-Length: 1000000\r\n\r\n`, 'x')],
    ['a body without a length that drips', dripping(`${ok}\r\n`, 'x')],
    ['chunks that drip', dripping(chunked, '1\r\nx\r\n')],
    ['the size of a chunk that drips', dripping(`${chunked}1;`, 'x')],
    ['trailers that drip', dripping(`${chunked}0\r\n`, 'A: b\r\n')],
    ['informational replies that drip', dripping('', 'HTTP/1.1 103 E\r\nLink: </a>\r\n\r\n')],
    ['a body that is not taken', unread, { method: 'POST', body: Buffer.alloc(16 * 1024 * 1024) }],
  ])('%s', async (_what, misbehave, request) => {
    await expectRowOf(misbehave, {
      row: failures.timedOut,
      kept: false,
      ...(request === undefined ? {} : { request }),
    });
  });

  it('redirects, each after a while', async () => {
    const later: Misbehaviour = (socket) => {
      const timer = setTimeout(() => socket.write('HTTP/1.1 302 F\r\nLocation: /x\r\nContent-Length: 0\r\n\r\n'), 30);
      socket.once('close', () => clearTimeout(timer));
    };
    await expectRowOf(later, { row: failures.timedOut, kept: false });
  });
});

describe('a limit ends', () => {
  const client = { responseBytesMax: 1_000 };
  const cut = (headersJson: string): Row => answered({ headersJson, content: 'x'.repeat(1_000), truncated: true });

  it.each<[string, string, string, Row]>([
    [
      'a body of 2^62 bytes',
      `${ok}Content-Length: ${2n ** 62n}\r\n\r\n`,
      'x',
      cut(`{"Content-Length":"${2n ** 62n}"}`),
    ],
    ['a body without a length', `${ok}\r\n`, 'x', cut('{}')],
    ['a body in chunks', chunked, '8\r\nxxxxxxxx\r\n', cut('{"Transfer-Encoding":"chunked"}')],
    ['a body in one chunk', `${chunked}fffffffffff\r\n`, 'x', cut('{"Transfer-Encoding":"chunked"}')],
    ['a status line', 'HTTP/1.1 200 ', 'x', failures.headersTooLarge],
    ['one header', `${ok}A: `, 'b', failures.headersTooLarge],
    ['the name of a header', ok, 'a', failures.headersTooLarge],
    ['headers', ok, 'A: b\r\n', failures.headersTooLarge],
    ['a folded header', `${ok}A: b\r\n`, ' c\r\n', failures.headersTooLarge],
    ['a folded header of blanks', `${ok}A: b\r\n`, ' \r\n', failures.headersTooLarge],
    ['the extension of a chunk', `${chunked}1;`, 'x', failures.receive],
    ['trailers', `${chunked}0\r\n`, 'A: b\r\n', failures.receive],
    ['one trailer', `${chunked}0\r\nA: `, 'b', failures.receive],
    ['informational replies', '', 'HTTP/1.1 103 E\r\nLink: </a>\r\n\r\n', failures.headersTooLarge],
  ])('%s', async (_what, first, again, row) => {
    await expectRowOf(flooding(first, again), { row, client, kept: false });
  });

  it('what is not HTTP, at once', async () => {
    await expectRowOf(flooding('', 'garbage '), { row: failures.notHttp, client, kept: false });
  });

  it('the body of a redirect, which is followed', async () => {
    const row = answered({ headersJson: '{"Content-Length":"4"}', content: 'good' });
    const first = 'HTTP/1.1 302 F\r\nLocation: /good\r\nTransfer-Encoding: chunked\r\n\r\n';
    await expectRowOf(flooding(first, '8\r\nxxxxxxxx\r\n'), { row, client });
  });
});
