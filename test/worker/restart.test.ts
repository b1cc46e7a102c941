import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import pg from 'pg';
import { afterEach, expect, test } from 'vitest';
import { createWorker } from '../../src/worker/create.ts';
import { installedDatabase } from '../support/installed.ts';
import { startTestPostgres, until } from '../support/servers.ts';

const closing: (() => unknown)[] = [];

afterEach(async () => {
  for (const close of closing.splice(0).reverse()) await close();
});

test('net.worker_restart() beside several workers sends nothing twice: what is in flight stays whose it is', async () => {
  const { url } = await installedDatabase(await startTestPostgres({ major: 18 }));
  const sql = new pg.Client(url);
  await sql.connect();
  closing.push(() => sql.end());
  const held: (() => void)[] = [];
  let isHolding = true;
  const answerAll = (): void => {
    isHolding = false;
    for (const answer of held.splice(0)) answer();
  };
  const seen: string[] = [];
  const server = createServer({ keepAliveTimeout: 60_000 }, (request, response) => {
    seen.push(request.url ?? '');
    if (isHolding) held.push(() => response.end());
    else response.end();
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  closing.push(() => {
    server.closeAllConnections();
    return new Promise((resolve) => server.close(resolve));
  });
  const target = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  let ready = 0;
  const workers = ['one', 'two', 'three'].map((name) =>
    createWorker({ connectionString: url, allow: ['loopback'], name }),
  );
  for (const worker of workers) {
    closing.push(() => {
      answerAll();
      return worker.stop();
    });
    worker.on('ready', () => {
      ready += 1;
    });
    await worker.start();
  }
  await sql.query(`select net.http_get($1 || '/' || n, timeout_milliseconds := 60000) from generate_series(1, 300) n`, [
    target,
  ]);
  await until(() => seen.length >= 100, 'requests in flight');

  await sql.query('select net.worker_restart()');
  await until(() => ready === 6, 'every worker to be back');
  answerAll();
  await until(
    async () => (await sql.query('select from net.http_request_queue limit 1')).rowCount === 0,
    'everything to be recorded',
  );
  const again = seen.filter((path, i) => seen.indexOf(path) !== i);
  expect(again).toEqual([]);
});
