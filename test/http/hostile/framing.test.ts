import { describe, it } from 'vitest';
import { answered, ended, expectRowOfReply, failures, type HostileReply, notKept, type Row, reset } from './rows.ts';

// Where a body ends, when the server does not say it, says it twice, or says nonsense. The rows are those of libcurl
// 7.88.1, but for what is said; a connection is kept only where nobody could see another end.

const ok = 'HTTP/1.1 200 OK\r\n';

/** The row of an answer with just these headers. */
function having(headers: readonly (readonly [string, string])[], columns: Partial<Row> = {}): Row {
  const members = headers.map(([name, value]) => `${JSON.stringify(name)}:${JSON.stringify(value)}`);
  return answered({ headersJson: `{${members.join(',')}}`, ...columns });
}

const length = (value: string, columns: Partial<Row> = {}): Row => having([['Content-Length', value]], columns);

describe('a body', () => {
  it.each<[string, string, Row, HostileReply]>([
    ['shorter than its length', 'Content-Length: 9\r\n\r\nabc', failures.partial, ended],
    ['shorter than its length, then a reset', 'Content-Length: 9\r\n\r\nabc', failures.receive, reset],
    ['of which nothing comes', 'Content-Length: 9\r\n\r\n', failures.partial, ended],
    ['longer than its length', 'Content-Length: 2\r\n\r\nokgarbage', answered(), notKept],
    ['longer than its length, ended', 'Content-Length: 2\r\n\r\nokgarbage', answered(), ended],
    ['where there should be none', 'Content-Length: 0\r\n\r\ngarbage', length('0', { content: null }), notKept],
    ['followed by another reply', `Content-Length: 2\r\n\r\nok${ok}Content-Length: 4\r\n\r\nfake`, answered(), notKept],
    ['complete, then a reset', 'Content-Length: 2\r\n\r\nok', answered(), reset],
    ['without a length', '\r\nok', having([]), ended],
    ['without a length, to be kept', 'Connection: keep-alive\r\n\r\nok', having([['Connection', 'keep-alive']]), ended],
    ['without a length, then a reset', '\r\nok', failures.receive, reset],
    ['without a length nor an end', '\r\nok', failures.timedOut, notKept],
    ['empty, without a length', '\r\n', having([], { content: null }), ended],
  ])('%s', async (_what, bytes, row, options) => {
    await expectRowOfReply(`${ok}${bytes}`, row, options);
  });
});

describe('a Content-Length', () => {
  it.each<[string, string, Row, HostileReply]>([
    ['that is negative', '-1', failures.weird, notKept],
    ['that is a word', 'two', failures.weird, notKept],
    ['that is empty', '', failures.weird, notKept],
    ['with a plus', '+2', length('+2'), {}],
    ['with zeros before it', '0000000000000000000000002', length('0000000000000000000000002'), {}],
    ['followed by letters', '2abc', length('2abc'), notKept],
    ['followed by another number', '2 5', length('2 5'), notKept],
    ['that is no whole number', '2.5', length('2.5'), notKept],
    ['in hexadecimal, which begins with 0', '0x2', length('0x2', { content: null }), notKept],
    ['that is a list of equal ones', '2, 2', length('2, 2'), notKept],
    ['that is a list, of which libcurl takes the first', '2, 3', failures.weird, notKept],
    ['beyond 2^53', '9007199254740993', failures.partial, ended],
    ['beyond 2^62', '4611686018427387905', failures.partial, ended],
    ['of 2^63, which is none', '9223372036854775808', length('9223372036854775808'), ended],
    ['of 2^64 + 2, which is none', '18446744073709551618', length('18446744073709551618'), ended],
    ['of 40 digits, which is none', '9'.repeat(40), length('9'.repeat(40)), ended],
  ])('%s', async (_what, value, row, options) => {
    await expectRowOfReply(`${ok}Content-Length: ${value}\r\n\r\nok`, row, options);
  });

  it('with a blank before its colon, which is none to libcurl', async () => {
    await expectRowOfReply(`${ok}Content-Length : 2\r\n\r\nok`, having([['Content-Length ', '2']]), notKept);
  });
});

