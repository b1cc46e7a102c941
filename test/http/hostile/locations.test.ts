import { describe, expect, it } from 'vitest';
import { httpServer, testClient } from '../loopback.ts';
import { answered, expectRow, expectRowOf, failures, type Row, rowLeftBy } from './rows.ts';
import { hostileServer, inTurn, type Misbehaviour, replying } from './servers.ts';

// Where a hostile server sends a client. URLs are read as browsers read them (WHATWG), Locations beyond ASCII as UTF-8.

/** Redirects to what `location` makes of the server's own host and port. */
function redirecting(location: string): Misbehaviour {
  return (socket) => {
    const here = location.replaceAll('HERE', `127.0.0.1:${socket.localPort}`);
    socket.write(`HTTP/1.1 302 F\r\n${here}\r\nContent-Length: 2\r\n\r\nok`, 'latin1');
  };
}

/** Replies with the first line of the request and what it has of credentials. */
const telling: Misbehaviour = (socket, arrived) => {
  const told = arrived.split(' HTTP/')[0] + (/\r\n(Authorization: [^\r]*)/i.exec(arrived)?.[1] ?? '');
  socket.write(`HTTP/1.1 200 OK\r\nContent-Length: ${told.length}\r\n\r\n${told}`);
};

describe('a Location', () => {
  it.each([
    ['that is a path', 'Location: /x', '/x'],
    ['that is relative', 'Location: x', '/dir/x'],
    ['that is a host', 'Location: //HERE/x', '/x'],
    ['that is a query', 'Location: ?q', '/dir/file?q'],
    ['that is a fragment', 'Location: #f', '/dir/file?a=b'],
    ['with a fragment', 'Location: /x#f', '/x'],
    ['in capitals', 'LOCATION: HTTP://HERE/x', '/x'],
    ['with blanks around it', 'Location:  \t /x \t ', '/x'],
    ['with blanks in it', 'Location: /a b c', '/a%20b%20c'],
    ['in UTF-8', 'Location: /\xc3\xa9', '/%C3%A9'],
    ['with a backslash', 'Location: \\x', '/x'],
    ['of backslashes', 'Location: http:\\\\HERE\\x', '/x'],
    ['with one slash after the scheme, which makes a path', 'Location: http:/x', '/x'],
    ['with no slash after the scheme', 'Location: http:x', '/dir/x'],
    ['with four slashes after the scheme', 'Location: http:////HERE/x', '/x'],
    ['that climbs', 'Location: /a/../b/./c/../../x', '/x'],
    ['that climbs out', 'Location: ../../../../x', '/x'],
    ['that climbs in percent', 'Location: /a/%2e%2E/x', '/x'],
    ['with credentials, which are the server\u2019s', 'Location: http://a:b@HERE/x', '/x'],
    ['that is given twice', 'Location: /x\r\nLocation: /y', '/x'],
    ['that is a list', 'Location: /x, /y', '/x,%20/y'],
    ['with a control', 'Location: /a\x01b', '/a%01b'],
    ['with a tab', 'Location: /a\tb', '/ab'],
    ['in quotation marks', 'Location: "/x"', '/dir/%22/x%22'],
    ['with bad percents', 'Location: /%zz%', '/%zz%'],
    ['of 60,000 bytes', `Location: /${'x'.repeat(60_000)}`, `/${'x'.repeat(60_000)}`],
    ['whose host is a number', 'Location: http://2130706433:PORT/x', '/x'],
    ['whose host is hexadecimal', 'Location: http://0x7f.1:PORT/x', '/x'],
  ])('%s', async (_what, location, path) => {
    const server = await hostileServer(
      inTurn((socket, arrived) => {
        redirecting(location.replaceAll('PORT', String(socket.localPort)))(socket, arrived);
      }, telling),
    );
    const told = `GET ${path}`;
    const row = answered({ headersJson: `{"Content-Length":"${told.length}"}`, content: told });
    await expectRow(server, { row, request: { path: '/dir/file?a=b' } });
  });

  it('of 70,000 bytes', async () => {
    await expectRowOf(redirecting(`Location: /${'x'.repeat(70_000)}`), { row: failures.invalidUrl });
  });

  it.each([
    ['that is empty', 'Location:', ''],
    ['of blanks', 'Location:   ', ''],
  ])('%s redirects nowhere', async (_what, location, value) => {
    const row = answered({ statusCode: 302, headersJson: JSON.stringify({ Location: value, 'Content-Length': '2' }) });
    await expectRowOf(redirecting(location), { row, kept: true });
  });

  it.each<[string, Row]>([
    ['javascript:alert(1)', failures.unsupportedScheme],
    ['data:text/plain,x', failures.unsupportedScheme],
    ['ftp://HERE/', failures.unsupportedScheme],
    ['file:///etc/passwd', failures.unsupportedScheme],
    ['ws://HERE/', failures.unsupportedScheme],
    ['mailto:a@b', failures.unsupportedScheme],
    ['a:b', failures.unsupportedScheme],
    ['unix:/run/x.sock', failures.unsupportedScheme],
    ['http://', failures.invalidUrl],
    ['http://[::1/', failures.invalidUrl],
    ['http://127.0.0.1:99999/', failures.invalidUrl],
    ['http://127.0.0.1:http/', failures.invalidUrl],
    ['http://256.256.256.256/', failures.invalidUrl],
    ['http://a b/', failures.invalidUrl],
    ['http://%00/', failures.invalidUrl],
    ['http://127.0.0.1:0/', failures.connect],
    ['http:///x.example', failures.unresolvable],
    ['///x.example', failures.unresolvable],
    ['/go\0od', failures.weird],
  ])('%j', async (location, row) => {
    const lookup = () => Promise.reject(new Error('unknown'));
    await expectRowOf(redirecting(`Location: ${location}`), { row, client: { lookup } });
  });
});

describe('redirects', () => {
  const final = 'HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok';
  const again = replying('HTTP/1.1 307 T\r\nLocation: ?again\r\nContent-Length: 0\r\n\r\n');

  it.each([
    [30, answered()],
    [31, failures.tooManyRedirects],
  ])('%i of them', async (count, row) => {
    const chain = Array.from({ length: count - 1 }, () => again);
    const server = await hostileServer(inTurn(again, ...chain, replying(final)));
    await expectRow(server, { row, request: { method: 'POST', body: 'x' } });
    expect(server.misbehaved()).toBe(31);
  });

  it('to itself', async () => {
    const server = await hostileServer(again);
    await expectRow(server, { row: failures.tooManyRedirects });
    expect(server.misbehaved()).toBe(31);
  });

  it('to and fro', async () => {
    let there = '';
    const here = await httpServer((_incoming, response) => response.writeHead(302, { Location: there }).end());
    const other = await httpServer((_incoming, response) => response.writeHead(301, { Location: here.url }).end());
    there = other.url;
    expect(await rowLeftBy(testClient(), here.url)).toEqual(failures.tooManyRedirects);
  });

  it('whose body is cut are followed no further', async () => {
    const cut = replying('HTTP/1.1 302 F\r\nLocation: /good\r\nContent-Length: 9\r\n\r\nx', 'end');
    await expectRowOf(cut, { row: failures.partial, kept: false });
  });

  it('of other statuses are replies', async () => {
    for (const status of [300, 304, 305, 306, 309]) {
      const bytes = `HTTP/1.1 ${status} X\r\nLocation: /good\r\nContent-Length: 0\r\n\r\n`;
      const row = await rowLeftBy(testClient(), (await hostileServer(replying(bytes))).url);
      expect(row).toMatchObject({ statusCode: status, content: null });
    }
  });
});
