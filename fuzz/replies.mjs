// The grammar: HTTP/1 replies that are sound, each with what a client must make of it, and what spoils them.
// Every text stands for bytes, a character each.

/** Of a body no more than this is kept: a few replies are longer. */
const bodyBytesMax = 80_000;

/** How the requests are sent. */
export const rules = { responseBytesMax: bodyBytesMax, followInsecureRedirects: true, decompress: false };

const tokenCharacters = "!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
const valueCharacters = `${tokenCharacters}:;,="()<>@[]{}/?\\ \t\x01\x7f\x80\xa0\xc3\xa9\xff`;
const blanks = ['', '', ' ', ' ', ' ', '  ', '\t', ' \t '];
const reasons = [' OK', ' OK', ' OK', '', ' ', ' Not Found', ' \xc3\xa9t\xe9', ' x:y', ' HTTP/1.1 200 OK'];
const statuses = [200, 200, 200, 200, 201, 202, 203, 205, 206, 226, 400, 404, 429, 500, 503, 599, 600, 999, 299];

/** @typedef {{ status: number, headers: [string, string][], body: string, truncated: boolean, isReusable: boolean | undefined }} Expected */

/**
 * A reply that libcurl and we understand in one way only.
 *
 * @returns {{ method: string, bytes: string, ending: 'wait' | 'end' | 'reset', expected: Expected }}
 */
export function soundReply(random) {
  const method = random.weighted([
    [80, 'GET'],
    [15, 'POST'],
    [5, 'HEAD'],
  ]);
  const eol = random.chance(0.05) ? '\n' : '\r\n';
  const status = random.chance(0.06) ? random.pick([204, 304]) : random.pick(statuses);
  const isOld = random.chance(0.05);
  const hasBody = method !== 'HEAD' && status !== 204 && status !== 304;
  const framing = random.weighted([
    [45, 'length'],
    [45, 'chunks'],
    [10, 'end'],
  ]);
  const whole = hasBody ? body(random) : '';
  /** @type {[string, string][]} */
  const headers = Array.from({ length: random.between(0, 4) }, () => [`X-${token(random)}`, value(random)]);
  const fields = headers.map(([name, text]) => `${name}:${random.pick(blanks)}${text}${random.pick(blanks)}${eol}`);

  const add = (name, text) => {
    const at = random.between(0, fields.length);
    const written = randomCase(random, name);
    fields.splice(at, 0, `${written}:${random.pick(blanks)}${text}${random.pick(blanks)}${eol}`);
    headers.splice(at, 0, [written, text]);
  };
  if (status !== 204) {
    if (framing === 'length') add('Content-Length', String(hasBody ? whole.length : random.between(0, 1_000)));
    if (framing === 'chunks' && !isOld) add('Transfer-Encoding', randomCase(random, 'chunked'));
  }
  const isClosed = random.chance(0.1);
  if (isClosed) add('Connection', random.pick(['close', 'Close', 'close, x', 'x,close']));
  else if (random.chance(0.1)) add('Connection', 'Keep-Alive');
  const says = (name) => headers.some(([each]) => each.toLowerCase() === name);

  const isChunked = says('transfer-encoding');
  const isEndless = hasBody && !isChunked && !says('content-length');
  const head = `HTTP/1.${isOld ? 0 : 1} ${status}${random.pick(reasons)}${eol}${fields.join('')}${eol}`;
  const written = isChunked && hasBody ? chunks(random, whole, eol) : whole;
  const truncated = whole.length > bodyBytesMax;
  const persists = !isOld || (says('connection') && !isClosed);
  const ending = random.weighted([
    [60, 'wait'],
    [25, 'end'],
    [15, 'reset'],
  ]);
  return {
    method,
    bytes: interim(random, eol) + head + written,
    ending: isEndless ? 'end' : ending,
    expected: {
      status,
      headers,
      body: whole.slice(0, bodyBytesMax),
      truncated,
      // Lines that end in LF alone are understood, and not trusted.
      isReusable: persists && !isClosed && !isEndless && !truncated && eol === '\r\n',
    },
  };
}

function token(random) {
  return text(random, tokenCharacters, random.between(1, random.chance(0.02) ? 300 : 12));
}

/** Without blanks around it: those are not part of it. */
function value(random) {
  const characters = text(random, valueCharacters, random.between(0, random.chance(0.02) ? 500 : 20));
  return characters.replace(/^[ \t]+|[ \t]+$/g, '');
}

function text(random, characters, length) {
  let made = '';
  for (let i = 0; i < length; i++) made += characters[random.between(0, characters.length - 1)];
  return made;
}

function randomCase(random, name) {
  return random.weighted([
    [80, name],
    [10, name.toLowerCase()],
    [10, name.toUpperCase()],
  ]);
}

/** Mostly small; some of it looks like framing. */
function body(random) {
  const bytes = random.weighted([
    [10, 0],
    [70, random.between(1, 60)],
    [19, random.between(60, 3_000)],
    [0.05, random.between(bodyBytesMax - 20_000, bodyBytesMax + 20_000)],
  ]);
  const seed = random.chance(0.3)
    ? random.pick(['HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx', '0\r\n\r\n', '\r\n', '\0', '\xff', '{"a": 1}'])
    : String.fromCharCode(...Array.from({ length: 16 }, () => random.between(0, 255)));
  return seed.repeat(Math.ceil(bytes / seed.length)).slice(0, bytes);
}

function chunks(random, whole, eol) {
  let written = '';
  for (let at = 0; at < whole.length; ) {
    const bytes = Math.min(whole.length - at, random.between(1, random.pick([3, 50, 5_000])));
    const digits = bytes.toString(16);
    const size = random.chance(0.2) ? digits.toUpperCase().padStart(random.between(1, 16), '0') : digits;
    const extension = random.chance(0.1) ? random.pick([';a=b', ';a', '; a="b"', ' ;a', ' ']) : '';
    written += `${size}${extension}${eol}${whole.slice(at, at + bytes)}${eol}`;
    at += bytes;
  }
  const trailers = random.chance(0.1) ? `X-${token(random)}: ${value(random)}${eol}` : '';
  return `${written}${random.chance(0.1) ? '000' : '0'}${eol}${trailers}${eol}`;
}

/** Replies before the reply. */
function interim(random, eol) {
  if (random.chance(0.9)) return '';
  const one = () =>
    `HTTP/1.1 ${random.pick([100, 102, 103])}${random.pick(reasons)}${eol}${random.chance(0.5) ? `Link: </x>${eol}` : ''}${eol}`;
  return random.chance(0.8) ? one() : one() + one();
}
