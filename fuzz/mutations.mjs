// What spoils a reply: bytes changed, lost, doubled and moved, and lines and numbers put in that servers have been seen to send.

const nasty = [
  ...[
    '\0',
    '\r',
    '\n',
    '\r\n',
    '\r\r\n',
    '\n\n',
    ' ',
    '\t',
    ':',
    ';',
    ',',
    '\xff',
    '-',
    '+',
    '0',
    'f',
    '"',
    '\x0b',
    '\xa0',
  ],
  ...[
    'HTTP/1.1 200 OK\r\n',
    'HTTP/1.1 100 Continue\r\n\r\n',
    'HTTP/1.1 101 S\r\n\r\n',
    'HTTP/2 200\r\n',
    'http/1.0 200\n',
  ],
  ...[
    '\r\n\r\n',
    '0\r\n\r\n',
    '5\r\nabcde\r\n',
    '\r\n folded',
    '\r\n\t',
    ' \r\n',
    'ffffffffffffffff',
    '7fffffffffffffff',
  ],
];

const lines = [
  ...['Content-Length: 0', 'Content-Length: 5', 'Content-Length: -1', 'Content-Length: 1, 1', 'Content-Length: 1, 2'],
  ...['Content-Length : 3', 'Content-Length: 9999999999999999999999', 'Content-Length: 0x10', 'Content-Length: +4'],
  ...['Content-Length:', 'Content-Length: 4 4', 'content-length:\r\n 3', 'Content-Length: 9007199254740993'],
  ...[
    'Transfer-Encoding: chunked',
    'Transfer-Encoding: identity',
    'Transfer-Encoding: gzip, chunked',
    'Transfer-Encoding:',
  ],
  ...[
    'Transfer-Encoding: chunked, identity',
    'Transfer-Encoding : chunked',
    'Transfer-Encoding: \x0bchunked',
    'TE: chunked',
  ],
  ...['Transfer-Encoding: xchunked', 'Transfer-Encoding: chunked\r\n\t, gzip', 'Transfer-Encoding\r\n : chunked'],
  ...[
    'Connection: close',
    'Connection: keep-alive',
    'Connection: upgrade',
    'Keep-Alive: timeout=0',
    'Keep-Alive: timeout=-1',
  ],
  ...[
    'Keep-Alive: timeout=99999999999',
    'Upgrade: h2c',
    'Trailer: X',
    'Proxy-Connection: close',
    'Content-Encoding: gzip',
  ],
  ...[
    'Location: /',
    'Location: ',
    'Location: //',
    'Location: http://',
    'Location: /\0',
    'Location: javascript:0',
    'Location: \xff',
  ],
  ...[
    'Location: http://other.example/x',
    'Location: http://[::1',
    'Location: ?a b',
    'Location: https://s.example/',
    'Location: #',
  ],
  ...[
    'no colon',
    ': no name',
    ' folded',
    '\tfolded',
    'A B: c',
    'A\0: b',
    'A: b\0',
    'A: b\rc: d',
    '__proto__: x',
    '\xff: \xff',
  ],
  ...[
    'Content-Type: text/plain; charset=utf-16',
    'Content-Type: text/plain; charset="',
    'Content-Type: \xff/\0;;;=;charset',
  ],
];

const statusLines = [
  ...[
    'HTTP/1.1 302 F',
    'HTTP/1.1 307 T',
    'HTTP/1.1 204 N',
    'HTTP/1.1 304 N',
    'HTTP/1.1 101 S',
    'HTTP/1.1 100 C',
    'HTTP/1.1 099 X',
  ],
  ...[
    'HTTP/1.1 1000 X',
    'HTTP/1.1',
    'HTTP/1.1 ',
    'HTTP/1.1  200',
    'HTTP/1.1 200OK',
    'HTTP/1.0 200',
    'HTTP/2 200',
    'HTTP/3 200',
  ],
  ...[
    'http/1.1 200',
    'ICY 200 OK',
    '',
    ' HTTP/1.1 200 OK',
    '\r\nHTTP/1.1 200 OK',
    'HTTP/1.1 2\x000 OK',
    'HTTP/1.1 999 X',
    'HTTP/1.1 000 X',
  ],
];

const kinds = [
  [6, (_random, bytes, at) => bytes.slice(0, at) + bytes.slice(at + 1)],
  [8, (random, bytes, at) => bytes.slice(0, at) + random.pick(nasty) + bytes.slice(at)],
  [6, (random, bytes, at) => bytes.slice(0, at) + random.pick(nasty) + bytes.slice(at + 1)],
  [4, (random, bytes, at) => bytes.slice(0, at) + String.fromCharCode(random.between(0, 255)) + bytes.slice(at + 1)],
  [4, (random, bytes, at) => bytes.slice(0, at) + bytes.slice(at + random.between(1, 40))],
  [4, (random, bytes, at) => bytes.slice(0, at) + bytes.slice(Math.max(0, at - random.between(1, 40)))],
  [5, (_random, bytes, at) => bytes.slice(0, at)],
  [10, insertLine],
  [5, (random, bytes) => random.pick(statusLines) + bytes.slice(Math.max(0, bytes.search(/[\r\n]/)))],
  [
    3,
    (random, bytes) =>
      bytes.replace(/\r\n/g, (eol) => (random.chance(0.2) ? random.pick(['\n', '\r', '\r\r\n', '']) : eol)),
  ],
  [3, (random, bytes) => bytes.replace(/\d+/g, (digits) => (random.chance(0.3) ? number(random, digits) : digits))],
  [3, doubleLine],
  [
    1,
    (random, bytes, at) => bytes.slice(0, at) + random.pick(nasty).repeat(random.between(2, 3_000)) + bytes.slice(at),
  ],
  [0.3, (random, bytes) => insertLine(random, bytes, 0, random.between(100, 6_000))],
];

/**
 * Spoils a reply, in one to four ways.
 *
 * @param {string} other a reply that may follow it, though nobody asked
 */
export function spoilt(random, bytes, other) {
  let made = bytes;
  for (
    let ways = random.weighted([
      [6, 1],
      [3, 2],
      [1, 4],
    ]);
    ways > 0;
    ways--
  ) {
    const kind = random.weighted(kinds);
    made = kind(random, made, random.between(0, made.length));
  }
  return random.chance(0.1) ? made + other : made;
}

function insertLine(random, bytes, _at, times = 1) {
  const ends = lineEnds(bytes);
  const at = ends.length === 0 ? 0 : random.pick(ends);
  return bytes.slice(0, at) + `${random.pick(lines)}\r\n`.repeat(times) + bytes.slice(at);
}

function doubleLine(random, bytes) {
  const ends = lineEnds(bytes);
  if (ends.length < 2) return bytes + bytes;
  const line = random.between(1, ends.length - 1);
  return bytes.slice(0, ends[line]) + bytes.slice(ends[line - 1], ends[line]) + bytes.slice(ends[line]);
}

/** Where the first lines end. */
function lineEnds(bytes) {
  const ends = [];
  for (let at = bytes.indexOf('\n'); at >= 0 && ends.length < 12; at = bytes.indexOf('\n', at + 1)) ends.push(at + 1);
  return ends;
}

function number(random, digits) {
  return random.pick([
    ...[
      '',
      '0',
      '1',
      '-1',
      '+1',
      '2147483648',
      '4294967296',
      '9007199254740993',
      '9223372036854775808',
      '1e9',
      ' 1',
      '1 ',
    ],
    String(Number(digits) + 1),
    String(Math.max(0, Number(digits) - 1)),
    digits + digits,
    `0${digits}`,
    '9'.repeat(40),
  ]);
}
