// The receiver of the benchmarks, a process of its own: answers every request with 200 and two bytes, as cheaply as Node.js
// can, so that what is measured is not the target. `/slow/MS` answers after MS milliseconds, `/never` never does.
import net from 'node:net';

const answer = Buffer.from('HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\nok');

const server = net.createServer({ noDelay: true }, (socket) => {
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
      const slow = /^\w+ \/(?:slow\/(\d+)|(never))/.exec(head);
      if (slow === null) socket.write(answer);
      else if (slow[1] !== undefined) setTimeout(() => socket.writable && socket.write(answer), Number(slow[1]));
    }
    pending = text;
  });
});

server.listen(0, '127.0.0.1', () => process.send?.({ port: server.address().port }));
process.once('disconnect', () => process.exit(0));
