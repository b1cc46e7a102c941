import { describe, it } from 'vitest';
import {
  answered,
  ended,
  expectRowOfReply,
  failures,
  type HostileReply,
  kept,
  notKept,
  type Row,
  reset,
} from './rows.ts';

// Chunked bodies that are not as they should be. The rows are those of libcurl 7.88.1, but for what is said.

const chunked = 'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n';
const ok = answered({ headersJson: '{"Transfer-Encoding":"chunked"}' });
const body = (content: string): Row => ({ ...ok, content });

describe('a chunked body', () => {
  it.each<[string, string, Row, HostileReply]>([
    ['of single bytes', '1\r\no\r\n1\r\nk\r\n0\r\n\r\n', ok, kept],
    ['of nothing', '0\r\n\r\n', { ...ok, content: null }, kept],
    ['cut within a chunk', '5\r\nabc', failures.partial, ended],
    ['cut after the data of a chunk', '3\r\nabc', failures.partial, ended],
    ['cut after a chunk', '3\r\nabc\r\n', failures.partial, ended],
    ['cut within a size', '3\r\nabc\r\n3', failures.partial, ended],
    ['cut after the last size', '3\r\nabc\r\n0\r\n', failures.partial, ended],
    ['cut within the trailers', '2\r\nok\r\n0\r\nT: x\r\n', failures.partial, ended],
    ['cut before it begins', '', failures.partial, ended],
    ['reset within a chunk', '5\r\nabc', failures.receive, reset],
    ['reset after the last size', '3\r\nabc\r\n0\r\n', failures.receive, reset],
    ['followed by garbage', '2\r\nok\r\n0\r\n\r\ngarbage', ok, notKept],
    ['of lines that end in LF alone', '2\nok\n0\n\n', ok, {}],
    ['of lines that end in CR alone', '2\rok\r0\r\r', failures.partial, ended],
    ['with two CR after the data', '2\r\nok\r\r\n0\r\n\r\n', ok, notKept],
    ['without CR LF after the data', '2\r\nok0\r\n\r\n', failures.receive, notKept],
    ['with more data than its size', '2\r\noking\r\n0\r\n\r\n', failures.receive, notKept],
    ['with a CR and something else after the data', '2\r\nok\rX0\r\n\r\n', failures.receive, notKept],
    [
      'of NUL and 0xFF',
      '3\r\n\0\xff\0\r\n0\r\n\r\n',
      { ...body('\uFFFD\uFFFD\uFFFD'), contentBytes: Buffer.from('\0\xff\0', 'latin1') },
      kept,
    ],
  ])('%s', async (_what, bytes, row, options) => {
    await expectRowOfReply(`${chunked}${bytes}`, row, options);
  });
});

describe('the size of a chunk', () => {
  it.each<[string, string, Row, HostileReply]>([
    ['that is negative', '-2', failures.receive, notKept],
    ['with a plus', '+2', failures.receive, notKept],
    ['of letters', 'zz', failures.receive, notKept],
    ['that is missing', '', failures.receive, notKept],
    ['that is an extension alone', ';a=b', failures.receive, notKept],
    ['after a blank', ' 2', failures.receive, notKept],
    ['before a blank', '2 ', ok, {}],
    ['before blanks and an extension', '2  ; a=b', ok, {}],
    ['in 16 digits', '0000000000000002', ok, {}],
    ['in 17 digits', '00000000000000002', failures.receive, notKept],
    ['of 2^64 - 1', 'ffffffffffffffff', failures.receive, notKept],
    ['of 17 digits that overflow to 2', '10000000000000002', failures.receive, notKept],
    ['of 2^62 - 1', '3fffffffffffffff', failures.partial, ended],
    ['beyond 2^53', '20000000000002', failures.partial, ended],
    ['before a letter', '2g', ok, notKept],
    ['with an extension', '2;a=b', ok, kept],
    ['with an extension in quotation marks', '2;a="b;c"', ok, kept],
    ['with an extension whose quotation mark is left open', '2;a="b', ok, {}],
    ['with an extension that has a CR', '2;a\rb', ok, notKept],
    ['before a NUL', '2\0', ok, notKept],
    ['before two CR', '2\r', ok, notKept],
    ['before a CR and an extension', '2\r;a', ok, notKept],
    ['before a tab', '2\t', ok, {}],
  ])('%s', async (_what, size, row, options) => {
    await expectRowOfReply(`${chunked}${size}\r\nok\r\n0\r\n\r\n`, row, options);
  });

  it.each<[string, string, Row, HostileReply]>([
    ['in capitals', 'A\r\n0123456789\r\n0\r\n\r\n', body('0123456789'), kept],
    ['that is the last one, of several zeros', '2\r\nok\r\n000\r\n\r\n', ok, {}],
    ['that is the last one, with an extension', '2\r\nok\r\n0;x\r\n\r\n', ok, kept],
    ['in C notation, which is the last one', '0x2\r\nok\r\n0\r\n\r\n', failures.receive, notKept],
  ])('%s', async (_what, bytes, row, options) => {
    await expectRowOfReply(`${chunked}${bytes}`, row, options);
  });
});

describe('trailers', () => {
  it.each<[string, string, Row, HostileReply]>([
    ['are not headers', 'T: x\r\nU: y\r\n\r\n', ok, kept],
    ['do not change where the body ends', 'Content-Length: 99\r\nTransfer-Encoding: gzip\r\n\r\n', ok, {}],
    ['may end in LF alone', 'T: x\n\n', ok, {}],
    ['may fold', 'T: x\r\n y\r\n\r\n', ok, {}],
    ['that are none', 'garbage\r\n\r\n', failures.receive, notKept],
    ['may be a few hundred', `${'T: x\r\n'.repeat(300)}\r\n`, ok, {}],
  ])('%s', async (_what, lines, row, options) => {
    await expectRowOfReply(`${chunked}2\r\nok\r\n0\r\n${lines}`, row, options);
  });
});
