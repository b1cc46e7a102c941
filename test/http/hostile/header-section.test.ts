import { describe, it } from 'vitest';
import { answered, expectRowOfReply, failures, type HostileReply, notKept, type Row } from './rows.ts';

// Header sections that are not as they should be. The rows are those of libcurl 7.88.1, but for what is said.

const ok = 'HTTP/1.1 200 OK\r\n';
const rest = 'Content-Length: 2\r\n\r\nok';

/** The row of an answer with these headers before its Content-Length. */
function having(...headers: readonly (readonly [string, string])[]): Row {
  const members = [...headers, ['Content-Length', '2']].map(
    ([name, value]) => `${JSON.stringify(name)}:${JSON.stringify(value)}`,
  );
  return answered({ headersJson: `{${members.join(',')}}` });
}

describe('lines', () => {
  it.each<[string, string, Row, HostileReply?]>([
    ['that end in LF alone', 'HTTP/1.1 200 OK\nA: b\nContent-Length: 2\n\nok', having(['A', 'b'])],
    ['that end in LF now and then', `${ok}A: b\nContent-Length: 2\r\n\nok`, having(['A', 'b'])],
    [
      'that end in CR alone',
      'HTTP/1.1 200 OK\rContent-Length: 2\r\rok',
      failures.empty,
      { afterwards: 'end', kept: false },
    ],
    ['that end in CR CR LF', 'HTTP/1.1 200 OK\r\r\nA: b\r\r\nContent-Length: 2\r\r\n\r\r\nok', having(['A', 'b'])],
    ['of which the empty one is CR CR LF', `${ok}Content-Length: 2\r\n\r\r\nok`, answered()],
  ])('%s', async (_what, bytes, row, options) => {
    await expectRowOfReply(bytes, row, options);
  });
});

describe('a header', () => {
  it.each<[string, string, Row, HostileReply?]>([
    ['with an empty value', 'A:\r\nB: \r\n', having(['A', ''], ['B', ''])],
    ['without a blank', 'A:b\r\n', having(['A', 'b'])],
    ['with blanks around its value', 'A:  \t b \t \r\n', having(['A', 'b'])],
    ['whose value has colons', 'A: ::b: c:\r\n', having(['A', '::b: c:'])],
    ['with a CR in its value, which ends there', 'A: b\rX: c\r\n', having(['A', 'b'])],
    ['with a CR in its name', 'A\rB: c\r\n', failures.weird, notKept],
    ['with a NUL in its value', 'A: b\0c\r\n', failures.weird, notKept],
    ['with a NUL in its name', 'A\0B: c\r\n', failures.weird, notKept],
    ['with controls in its value', 'A: b\x01\x7f\x1bc\r\n', having(['A', 'b\x01\x7f\x1bc'])],
    ['whose value ends in what other alphabets trim', 'A: \xa0b\xc3\xa0\r\n', having(['A', '\xa0b\xc3\xa0'])],
    ['without a colon', 'colonless\r\n', failures.weird, notKept],
    ['without a colon, after another one', 'A: b\r\ncolon less\r\n', failures.weird, notKept],
    ['without a name', ': b\r\n', having(['', 'b'])],
    ['with a blank in its name', 'A B: c\r\n', having(['A B', 'c'])],
    ['with a blank before its colon', 'A : c\r\n', having(['A ', 'c'])],
    ['with separators in its name', '(a)@<b>: c\r\n', having(['(a)@<b>', 'c'])],
    ['named __proto__', '__proto__: c\r\nconstructor: d\r\n', having(['__proto__', 'c'], ['constructor', 'd'])],
    ['repeated', 'A: 1\r\na: 2\r\nA: 3\r\n', having(['A', '1'], ['a', '2'], ['A', '3'])],
    ['that is a second status line', 'HTTP/1.1 500 Again\r\n', failures.weird, notKept],
    ['with a name of 20,000 bytes', `${'n'.repeat(20_000)}: b\r\n`, having(['n'.repeat(20_000), 'b'])],
    ['with a value of 60,000 bytes', `A: ${'x'.repeat(60_000)}\r\n`, having(['A', 'x'.repeat(60_000)])],
  ])('%s', async (_what, line, row, options) => {
    await expectRowOfReply(`${ok}${line}${rest}`, row, options);
  });

  it('among 1,000', async () => {
    const names = Array.from({ length: 1_000 }, (_, i) => `H${i}`);
    const lines = names.map((name) => `${name}: v\r\n`).join('');
    await expectRowOfReply(`${ok}${lines}${rest}`, having(...names.map((name) => [name, 'v'] as const)), {
      kept: true,
    });
  });
});

describe('headers of a few bytes each', () => {
  it.each<[string, number, Row]>([
    ['5,000 of them', 4_999, having(...Array.from({ length: 4_999 }, () => ['a', ''] as const))],
    ['more than that, which libcurl takes', 5_000, failures.headersTooLarge],
  ])('%s', async (_what, count, row) => {
    await expectRowOfReply(`${ok}${'a:\n'.repeat(count)}${rest}`, row, notKept);
  });
});

describe('a folded header', () => {
  it.each<[string, string, Row, HostileReply?]>([
    ['by a blank', 'A: b\r\n c\r\n', having(['A', 'b c'])],
    ['by a tab and blanks', 'A: b\r\n\t  c\r\n', having(['A', 'b c'])],
    ['twice', 'A: b  \r\n  c \r\n d\r\n', having(['A', 'b c d'])],
    ['by an empty line', 'A: b\r\n \r\n', having(['A', 'b'])],
    ['before there is any', ' A: b\r\n', failures.weird, notKept],
  ])('%s', async (_what, lines, row, options) => {
    await expectRowOfReply(`${ok}${lines}${rest}`, row, options);
  });

  it('that is the length, which is none to libcurl', async () => {
    await expectRowOfReply(`${ok}Content-Length:\r\n 2\r\n\r\nok`, answered(), notKept);
  });
});

describe('Connection', () => {
  it.each([
    ['Connection: close', false],
    ['Connection: Keep-Alive, close', false],
    ['Connection: keep-alive\r\nConnection: close', false],
    ['connection: CLOSE', false],
    ['Keep-Alive: timeout=0', undefined],
    ['Connection: keep-alive', true],
    ['Connection: closed', undefined],
  ])('%s', async (lines, kept) => {
    const headers = lines.split('\r\n').map((line) => line.split(': ') as [string, string]);
    await expectRowOfReply(`${ok}${lines}\r\n${rest}`, having(...headers), kept === undefined ? {} : { kept });
  });
});
