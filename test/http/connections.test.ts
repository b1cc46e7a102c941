import { once } from 'node:events';
import type net from 'node:net';
import { Worker } from 'node:worker_threads';
import { describe, expect, it, onTestFinished } from 'vitest';
import { expectReply, httpServer, request, scriptedServer, tcpServer, testClient, text } from './loopback.ts';

const ok = 'HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n';

/** Resolves when the function it returns has been called. */
function signal(): { readonly raised: Promise<void>; raise(): void } {
  let raise = () => {};
  const raised = new Promise<void>((resolve) => {
    raise = resolve;
  });
  return { raised, raise };
}

describe('connections', () => {
  it('are kept and shared within the limit, and thousands of requests leave none behind', async () => {
    const server = await httpServer((incoming, response) =>
      incoming.resume().on('end', () => response.end(incoming.url)),
    );
    const client = testClient({ connectionsPerOriginMax: 7 });
    const paths = Array.from({ length: 2_000 }, (_, i) => `/${i}`);
    const bodies = await Promise.all(
      paths.map(async (path, i) => {
        const sent = request(server.url + path, i % 2 === 0 ? {} : { method: 'POST', body: 'x' });
        return text(expectReply(await client.send(sent)));
      }),
    );
    expect(bodies).toEqual(paths);
    expect(server.connections()).toBe(7);
    await client.close();
    await server.idle();
  });

  it('are not kept where the server says so', async () => {
    const server = await httpServer((_incoming, response) => response.writeHead(200, { Connection: 'close' }).end());
    const client = testClient({ connectionsPerOriginMax: 1 });
    await Promise.all([1, 2, 3].map(async () => expectReply(await client.send(request(server.url)))));
    expect(server.connections()).toBe(3);
  });

  it.each(['GET', 'POST'])('that died while idle are replaced for a %s', async (method) => {
    const sockets: net.Socket[] = [];
    const server = await tcpServer((socket) => {
      sockets.push(socket);
      socket.on('data', () => socket.write(ok));
    });
    const client = testClient();
    for (let i = 0; i < 3; i++) {
      expectReply(await client.send(request(server.url, { method })));
      const last = sockets.at(-1);
      last?.end();
      if (last?.destroyed === false) await once(last, 'close');
    }
    expect(server.connections()).toBe(3);
  });

  it('that die with a repeatable request before a byte of its reply are replaced, once', async () => {
    let requests = 0;
    const server = await tcpServer((socket) => {
      socket.on('data', () => {
        requests += 1;
        if (requests === 1) socket.write(ok);
        else socket.end();
      });
    });
    const client = testClient();
    expectReply(await client.send(request(server.url)));
    expect(await client.send(request(server.url))).toMatchObject({ code: 'empty_reply' });
    expect(requests).toBe(3);
  });

  it('that die with a POST do not send it twice', async () => {
    let posts = 0;
    const server = await tcpServer((socket) => {
      socket.on('data', (chunk) => {
        if (!chunk.toString().startsWith('POST')) return void socket.write(ok);
        posts += 1;
        socket.end();
      });
    });
    const client = testClient();
    expectReply(await client.send(request(server.url)));
    const outcome = await client.send(request(server.url, { method: 'POST', body: 'x' }));
    expect(outcome).toMatchObject({ code: 'empty_reply', message: 'Server returned nothing (no headers, no data)' });
    expect(posts).toBe(1);
  });

  it('of a request that failed are not used again', async () => {
    const server = await tcpServer((socket) => {
      socket.on('data', (chunk) => {
        if (chunk.toString().startsWith('GET /slow')) return;
        socket.write(ok);
      });
    });
    const client = testClient({ connectionsPerOriginMax: 1 });
    expectReply(await client.send(request(server.url)));
    expect(await client.send(request(`${server.url}/slow`, { timeoutMs: 50 }))).toMatchObject({ code: 'timed_out' });
    expectReply(await client.send(request(server.url)));
    expect(server.connections()).toBe(2);
  });

  it('free a place for those who wait, when a request times out', async () => {
    const arrived = signal();
    const server = await httpServer((incoming, response) => {
      if (incoming.url === '/slow') arrived.raise();
      else response.end('done');
    });
    const client = testClient({ connectionsPerOriginMax: 1 });
    const slow = client.send(request(`${server.url}/slow`, { timeoutMs: 200 }));
    await arrived.raised;
    const waiting = client.send(request(server.url));
    expect(await slow).toMatchObject({ code: 'timed_out' });
    expect(text(expectReply(await waiting))).toBe('done');
  });

  it('do not mistake stray bytes for the reply of the next request', async () => {
    const server = await tcpServer((socket) => {
      socket.on('data', (chunk) => {
        const path = /^GET (\S+)/.exec(chunk.toString())?.[1];
        socket.write(`HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n${path}`);
        if (path === '/1') socket.write('HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfake');
      });
    });
    const client = testClient({ connectionsPerOriginMax: 1 });
    for (const path of ['/1', '/2', '/3']) {
      expect(text(expectReply(await client.send(request(server.url + path))))).toBe(path);
    }
  });

  it.each([
    ['longer than 30 s', '', 29_000, 31_000],
    ['longer than the server keeps them', 'Keep-Alive: timeout=5\r\n', 3_900, 4_100],
  ])('are not kept idle for %s', async (_what, header, kept, over) => {
    const server = await scriptedServer(`HTTP/1.1 200 OK\r\n${header}Content-Length: 0\r\n\r\n`);
    let nowMs = 0;
    const client = testClient({ now: () => nowMs });
    for (const [idleMs, connections] of [
      [0, 1],
      [kept, 1],
      [kept, 1],
      [over, 2],
      [kept, 2],
    ] as const) {
      nowMs += idleMs;
      expectReply(await client.send(request(server.url)));
      expect(server.connections()).toBe(connections);
    }
  });

  it('are replaced at an age of five minutes, however busy', async () => {
    const server = await scriptedServer(ok);
    let nowMs = 0;
    const client = testClient({ now: () => nowMs });
    for (; nowMs <= 15 * 60_000; nowMs += 10_000) expectReply(await client.send(request(server.url)));
    expect(server.connections()).toBe(3);
  });

  it('that the server closed while this process was held up carry no POST', async () => {
    // The server has a thread of its own: this one is held up while it closes the connection.
    const flag = new Int32Array(new SharedArrayBuffer(4));
    const server = new Worker(
      `const { parentPort, workerData: flag } = require('node:worker_threads');
       const sockets = [];
       let posts = 0;
       const server = require('node:net').createServer((socket) => {
         sockets.push(socket);
         socket.on('error', () => {});
         socket.on('data', () => socket.write('HTTP/1.1 200 OK\\r\\nContent-Length: 1\\r\\n\\r\\n' + ++posts));
       });
       server.listen(0, '127.0.0.1', () => parentPort.postMessage(server.address().port));
       parentPort.on('message', () => sockets[0].destroy(undefined).once('close', () => {
         Atomics.store(flag, 0, 1);
         Atomics.notify(flag, 0);
       }));`,
      { eval: true, workerData: flag },
    );
    onTestFinished(async () => {
      await server.terminate();
    });
    const [port] = await once(server, 'message');
    let nowMs = 0;
    const client = testClient({ now: () => nowMs });
    const post = () => client.send(request(`http://127.0.0.1:${port}`, { method: 'POST', body: 'x' }));
    expect(text(expectReply(await post()))).toBe('1');
    nowMs += 1_000;
    server.postMessage('close');
    Atomics.wait(flag, 0, 0);
    expect(text(expectReply(await post()))).toBe('2');
  });
});
