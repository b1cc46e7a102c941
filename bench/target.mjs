// The receiver of the benchmarks, a process of its own: answers every request with 200 and two bytes, as cheaply as Node.js
// can, so that what is measured is not the target. `/slow/MS` answers after MS milliseconds, `/never` never does, `/bytes/N`
// answers with N bytes, and `/flaky/N` with 503 the first time where N ends in 0. Told to count, it says when each so many
// requests have been answered, those with 503 not counted.
import net from 'node:net';

const answer = Buffer.from('HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\nok');
const bodies = new Map();

const failure = Buffer.from('HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n');
/** The numbers of `/flaky/N` that have failed. */
const failed = new Set();

let round = 0;
let answered = 0;
let every = Number.POSITIVE_INFINITY;
let upTo = Number.POSITIVE_INFINITY;

function onAnswered() {
  answered += 1;
  if (answered % every !== 0 && answered !== upTo) return;
  process.send?.({ round, answered, at: performance.timeOrigin + performance.now() });
}

function answerOfBytes(bytes) {
  let whole = bodies.get(bytes);
  if (whole === undefined) {
    whole = Buffer.concat([
      Buffer.from(`HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: ${bytes}\r\n\r\n`),
      Buffer.alloc(bytes, 'x'),
    ]);
    bodies.set(bytes, whole);
  }
  return whole;
}

const onSocket = (socket) => {
  let pending = '';
  socket.on('error', () => {});
  socket.on('data', (data) => {
    let text = pending + data.toString('latin1');
    for (;;) {
      const headEnd = text.indexOf('\r\n\r\n');
      if (headEnd < 0) break;
      const head = text.slice(0, headEnd);
      const length = /\r\ncontent-length: *(\d+)/i.exec(head);
      const end = headEnd + 4 + (length === null ? 0 : Number(length[1]));
      if (text.length < end) break;
      text = text.slice(end);
      const special = /^\w+ \/(?:(slow|bytes|flaky)\/(\d+)|never)/.exec(head);
      if (special?.[1] === 'flaky' && special[2].endsWith('0') && !failed.has(special[2])) {
        failed.add(special[2]);
        socket.write(failure);
      } else if (special === null || special[1] === 'flaky') {
        socket.write(answer);
        onAnswered();
      } else if (special[1] === 'slow') {
        setTimeout(() => socket.writable && socket.write(answer), Number(special[2]));
      } else if (special[1] === 'bytes') {
        socket.write(answerOfBytes(Number(special[2])));
      }
    }
    pending = text;
  });
};

const ports = await Promise.all(
  [0, 1, 2].map(
    () =>
      new Promise((resolve) => {
        const server = net.createServer({ noDelay: true }, onSocket);
        server.listen({ port: 0, host: process.argv[2] ?? '127.0.0.1', backlog: 4_096 }, () =>
          resolve(server.address().port),
        );
      }),
  ),
);
process.on('message', ({ count }) => {
  ({ round, every, upTo } = count);
  answered = 0;
  failed.clear();
});
process.once('disconnect', () => process.exit(0));
process.send?.({ ports });
