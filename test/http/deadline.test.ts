import { describe, expect, it } from 'vitest';
import { createAddressPolicy } from '../../src/core/addresses.ts';
import type { Failure } from '../../src/core/outcome.ts';
import {
  expectFailure,
  expectReply,
  httpServer,
  request,
  tcpServer,
  testCa,
  testClient,
  tlsServer,
  watchDialling,
} from './loopback.ts';
import { unacceptingPort } from './unaccepting.ts';

const timeoutMs = 300;
/** Generous: a busy machine must not fail the test, a missing deadline still does. */
const lateMsMax = 500;

const textPattern =
  /^Timeout of 300 ms reached\. Total time: (\d+\.\d{6}) ms \(DNS time: (\d+\.\d{6}) ms, TCP\/SSL handshake time: (\d+\.\d{6}) ms, HTTP Request\/Response time: (\d+\.\d{6}) ms\)$/;

/** Sends with the short deadline, and expects the text of pg_net with nearly all of the time under `phase`. */
function expectTimeout(outcome: Failure, phase: 'dnsMs' | 'connectMs' | 'transferMs'): void {
  expect(outcome.code).toBe('timed_out');
  const parts = textPattern.exec(outcome.message)?.slice(1).map(Number);
  const { totalMs, dnsMs, connectMs, transferMs } = outcome.timings;
  expect(parts?.map((part) => Math.round(part))).toEqual([totalMs, dnsMs, connectMs, transferMs].map(Math.round));
  expect(totalMs).toBeGreaterThanOrEqual(timeoutMs - 2);
  expect(totalMs).toBeLessThan(timeoutMs + lateMsMax);
  expect(outcome.timings[phase]).toBeGreaterThan(totalMs / 2);
}

describe('the deadline covers', () => {
  it('a lookup that never returns', async () => {
    const client = testClient({ lookup: () => new Promise(() => {}) });
    const outcome = expectFailure(await client.send(request('http://hanging.example/', { timeoutMs })));
    expectTimeout(outcome, 'dnsMs');
    expect(outcome.timings.connectMs + outcome.timings.transferMs).toBeLessThan(50);
  });

  it.runIf(process.platform === 'linux')('a connect that is never answered', async () => {
    const port = await unacceptingPort();
    const dialled = watchDialling();
    const outcome = expectFailure(await testClient().send(request(`http://127.0.0.1:${port}/`, { timeoutMs })));
    expectTimeout(outcome, 'connectMs');
    expect(outcome.timings.transferMs).toBe(0);
    expect(dialled.sockets.map((socket) => socket.destroyed)).toEqual([true]);
  });

  it('a TLS handshake that never happens', async () => {
    const server = await tcpServer((socket) => socket.resume());
    const sent = testClient().send(request(`https://127.0.0.1:${server.port}/`, { timeoutMs }));
    expectTimeout(expectFailure(await sent), 'connectMs');
    await server.idle();
  });

  it('the wait for a connection at the limit', async () => {
    const server = await tcpServer((socket) => socket.resume());
    const client = testClient({ connectionsPerOriginMax: 1 });
    const holder = client.send(request(server.url, { timeoutMs: 3 * timeoutMs }));
    expectTimeout(expectFailure(await client.send(request(server.url, { timeoutMs }))), 'connectMs');
    expect(server.connections()).toBe(1);
    expect(await holder).toMatchObject({ code: 'timed_out' });
  });

  it('headers that never come', async () => {
    const server = await tcpServer((socket) => socket.resume());
    expectTimeout(expectFailure(await testClient().send(request(server.url, { timeoutMs }))), 'transferMs');
    await server.idle();
  });

  it.each([
    ['drip-fed headers', 'HTTP/1.1 200 OK\r\n', 'X: y\r\n'],
    ['a drip-fed body', 'HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n', 'x'],
    ['a drip-fed chunked body', 'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n', '1\r\nx\r\n'],
    ['endless informational replies', '', 'HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n'],
    ['the body of a redirect', 'HTTP/1.1 302 F\r\nLocation: /x\r\nContent-Length: 1000\r\n\r\n', 'x'],
  ])('%s', async (_what, first, again) => {
    const server = await drippingServer(first, again);
    expectTimeout(expectFailure(await testClient().send(request(server.url, { timeoutMs }))), 'transferMs');
    await server.idle();
  });

  it('a body that is not taken', async () => {
    const server = await tcpServer((socket) => socket.pause());
    const body = Buffer.alloc(16 * 1024 * 1024);
    const sent = testClient().send(request(server.url, { timeoutMs, method: 'POST', body }));
    expectTimeout(expectFailure(await sent), 'transferMs');
  });

  it('all hops together', async () => {
    const server = await httpServer((incoming, response) => {
      setTimeout(() => response.writeHead(302, { Location: `${incoming.url}x` }).end(), 40);
    });
    const outcome = expectFailure(await testClient().send(request(`${server.url}/`, { timeoutMs })));
    expectTimeout(outcome, 'transferMs');
  });

  it('a time-out of nothing, and no more than that request', async () => {
    const server = await httpServer((_incoming, response) => response.end());
    const client = testClient();
    expect(await client.send(request(server.url, { timeoutMs: -1 }))).toMatchObject({ code: 'timed_out' });
    expectReply(await client.send(request(server.url, { timeoutMs: 2_147_483_647 })));
  });
});

describe('timings', () => {
  it('are zero for name and handshake on a kept connection', async () => {
    const server = await tlsServer({}, (socket) => {
      socket.on('data', () => socket.write('HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n'));
    });
    const client = testClient({
      tls: { ca: testCa },
      lookup: async () => [{ address: '127.0.0.1', family: 4 }],
    });
    const url = `https://localhost:${server.port}/`;
    const first = expectReply(await client.send(request(url))).timings;
    const second = expectReply(await client.send(request(url))).timings;
    expect(server.connections()).toBe(1);
    expect(first.connectMs).toBeGreaterThan(second.connectMs);
    expect(second.dnsMs).toBe(0);
    for (const { dnsMs, connectMs, transferMs, totalMs } of [first, second]) {
      expect(dnsMs + connectMs + transferMs).toBeCloseTo(totalMs, 3);
    }
  });

  it('count by the injected clock', async () => {
    let nowMs = 5_000;
    const server = await httpServer((_incoming, response) => {
      nowMs += 40;
      response.end();
    });
    const client = testClient({
      now: () => nowMs,
      policy: createAddressPolicy({ allow: ['name.example'] }),
      lookup: async () => {
        nowMs += 7;
        return [{ address: '127.0.0.1', family: 4 }];
      },
    });
    const { timings } = await client.send(request(`http://name.example:${server.port}/`));
    expect(timings).toEqual({ dnsMs: 7, connectMs: 0, transferMs: 40, totalMs: 47 });
  });
});

/** Writes `first`, then `again` every 20 ms for as long as the client stays. */
function drippingServer(first: string, again: string): ReturnType<typeof tcpServer> {
  return tcpServer((socket) => {
    socket.once('data', () => {
      socket.write(first);
      const timer = setInterval(() => socket.write(again), 20);
      socket.once('close', () => clearInterval(timer));
    });
  });
}
