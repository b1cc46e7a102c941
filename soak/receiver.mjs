// The receiver, a process of its own: writes down every request that arrives whole, checks that it is what was asked for, and
// answers with its number and how often it has seen it.
import net from 'node:net';
import { checkOf, delayMsOf, methodOf, repeatsOf, statusOf } from './request.mjs';

const [address, capacityText, seedText, epochText] = process.argv.slice(2);
const capacity = Number(capacityText);
const seed = Number(seedText);
const epochMs = Number(epochText);

/** By number. Times are milliseconds since the run began. */
const counts = new Uint16Array(capacity + 1);
const firstAt = new Uint32Array(capacity + 1);
/** Number and time of every arrival after the first. */
let repeats = new Uint32Array(1_024);
let repeatsLength = 0;
let distinct = 0;
/** What was not as asked for, the first of them in words. */
const wrong = { count: 0, examples: [] };

function noteRepeat(n, at) {
  if (repeatsLength + 2 > repeats.length) {
    const grown = new Uint32Array(repeats.length * 2);
    grown.set(repeats);
    repeats = grown;
  }
  repeats[repeatsLength++] = n;
  repeats[repeatsLength++] = at;
}

/** What is wrong with a request, or undefined. */
function problemOf(n, method, path, head, body) {
  if (!Number.isInteger(n) || n < 1 || n > capacity) return 'a number that nobody asked for';
  const check = checkOf(seed, n);
  if (path !== `/${n}/${check}`) return 'another path';
  if (method !== methodOf(n)) return `method ${method}`;
  if (/\r\nx-number: *(\d+)/i.exec(head)?.[1] !== String(n)) return 'another header';
  if (method !== 'POST') return body === '' ? undefined : 'a body where there is none';
  let sent;
  try {
    sent = JSON.parse(body);
  } catch {
    return 'a body that is no JSON';
  }
  const isWhole = sent.n === n && sent.check === check && sent.filler === check.repeat(repeatsOf(n));
  return isWhole ? undefined : 'another body';
}

function answerTo(method, path, head, body) {
  const n = Number(/^\/(\d+)\//.exec(path)?.[1]);
  const problem = problemOf(n, method, path, head, body);
  if (problem !== undefined) {
    wrong.count += 1;
    if (wrong.examples.length < 20) wrong.examples.push(`${method} ${path}: ${problem}`);
    return { text: reply(400, problem), delayMs: 0 };
  }
  const at = Date.now() - epochMs;
  counts[n] += 1;
  if (counts[n] === 1) {
    distinct += 1;
    firstAt[n] = at;
  } else noteRepeat(n, at);
  return { text: reply(statusOf(n), `${n} ${counts[n]}`), delayMs: delayMsOf(n) };
}

function reply(status, text) {
  return `HTTP/1.1 ${status} Soaked\r\nContent-Type: text/plain\r\nContent-Length: ${text.length}\r\n\r\n${text}`;
}

const server = net.createServer({ noDelay: true }, (socket) => {
  let pending = '';
  socket.on('error', () => {});
  socket.on('data', (data) => {
    let text = pending + data.toString('latin1');
    let answers = '';
    for (;;) {
      const headEnd = text.indexOf('\r\n\r\n');
      if (headEnd < 0) break;
      const head = text.slice(0, headEnd);
      const length = /\r\ncontent-length: *(\d+)/i.exec(head);
      const end = headEnd + 4 + (length === null ? 0 : Number(length[1]));
      if (text.length < end) break;
      const [method, path] = head.split(' ', 2);
      const answer = answerTo(method, path, head, text.slice(headEnd + 4, end));
      text = text.slice(end);
      if (answer.delayMs === 0) answers += answer.text;
      else setTimeout(() => socket.writable && socket.write(answer.text), answer.delayMs);
    }
    if (answers !== '') socket.write(answers);
    pending = text;
  });
});

server.listen(0, address, () => process.send({ port: server.address().port }));
setInterval(() => process.connected && process.send({ distinct }), 100).unref();
process.on('message', () => process.send({ counts, firstAt, repeats: repeats.slice(0, repeatsLength), wrong }));
process.once('disconnect', () => process.exit(0));
// A terminal's Ctrl-C goes to all of its processes; this one ends when the run does.
process.on('SIGINT', () => {});
