// Makes cases.jsonl anew: gives each reply of curl's test suite to the libcurl of this machine and writes down what it makes of
// it. Needs the sources of curl (its tests, and headers to compile oracle.c), a C compiler and libcurl; the tests need none of these.
//
//   node test/http/curl/record.mjs <directory of curl's sources>
import { execFile, execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import net from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { gzipSync } from 'node:zlib';
import { extractReplies, portMark, withCrlf } from './extract.mjs';

/** Bodies and replies longer than this are written as a digest, or compressed. */
const textMax = 2_000;
const timeoutMs = 1_000;
/** CURLE_OPERATION_TIMEDOUT. */
const timedOut = 28;
/** How a reply is given: at once, in the pieces of curl's own server, and with lines that end in CRLF. To libcurl all mean the same. */
const ways = [
  { pieceSize: Number.POSITIVE_INFINITY, crlf: false },
  { pieceSize: 20, crlf: false },
  { pieceSize: Number.POSITIVE_INFINITY, crlf: true },
];

const [curlSources] = process.argv.slice(2);
if (curlSources === undefined) throw new Error('usage: node test/http/curl/record.mjs <directory of curl sources>');
const scratch = mkdtempSync(join(tmpdir(), 'curl-cases-'));
try {
  const oracle = join(scratch, 'oracle');
  const source = join(import.meta.dirname, 'oracle.c');
  execFileSync('cc', ['-Wall', '-I', join(curlSources, 'include'), '-o', oracle, source, '-l:libcurl.so.4']);
  const recorded = [];
  for (const { names, ...given } of distinct(extractReplies(join(curlSources, 'tests', 'data')))) {
    recorded.push({ names, ...(await observe(oracle, given)) });
  }
  const lines = recorded.map((each) => asciiJson(compact(each)));
  writeFileSync(join(import.meta.dirname, 'cases.jsonl'), `${lines.join('\n')}\n`);
} finally {
  rmSync(scratch, { recursive: true });
}

/** Equal replies to equal requests are one case with several names. */
function distinct(replies) {
  const cases = new Map();
  for (const { name, ...given } of replies) {
    const key = JSON.stringify(given);
    const known = cases.get(key) ?? { names: [], ...given };
    known.names.push(name);
    cases.set(key, known);
  }
  return [...cases.values()];
}

/** What libcurl makes of a reply, and whether the server closes the connection after it. */
async function observe(oracle, given) {
  const outcome = await outcomeOf(oracle, given);
  if (outcome.code !== timedOut || given.closes) return { ...given, ...outcome };
  // Curl's suite ends these in another way. A connection that stays open says only that the reply is not complete.
  const closed = { ...given, closes: true };
  return { ...closed, ...(await outcomeOf(oracle, closed)) };
}

async function outcomeOf(oracle, given) {
  const outcomes = [];
  for (const { pieceSize, crlf } of ways) {
    const written = crlf ? { ...given, reply: withCrlf(given.reply) } : given;
    const first = await ask(oracle, written, pieceSize, 0);
    const isFollowed = first.redirect?.startsWith(`http://127.0.0.1:${portMark}/`);
    // Where a redirect leads elsewhere it is not followed here; that it is one is what can be compared.
    outcomes.push(isFollowed ? { ...(await ask(oracle, written, pieceSize, 1)), redirect: first.redirect } : first);
  }
  const [whole, ...others] = outcomes.map(meaning);
  if (others.some((other) => other !== whole)) {
    throw new Error(`libcurl's outcome depends on how the reply is given: ${JSON.stringify(given)}`);
  }
  return outcomes[0];
}

/** Without the line's end that libcurl leaves in an empty value, which is another with CRLF. */
function meaning({ headers = [], ...others }) {
  return JSON.stringify([headers.map(([name, value]) => [name, value.replace(/[\r\n]/g, '')]), others]);
}

/** Runs the oracle against a server that replies once, and to whatever follows with the request line it got. */
async function ask(oracle, { method, reply, closes }, pieceSize, redirects) {
  const sockets = new Set();
  let answered = false;
  let port = 0;
  const server = net.createServer((socket) => {
    let received = '';
    sockets.add(socket);
    socket.setNoDelay(true);
    socket.on('error', () => undefined);
    socket.on('data', (chunk) => {
      received += chunk.toString('latin1');
      const end = received.indexOf('\r\n\r\n');
      if (end === -1) return;
      const length = Number(/^content-length: *(\d+)/im.exec(received)?.[1] ?? 0);
      if (received.length < end + 4 + length) return;
      // Without the version: libcurl goes back to HTTP/1.0 for a server that once spoke it.
      const requestLine = received.slice(0, received.indexOf(' HTTP/'));
      received = '';
      if (answered) {
        const line = requestLine.replaceAll(String(port), portMark);
        socket.write(`HTTP/1.1 200 OK\r\nContent-Length: ${line.length}\r\n\r\n${line}`, 'latin1');
      } else {
        answered = true;
        void write(socket, Buffer.from(reply.replaceAll(portMark, String(port)), 'latin1'), pieceSize, closes);
      }
    });
  });
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  port = server.address().port;
  if (String(port).length !== 5) throw new Error(`the port has not five digits: ${port}`);
  const body = method === 'GET' || method === 'HEAD' || method === 'OPTIONS' ? '-' : 'a=b';
  const { stdout } = await promisify(execFile)(
    oracle,
    [`http://127.0.0.1:${port}/curl/case`, method, body, String(redirects), String(timeoutMs)],
    { maxBuffer: 1e8 },
  );
  for (const socket of sockets) socket.destroy();
  await new Promise((resolve) => server.close(resolve));
  return parse(stdout, port);
}

async function write(socket, bytes, pieceSize, closes) {
  for (let at = 0; at < bytes.length; at += pieceSize) {
    socket.write(bytes.subarray(at, Math.min(at + pieceSize, bytes.length)));
    // So that it arrives as a piece of its own, mostly.
    if (pieceSize < bytes.length && at < 2_000) await new Promise((resolve) => setTimeout(resolve, 0));
    if (socket.destroyed) return;
  }
  if (closes) socket.end();
}

function parse(stdout, port) {
  const text = (hex) =>
    Buffer.from(hex ?? '', 'hex')
      .toString('latin1')
      .replaceAll(String(port), portMark);
  const result = { code: 0, error: '', status: 0, headers: [], body: '' };
  for (const line of stdout.trimEnd().split('\n')) {
    const [kind, first, second] = line.split(' ');
    if (kind === 'version' && text(first) !== '7.88.1') throw new Error(`libcurl is ${text(first)}, not 7.88.1`);
    else if (kind === 'code' || kind === 'status') result[kind] = Number(first);
    else if (kind === 'error' || kind === 'body' || kind === 'redirect') result[kind] = text(first);
    else if (kind === 'header') result.headers.push([text(first), text(second)]);
  }
  // What is recorded of a failure is its text alone.
  const { code, error, redirect } = result;
  if (code === 0) return result;
  return redirect === undefined ? { code, error } : { code, error, redirect };
}

/** Leaves out what says nothing, and what is long. */
function compact({ reply, body, error, code, ...others }) {
  const result = { ...others };
  if (reply.length <= textMax) result.reply = reply;
  else result.replyGzip = gzipSync(Buffer.from(reply, 'latin1'), { level: 9 }).toString('base64');
  if (code !== 0) Object.assign(result, { code, error });
  if (body !== undefined && body.length > textMax)
    result.bodyDigest = { bytes: body.length, sha256: createHash('sha256').update(body, 'latin1').digest('hex') };
  else if (body !== undefined) result.body = body;
  return result;
}

/** JSON that any editor shows as what it is. */
function asciiJson(value) {
  return JSON.stringify(value).replace(
    /[\u007f-\uffff]/g,
    (c) => `\\u${c.charCodeAt(0).toString(16).padStart(4, '0')}`,
  );
}
