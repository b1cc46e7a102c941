import net, { type AddressInfo, type Socket } from 'node:net';
import pg from 'pg';
import { afterEach, expect, test } from 'vitest';
import { startEchoServer } from '../../src/embedded/echo.ts';
import { createWorker } from '../../src/worker/create.ts';
import { installedDatabase } from '../support/installed.ts';
import { startTestPostgres, until } from '../support/servers.ts';

const closing: (() => unknown)[] = [];

afterEach(async () => {
  for (const close of closing.splice(0).reverse()) await close();
});

/** A way to the server that breaks once, where an answer of the server contains `text`: the answer is lost with it. */
async function wayThatBreaksAt(text: string, port: number) {
  const sockets = new Set<Socket>();
  let broken = 0;
  const server = net.createServer((client) => {
    const upstream = net.connect(port, '127.0.0.1');
    for (const [from, to] of [
      [client, upstream],
      [upstream, client],
    ] as const) {
      sockets.add(from);
      from.on('error', () => {});
      from.on('close', () => {
        sockets.delete(from);
        to.destroy();
      });
    }
    client.on('data', (data) => upstream.write(data));
    upstream.on('data', (data) => {
      if (broken === 0 && data.includes(text)) {
        broken += 1;
        client.resetAndDestroy();
      } else client.write(data);
    });
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  closing.push(() => {
    for (const socket of sockets) socket.destroy();
    return new Promise((resolve) => server.close(resolve));
  });
  return {
    port: (server.address() as AddressInfo).port,
    get broken() {
      return broken;
    },
  };
}

test.each([
  ['by the only worker', 0],
  ['beside another one', 1],
])('a claim whose answer was lost with the connection is sent all the same, %s', async (_, others) => {
  const server = await startTestPostgres({ major: 18 });
  const { url } = await installedDatabase(server);
  const echo = await startEchoServer();
  closing.push(() => echo.close());
  const way = await wayThatBreaksAt('/lost-with-the-answer', server.port);
  const viaTheWay = new URL(url);
  viaTheWay.port = `${way.port}`;
  const start = async (connectionString: string): Promise<void> => {
    const worker = createWorker({ connectionString, allow: ['loopback'], leaseMs: 1_000, stopTimeoutMs: 1_000 });
    closing.push(() => worker.stop());
    await worker.start();
  };
  await start(viaTheWay.href);
  const sql = new pg.Client(url);
  await sql.connect();
  closing.push(() => sql.end());
  await sql.query(`select net.http_get($1)`, [`${echo.url}/lost-with-the-answer`]);
  await until(() => way.broken === 1, 'the answer to the claim to be lost');
  for (let i = 0; i < others; i++) await start(url);

  await until(
    async () => (await sql.query('select from net._http_response')).rowCount === 1,
    'the request to be recorded',
    15_000,
  );
  expect((await sql.query('select from net.http_request_queue')).rowCount).toBe(0);
});
