import { spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import type net from 'node:net';
import { describe, expect, it, onTestFinished, vi } from 'vitest';
import {
  expectReply,
  httpServer,
  request,
  tcpServer,
  testClient,
  text,
  tlsServer,
  watchDialling,
} from '../loopback.ts';
import { answered, expectRowOf, failures, type Row, rowLeftBy } from './rows.ts';
import { clientOf, hostileServer, inTurn, type Misbehaviour, replying, unread } from './servers.ts';

// Connections that a hostile server treats badly: cut, held, answered too early or twice, or speaking something else.

const ok = 'HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok';
const fake = 'HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfake';
const largeBody = Buffer.alloc(16 * 1024 * 1024);

describe('a connection that is', () => {
  it.each<[string, Misbehaviour, Row]>([
    ['ended before a reply', replying('', 'end'), failures.empty],
    ['reset before a reply', replying('', 'reset'), failures.receive],
    ['ended on one side only: the reply comes after that of the server', (socket) => socket.end(ok), answered()],
  ])('%s', async (_what, misbehave, row) => {
    for (const method of ['GET', 'POST']) await expectRowOf(misbehave, { row, request: { method }, kept: false });
  });

  it('ended as soon as it is there', async () => {
    const server = await tcpServer((socket) => socket.resume().end());
    expect(await rowLeftBy(testClient(), server.url)).toEqual(failures.empty);
    await server.idle();
  });

  it('reset as soon as it is there', async () => {
    const server = await tcpServer((socket) => socket.resetAndDestroy());
    // Which call of ours meets the reset is up to the kernel.
    expect([failures.receive, failures.send, failures.connect]).toContainEqual(
      await rowLeftBy(testClient(), server.url),
    );
    await server.idle();
  });

  it.runIf(process.platform !== 'win32')('accepted late', async () => {
    const program = `const server = require('node:http').createServer((_, response) => response.end('ok')).listen(0, '127.0.0.1', () => {
      process.stdout.write(String(server.address().port), () => process.kill(process.pid, 'SIGSTOP')); });`;
    const child = spawn(process.execPath, ['-e', program], { stdio: ['ignore', 'pipe', 'ignore'] });
    onTestFinished(async () => {
      child.kill('SIGKILL');
      await once(child, 'close');
    });
    const [port] = (await once(child.stdout, 'data')) as [Buffer];
    const dialled = watchDialling();
    const sent = testClient().send(request(`http://127.0.0.1:${port}/`));
    await vi.waitFor(() => expect(dialled.sockets[0]?.bytesWritten).toBeGreaterThan(0));
    child.kill('SIGCONT');
    expect(text(expectReply(await sent))).toBe('ok');
  });

  it('answered late', async () => {
    const later: Misbehaviour = (socket) => setTimeout(() => socket.write(ok), 100);
    await expectRowOf(later, { row: answered(), kept: true });
  });

  it('answered before anything was asked', async () => {
    const server = await tcpServer((socket) => socket.write(ok));
    expect(await rowLeftBy(testClient(), server.url)).toEqual(answered());
  });
});

describe('a request whose body', () => {
  it.each<[string, string, 'end' | 'wait', Row]>([
    ['is refused at once', 'HTTP/1.1 413 No\r\nContent-Length: 2\r\n\r\nok', 'wait', answered({ statusCode: 413 })],
    [
      'is refused at once, and the connection ended',
      'HTTP/1.1 413 No\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok',
      'end',
      answered({ statusCode: 413, headersJson: '{"Connection":"close","Content-Length":"2"}' }),
    ],
    ['is not taken, but answered', ok, 'wait', answered()],
  ])('%s', async (_what, reply, afterwards, row) => {
    const answerUnread: Misbehaviour = (socket, arrived) => {
      unread(socket, arrived);
      if (afterwards === 'end') socket.end(reply);
      else socket.write(reply);
    };
    await expectRowOf(answerUnread, { row, request: { method: 'POST', body: largeBody }, kept: false });
  });

  it('is taken slowly arrives whole, whatever its size', async () => {
    const server = await httpServer((incoming, response) => {
      const hash = createHash('sha256');
      incoming.on('data', (chunk: Buffer) => {
        hash.update(chunk);
        incoming.pause();
        setImmediate(() => incoming.resume());
      });
      incoming.on('end', () => response.end(hash.digest('hex')));
    });
    const client = testClient();
    for (const bytes of [1, 16_384, 16_385, 65_535, 65_536, 65_537, 131_072, 3_000_001]) {
      const body = Buffer.from(Array.from({ length: bytes }, (_, i) => (i * 7 + (i >> 8)) % 256));
      const reply = expectReply(await client.send(request(server.url, { method: 'POST', body })));
      expect(text(reply)).toBe(createHash('sha256').update(body).digest('hex'));
    }
    expect(server.connections()).toBe(1);
  });

  it('is cut by a reset', async () => {
    const server = await hostileServer((socket) => socket.resetAndDestroy());
    const row = await rowLeftBy(testClient(), server.url, { method: 'POST', body: largeBody });
    expect([failures.send, failures.receive]).toContainEqual(row);
    await server.idle();
  });
});

describe('a kept connection on which', () => {
  /** Answers, and when the client has read that, writes more, and waits until that has been read, too, or refused. */
  async function unsolicited(bytes: string): Promise<void> {
    let served: net.Socket | undefined;
    const server = await hostileServer((socket) => {
      served = socket;
      socket.write(ok);
    });
    const client = testClient({ connectionsPerOriginMax: 1 });
    expect(await rowLeftBy(client, server.url)).toEqual(answered());
    const ours = served === undefined ? undefined : clientOf(served);
    if (served === undefined || ours === undefined) throw new Error('the connection was not kept');
    served.write(bytes);
    await vi.waitFor(() => expect(ours.destroyed || ours.bytesRead === ok.length + bytes.length).toBe(true));
    for (let i = 0; i < 2; i++) {
      expect(text(expectReply(await client.send(request(`${server.url}/good`))))).toBe('good');
    }
    expect(server.connections()).toBe(2);
  }

  it('garbage arrives while it is idle is not used again', () => unsolicited('garbage'));
  it('a reply arrives while it is idle is not used again', () => unsolicited(fake));
  it('a single LF arrives while it is idle is not used again', () => unsolicited('\n'));
  it('a 408 arrives while it is idle is not used again', () =>
    unsolicited('HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n'));

  it('two replies come for one request gives the second to nobody', async () => {
    const server = await hostileServer(replying(ok + fake));
    const client = testClient({ connectionsPerOriginMax: 1 });
    for (const method of ['GET', 'POST', 'DELETE', 'GET']) {
      expect(await rowLeftBy(client, server.url, { method })).toEqual(answered());
      expect(text(expectReply(await client.send(request(`${server.url}/good`))))).toBe('good');
    }
  });

  it.each(['end', 'reset'] as const)('the next request meets its %s: a GET goes over a new one', async (cut) => {
    const server = await hostileServer(inTurn(replying(ok), replying('', cut), replying(ok)));
    const client = testClient();
    for (let i = 0; i < 2; i++) expect(await rowLeftBy(client, server.url)).toEqual(answered());
    expect([server.misbehaved(), server.connections()]).toEqual([3, 2]);
  });

  it.each([
    ['end', failures.empty],
    ['reset', failures.receive],
  ] as const)('the next request meets its %s: a POST is not sent twice', async (cut, row) => {
    const server = await hostileServer(inTurn(replying(ok), replying('', cut), replying(ok)));
    const client = testClient();
    expect(await rowLeftBy(client, server.url)).toEqual(answered());
    expect(await rowLeftBy(client, server.url, { method: 'POST', body: 'x' })).toEqual(row);
    expect(server.misbehaved()).toBe(2);
  });

  it('the next reply is cut within: a GET is not sent twice', async () => {
    const server = await hostileServer(inTurn(replying(ok), replying('H', 'end'), replying(ok)));
    const client = testClient();
    expect(await rowLeftBy(client, server.url)).toEqual(answered());
    expect(await rowLeftBy(client, server.url)).toEqual(failures.empty);
    expect(server.misbehaved()).toBe(2);
  });

  it('every request meets the end is tried once more, and no more', async () => {
    const server = await hostileServer(inTurn(replying(ok), replying('', 'end')));
    const client = testClient();
    expect(await rowLeftBy(client, server.url)).toEqual(answered());
    expect(await rowLeftBy(client, server.url)).toEqual(failures.empty);
    expect([server.misbehaved(), server.connections()]).toEqual([3, 2]);
  });

  it('the end arrives while it is idle is replaced, for a POST too', async () => {
    let served: net.Socket | undefined;
    const server = await hostileServer((socket) => {
      served = socket;
      socket.write(ok);
    });
    const client = testClient();
    for (let i = 1; i <= 3; i++) {
      expect(await rowLeftBy(client, server.url, { method: 'POST', body: 'x' })).toEqual(answered());
      expect(server.misbehaved()).toBe(i);
      const ours = served === undefined ? undefined : clientOf(served);
      served?.end();
      if (ours !== undefined) await closed(ours);
    }
  });
});

/** Resolves when a socket is closed, in order or not. */
function closed(socket: net.Socket): Promise<void> {
  return new Promise((resolve) => {
    if (socket.destroyed) resolve();
    else socket.once('close', () => resolve());
  });
}

describe('https, where the server', () => {
  it.each<[string, string]>([
    ['answers in plain HTTP', ok],
    ['answers with garbage', 'garbage\r\n'],
    ['answers with a TLS record of garbage', '\x16\x03\x03\x00\x05hello'],
    ['answers with an alert', '\x15\x03\x03\x00\x02\x02\x28'],
    ['answers with a record of 64 kB', `\x16\x03\x03\xff\xff${'x'.repeat(70_000)}`],
  ])('%s', async (_what, bytes) => {
    const server = await tcpServer((socket) => socket.once('data', () => socket.write(bytes, 'latin1')));
    const row = await rowLeftBy(testClient(), `https://127.0.0.1:${server.port}/`);
    expect(row).toEqual(failures.tls);
    await server.idle();
  });

  it('says nothing', async () => {
    const server = await tcpServer((socket) => socket.resume());
    const row = await rowLeftBy(testClient(), `https://127.0.0.1:${server.port}/`, { timeoutMs: 250 });
    expect(row).toEqual(failures.timedOut);
    await server.idle();
  });

  it('ends the connection within the handshake', async () => {
    const server = await tcpServer((socket) => socket.once('data', () => socket.end('\x16\x03\x03', 'latin1')));
    expect(await rowLeftBy(testClient(), `https://127.0.0.1:${server.port}/`)).toEqual(failures.tls);
    await server.idle();
  });
});

describe('http, where the server', () => {
  it('speaks TLS', async () => {
    const server = await tlsServer({}, () => undefined);
    const row = await rowLeftBy(testClient(), `http://127.0.0.1:${server.port}/`);
    expect([failures.empty, failures.notHttp]).toContainEqual(row);
    await server.idle();
  });

  it('answers with an alert and ends', async () => {
    await expectRowOf(replying('\x15\x03\x03\x00\x02\x02\x28', 'end'), { row: failures.notHttp, kept: false });
  });
});