describe('two lengths', () => {
  it.each<[string, string, string, Row, HostileReply]>([
    ['that are equal', '2', '2', having([...lengths('2', '2')]), {}],
    // libcurl takes the last one.
    ['of which the last is the longer one', '1', '2', failures.weird, notKept],
    ['of which the last is the shorter one', '2', '1', failures.weird, notKept],
    ['of which the last is a word', '2', 'x', failures.weird, notKept],
    ['of which the last is negative', '2', '-2', failures.weird, notKept],
  ])('%s', async (_what, first, second, row, options) => {
    await expectRowOfReply(`${ok}Content-Length: ${first}\r\nContent-Length: ${second}\r\n\r\nok`, row, options);
  });

  it('of which one is in a HEAD', async () => {
    const bytes = `${ok}Content-Length: 5\r\nContent-Length: 6\r\n\r\n`;
    const row = having(lengths('5', '6'), { content: null });
    await expectRowOfReply(bytes, row, { request: { method: 'HEAD' } });
  });
});

function lengths(...values: readonly string[]): (readonly [string, string])[] {
  return values.map((value) => ['Content-Length', value]);
}

describe('a Transfer-Encoding', () => {
  const chunks = '2\r\nok\r\n0\r\n\r\n';
  const coded = (value: string, columns: Partial<Row> = {}): Row => having([['Transfer-Encoding', value]], columns);

  it.each<[string, string, string, Row, HostileReply]>([
    ['in capitals', 'CHUNKED', chunks, coded('CHUNKED'), {}],
    ['of identity: to the end', 'identity', 'ok', coded('identity'), ended],
    ['that is unknown', 'frobnicate', 'ok', failures.badCoding, notKept],
    ['that is empty: to the end', '', 'ok', coded(''), ended],
    ['"chunked, gzip" that is no gzip', 'chunked, gzip', chunks, failures.badCoding, notKept],
    ['"gzip, chunked" that is no gzip', 'gzip, chunked', chunks, failures.badCoding, notKept],
    ['"gzip" that is no gzip', 'gzip', 'ok', failures.badCoding, ended],
    ['of six codings', 'gzip, gzip, gzip, gzip, gzip, gzip', chunks, failures.badCoding, notKept],
    ['"xchunked"', 'xchunked', chunks, failures.badCoding, notKept],
    ['"chunkedx"', 'chunkedx', chunks, failures.badCoding, notKept],
    ['"chunked;a=b"', 'chunked;a=b', chunks, failures.badCoding, notKept],
    ['in quotation marks', '"chunked"', chunks, failures.badCoding, notKept],
    ['after a vertical tab', '\x0bchunked', chunks, failures.badCoding, notKept],
    ['"chunked, chunked"', 'chunked, chunked', chunks, coded('chunked, chunked'), notKept],
  ])('%s', async (_what, value, body, row, options) => {
    await expectRowOfReply(`${ok}Transfer-Encoding: ${value}\r\n\r\n${body}`, row, options);
  });

  it.each<[string, string, Row, HostileReply]>([
    [
      'twice',
      `Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n${chunks}`,
      having([
        ['Transfer-Encoding', 'chunked'],
        ['Transfer-Encoding', 'chunked'],
      ]),
      notKept,
    ],
    [
      'twice, of two kinds',
      `Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n${chunks}`,
      failures.badCoding,
      notKept,
    ],
    [
      'with a blank before its colon, which is none to libcurl',
      `Transfer-Encoding : chunked\r\n\r\n${chunks}`,
      having([['Transfer-Encoding ', 'chunked']]),
      notKept,
    ],
    [
      'after a length',
      `Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n${chunks}`,
      having([
        ['Content-Length', '5'],
        ['Transfer-Encoding', 'chunked'],
      ]),
      notKept,
    ],
    [
      'before a length',
      `Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n${chunks}`,
      having([
        ['Transfer-Encoding', 'chunked'],
        ['Content-Length', '5'],
      ]),
      notKept,
    ],
    [
      'with a negative length',
      `Content-Length: -5\r\nTransfer-Encoding: chunked\r\n\r\n${chunks}`,
      failures.weird,
      notKept,
    ],
    [
      'of identity with a length',
      'Transfer-Encoding: identity\r\nContent-Length: 2\r\n\r\nok',
      having([
        ['Transfer-Encoding', 'identity'],
        ['Content-Length', '2'],
      ]),
      ended,
    ],
  ])('%s', async (_what, bytes, row, options) => {
    await expectRowOfReply(`${ok}${bytes}`, row, options);
  });

  it('in HTTP/1.0', async () => {
    await expectRowOfReply(`HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n${chunks}`, coded('chunked'), notKept);
  });
});
