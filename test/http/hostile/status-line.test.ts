import { describe, it } from 'vitest';
import { answered, ended, expectRowOfReply, failures, type HostileReply, kept, notKept, type Row } from './rows.ts';

// What a server may begin its reply with. The rows are those of libcurl 7.88.1, which pg_net uses.

const rest = 'Content-Length: 2\r\n\r\nok';
const ok = answered();

describe('a status', () => {
  it.each<[string, string, Row, HostileReply?]>([
    ['of 999', '999 X', answered({ statusCode: 999 }), kept],
    ['of 600', '600 X', answered({ statusCode: 600 }), kept],
    ['of 000', '000 X', failures.notHttp, notKept],
    ['of 099', '099 X', failures.notHttp, notKept],
    ['of 1000', '1000 X', failures.notHttp, notKept],
    ['of two digits', '20 X', failures.notHttp, notKept],
    ['of letters', 'abc X', failures.notHttp, notKept],
    ['of digits and letters', '20x X', failures.notHttp, notKept],
    ['below nothing', '-200 X', failures.notHttp, notKept],
    ['with a NUL', '2\x000 OK', failures.notHttp, notKept],
    ['that runs into the reason', '200OK', ok],
    ['without a reason', '200', ok, kept],
    ['without a reason, with its blank', '200 ', ok, kept],
    ['after two blanks', ' 200 OK', ok],
    ['that is missing', '', failures.notHttp, notKept],
    ['with a reason beyond ASCII', '200 \xc3\xa9\xff', ok, kept],
    ['with a long reason', `200 ${'x'.repeat(20_000)}`, ok, kept],
    ['with a NUL in its reason', '200 O\0K', failures.weird, notKept],
    ['with a CR in its reason', '200 O\rK', ok],
  ])('%s', async (_what, status, row, options) => {
    await expectRowOfReply(`HTTP/1.1 ${status}\r\n${rest}`, row, options);
  });
});

describe('a version', () => {
  it.each<[string, string, Row, HostileReply?]>([
    ['of 1.0', 'HTTP/1.0 200 OK', ok, notKept],
    [
      'of 1.0, to be kept',
      'HTTP/1.0 200 OK\r\nConnection: keep-alive',
      answered({ headersJson: '{"Connection":"keep-alive","Content-Length":"2"}' }),
      kept,
    ],
    ['of 0.9', 'HTTP/0.9 200 OK', failures.notHttp, notKept],
    ['of 1.2', 'HTTP/1.2 200 OK', failures.notHttp, notKept],
    ['of 1.10', 'HTTP/1.10 200 OK', failures.notHttp, notKept],
    ['of 2.0, in plain text', 'HTTP/2.0 200 OK', ok, notKept],
    ['of 2, in plain text', 'HTTP/2 200', ok, notKept],
    ['of 3', 'HTTP/3 200 OK', failures.notHttp, notKept],
    ['of 4.0', 'HTTP/4.0 200 OK', failures.notHttp, notKept],
    ['that is missing', 'HTTP/1. 200 OK', failures.notHttp, notKept],
    ['in lower case', 'http/1.1 200 OK', ok, notKept],
    ['and a tab', 'HTTP/1.1\t200 OK', failures.notHttp, notKept],
    ['and a NUL', 'HTTP/1.1\x00200 OK', failures.notHttp, notKept],
    ['and nothing', 'HTTP/1.1', failures.notHttp, notKept],
  ])('%s', async (_what, line, row, options) => {
    await expectRowOfReply(`${line}\r\n${rest}`, row, options);
  });
});

describe('before the status line', () => {
  it.each([
    ['a blank', ' '],
    ['an empty line', '\r\n'],
    ['empty lines', '\r\n\r\n'],
    ['a LF', '\n'],
    ['a byte order mark', '\xef\xbb\xbf'],
    ['a NUL', '\0'],
  ])('%s', async (_what, before) => {
    await expectRowOfReply(`${before}HTTP/1.1 200 OK\r\n${rest}`, failures.notHttp, notKept);
  });
});

describe('another protocol', () => {
  it.each<[string, string, HostileReply]>([
    ['HTTP/0.9', 'hello world\n', ended],
    ['HTTP/0.9 that does not end', 'hello world\n', notKept],
    ['two letters that no status line begins with', 'he', notKept],
    ['a page', '<html><body>hi</body></html>', ended],
    ['SSH', 'SSH-2.0-OpenSSH_9.2\r\n', notKept],
    ['SMTP', '220 mail ESMTP\r\n', notKept],
    ['Shoutcast', `ICY 200 OK\r\n${rest}`, notKept],
    ['RTSP', `RTSP/1.0 200 OK\r\n${rest}`, notKept],
    ['a name that begins as HTTP does', `HTTPS/1.1 200 OK\r\n${rest}`, notKept],
    ['the alert of a TLS server', '\x15\x03\x01\x00\x02\x02\x16', ended],
    ['the preface of HTTP/2', '\x00\x00\x12\x04\x00\x00\x00\x00\x00\x00\x03\x00\x00\x00\x80', notKept],
    ['nothing but empty lines', '\r\n\r\n\r\n', ended],
  ])('%s', async (_what, bytes, options) => {
    await expectRowOfReply(bytes, failures.notHttp, options);
  });
});
