import { once } from 'node:events';
import http from 'node:http';
import type { AddressInfo } from 'node:net';
import { describe, expect, it, onTestFinished } from 'vitest';
import { expectFailure, expectReply, request, testClient, text, watchDialling } from './loopback.ts';
import { addresses, nameServer, testSystem } from './name-server.ts';
import { unacceptingPort } from './unaccepting.ts';

const linuxOnly = process.platform === 'linux';

/** A server on one address that says which one, gone when the test ends. */
async function serverAt(host: string, port = 0): Promise<number> {
  const server = http.createServer((_incoming, response) => response.setHeader('Connection', 'close').end(host));
  server.listen(port, host);
  await once(server, 'listening');
  onTestFinished(async () => {
    server.closeAllConnections();
    server.close();
    await once(server, 'close');
  });
  return (server.address() as AddressInfo).port;
}

/** A client for which `name.example` has these addresses, by a real name server. */
async function clientFor(list: readonly string[]) {
  const { port } = await nameServer(addresses(list));
  const { lookup } = await testSystem({}, { nameServerPort: port });
  return testClient({ lookup });
}

describe('a name with', () => {
  it('an IPv6 address only leads to a server that is on IPv6 only', async () => {
    const port = await serverAt('::1');
    const client = await clientFor(['::1']);
    expect(text(expectReply(await client.send(request(`http://name.example:${port}/`))))).toBe('::1');
  });

  it('both addresses is tried on IPv6 first', async () => {
    const port = await serverAt('::1');
    await serverAt('127.0.0.1', port);
    const client = await clientFor(['127.0.0.1', '::1']);
    expect(text(expectReply(await client.send(request(`http://name.example:${port}/`))))).toBe('::1');
  });

  it.each([
    ['IPv6', '::1', '127.0.0.1'],
    ['IPv4', '127.0.0.1', '::1'],
  ])('both leads to the server if nobody listens on its %s address', async (_family, dead, alive) => {
    const port = await serverAt(alive);
    const client = await clientFor([dead, alive]);
    expect(text(expectReply(await client.send(request(`http://name.example:${port}/`))))).toBe(alive);
  });

  it.runIf(linuxOnly).each([
    ['IPv6', '::1', '127.0.0.2'],
    ['IPv4', '127.0.0.2', '::1'],
  ])('both leads to the server if its %s address is silent', async (_family, dead, alive) => {
    const port = await serverAt(alive);
    await unacceptingPort(dead, port);
    const client = await clientFor([dead, alive]);
    const dialled = watchDialling();
    expect(text(expectReply(await client.send(request(`http://name.example:${port}/`))))).toBe(alive);
    expect(dialled.sockets.filter((socket) => !socket.destroyed)).toEqual([]);
  });

  it('several of both leads to the one that works', async () => {
    const port = await serverAt('127.0.0.4');
    const client = await clientFor(['::1', '127.0.0.2', '127.0.0.3', '127.0.0.4']);
    expect(text(expectReply(await client.send(request(`http://name.example:${port}/`))))).toBe('127.0.0.4');
  });

  it('addresses on which nobody listens fails', async () => {
    const port = await serverAt('127.0.0.9');
    const client = await clientFor(['::1', '127.0.0.2']);
    const outcome = expectFailure(await client.send(request(`http://name.example:${port}/`)));
    expect(outcome).toMatchObject({ code: 'connect_failed', message: "Couldn't connect to server" });
  });

  it.runIf(linuxOnly)('silent addresses ends at the deadline, the time counted as that of the handshake', async () => {
    const port = await unacceptingPort('::1');
    await unacceptingPort('127.0.0.2', port);
    const client = await clientFor(['::1', '127.0.0.2']);
    const dialled = watchDialling();
    const outcome = expectFailure(await client.send(request(`http://name.example:${port}/`, { timeoutMs: 600 })));
    expect(outcome.code).toBe('timed_out');
    expect(outcome.timings.connectMs).toBeGreaterThan(outcome.timings.totalMs / 2);
    expect(dialled.sockets.map((socket) => socket.destroyed)).toEqual([true, true]);
  });
});
