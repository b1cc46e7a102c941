// The whole client over real sockets: a server of ours answers each request with the reply of that number.
import { once } from 'node:events';
import net from 'node:net';
import { createAddressPolicy } from '../dist/core/addresses.js';
import { createHttpClient } from '../dist/http/client.js';
import { caseOf } from './cases.mjs';
import { rules } from './replies.mjs';
import { differences, isMarker, kindOf, markerOf, rowProblems, textOf } from './trial.mjs';

/** Of those that may have to wait for it. */
const shortMs = 200;
/** Of those that must not. */
const longMs = 20_000;
/** How late a request may be settled, beside what the process itself stood still. */
const lateMsMax = 250;
const lanes = 40;
const stallSampleMs = 10;
/** What the client cannot hold apart from a reply that was cut: the end overtook it, or the connection was one of before. */
const disturbances = new Set(['empty_reply', 'receive_failed', 'send_failed']);
/** Beyond, what stands behind a reply may arrive in a second piece, when the next request has long been written: no client can tell. */
const spoiltBytesMax = 30_000;

/** Tries the replies of these numbers; calls `found(number, wrong, kind)` for each. Returns how late the latest was settled. */
export async function tryOverTcp(seed, numbers, found) {
  const sockets = new Set();
  const server = net.createServer({ noDelay: true }, (socket) => {
    sockets.add(socket);
    socket.on('error', () => {});
    socket.on('close', () => sockets.delete(socket));
    socket.on('data', (request) => answer(socket, request.toString('latin1'), seed));
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const client = createHttpClient({
    userAgent: 'fuzz',
    policy: createAddressPolicy({ allow: ['loopback'] }),
    redirectsMax: 3,
    lookup: async () => [],
  });
  const url = `http://127.0.0.1:${server.address().port}`;
  const stalls = measureStalls();
  let latestMs = 0;

  const send = async (path, method, timeoutMs, wrong) => {
    const claimed = requestOf(`${url}${path}`, method, timeoutMs);
    const startMs = performance.now();
    const outcome = await client.send(claimed, rules);
    outcome.release?.();
    const lateMs = performance.now() - startMs - timeoutMs;
    latestMs = Math.max(latestMs, lateMs);
    if (lateMs > lateMsMax + stalls.sinceMs(startMs)) wrong.push(`settled ${Math.round(lateMs)} ms after the deadline`);
    wrong.push(...rowProblems(claimed, outcome));
    return outcome;
  };
  const queue = [...numbers];
  const lane = async () => {
    for (let number = queue.pop(); number !== undefined; number = queue.pop()) {
      const one = caseOf(seed, number);
      const wrong = [];
      const outcome = await send(`/${number}`, one.method, one.expected === undefined ? shortMs : longMs, wrong);
      const isDisturbed =
        outcome.kind === 'failure' &&
        (one.ending === 'reset' || one.method === 'POST') &&
        disturbances.has(outcome.code);
      if (one.expected !== undefined && !isDisturbed)
        wrong.push(...differences(one.expected, { outcome, isKept: false }));
      const next = await send(`/marker/${number}`, 'GET', longMs, wrong);
      if (!isMarker(next, number)) wrong.push(`the next request got ${textOf(next)}`);
      found(number, wrong, kindOf(outcome));
    }
  };
  await Promise.all(Array.from({ length: lanes }, lane));
  await client.close();
  stalls.stop();
  // What the client has closed is closed here in a moment; what it has not never is.
  for (let turns = 0; sockets.size > 0 && turns < 100; turns++) await new Promise((resolve) => setTimeout(resolve, 20));
  if (sockets.size > 0) found(numbers[0], [`${sockets.size} connections are left behind`], 'left behind');
  for (const socket of sockets) socket.destroy();
  server.close();
  await once(server, 'close');
  return latestMs;
}

function answer(socket, request, seed) {
  const path = /^\S+ (\S*)/.exec(request)?.[1] ?? '';
  const number = Number(/^\/(\d+)$/.exec(path)?.[1] ?? Number.NaN);
  if (Number.isNaN(number)) {
    // Markers, and wherever a reply redirects to.
    socket.write(markerOf(/^\/marker\/(\d+)$/.exec(path)?.[1] ?? 0));
    return;
  }
  const one = caseOf(seed, number);
  const finish = () => {
    if (one.ending === 'end') socket.end();
    else if (one.ending === 'reset') socket.resetAndDestroy();
  };
  if (one.expected === undefined) {
    socket.write(one.bytes.subarray(0, spoiltBytesMax), finish);
    return;
  }
  const pieces = [...one.pieces];
  const writeNext = () => {
    const piece = pieces.shift();
    if (piece === undefined) finish();
    else if (!socket.destroyed) socket.write(piece, () => setImmediate(writeNext));
  };
  writeNext();
}

/** When the process itself stood still: nothing can be on time then. */
function measureStalls() {
  const stalls = [];
  let lastMs = performance.now();
  const timer = setInterval(() => {
    const nowMs = performance.now();
    const stallMs = nowMs - lastMs - stallSampleMs;
    if (stallMs > stallSampleMs) stalls.push({ atMs: nowMs, stallMs });
    lastMs = nowMs;
  }, stallSampleMs);
  return {
    sinceMs: (startMs) =>
      stalls.reduce((sum, { atMs, stallMs }) => sum + (atMs >= startMs ? stallMs : 0), performance.now() - lastMs),
    stop: () => clearInterval(timer),
  };
}

function requestOf(url, method, timeoutMs) {
  const body = method === 'POST' ? Buffer.from('{}') : null;
  return {
    row: { id: 1n, method, url, headersJson: '{}', body, timeoutMs, loginRole: null, setRole: null },
    headers: [],
    secretHeaders: new Set(),
    spentMs: 0,
  };
}
