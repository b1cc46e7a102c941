import pg from 'pg';
import { afterEach, beforeAll, describe, expect, test } from 'vitest';
import { installedDatabase } from '../support/installed.ts';
import { startTestPostgres, until } from '../support/servers.ts';
import { interleavings, isolationLevels, SteppedEnqueue, soon, startSteppedWorker, steppedUrl } from './stepped.ts';

/** What a worker does from the withdrawal of its promise to rest: it withdraws, takes X, and looks twice or more. */
const workerSteps = 6;

/** The ways in which a transaction may enqueue: its steps, of which others can come between. */
const ways: Record<string, (transaction: SteppedEnqueue, path: string) => readonly (() => Promise<unknown>)[]> = {
  'by http_get': (transaction, path) => [
    () => transaction.insert(path),
    () => transaction.compare(),
    () => transaction.execute('commit'),
  ],
  'by http_post': (transaction, path) => [
    () => transaction.insert(path, 'post'),
    () => transaction.compare(),
    () => transaction.execute('commit'),
  ],
  'by http_delete': (transaction, path) => [
    () => transaction.insert(path, 'delete'),
    () => transaction.compare(),
    () => transaction.execute('commit'),
  ],
  'in a subtransaction that is released': (transaction, path) => [
    async () => {
      await transaction.execute('savepoint inner_one');
      await transaction.insert(path);
    },
    () => transaction.compare(),
    () => transaction.execute('release inner_one'),
    () => transaction.execute('commit'),
  ],
  'before a subtransaction that enqueues and is rolled back': (transaction, path) => [
    () => transaction.insert(path),
    () => transaction.compare(),
    async () => {
      await transaction.execute('savepoint inner_one');
      await transaction.enqueueAtOnce(path);
      await transaction.execute('rollback to inner_one');
    },
    () => transaction.execute('commit'),
  ],
  'after a subtransaction that enqueued and was rolled back': (transaction, path) => [
    async () => {
      await transaction.execute('savepoint inner_one');
      await transaction.enqueueAtOnce(path);
      await transaction.execute('rollback to inner_one');
    },
    () => transaction.insert(path),
    () => transaction.compare(),
    () => transaction.execute('commit'),
  ],
  'after having written and waited for long': (transaction, path) => [
    () => transaction.execute(`insert into public.written values ('${path}')`),
    () => transaction.insert(path),
    () => transaction.compare(),
    () => transaction.execute('commit'),
  ],
};

describe.each(isolationLevels)('under %s', (isolation) => {
  let url: string;
  const closing: (() => Promise<void>)[] = [];

  beforeAll(async () => {
    url = (await installedDatabase(await startTestPostgres({ major: 18 }))).url;
  });

  afterEach(async () => {
    for (const close of closing.splice(0).reverse()) await close();
  });

  async function session(): Promise<pg.Client> {
    const client = new pg.Client(url);
    await client.connect();
    closing.push(() => client.end());
    return client;
  }

  test.each(Object.entries(ways))(
    'no interleaving of going idle and a transaction that enqueues %s loses a request',
    { timeout: 180_000 },
    async (_way, stepsOf) => {
      const worker = await startSteppedWorker(url, 'worker');
      closing.push(worker.stop);
      const sql = await session();
      await sql.query('create table if not exists public.written (what text)');
      const transaction = await SteppedEnqueue.open(url);
      closing.push(() => transaction.close());
      let stepsGated = 0;

      const orders = interleavings(workerSteps, stepsOf(transaction, '').length);
      for (const [number, order] of orders.entries()) {
        const path = `${isolation.replace(' ', '-')}/${number}`;
        // Make the worker promise, and stop it where its next statement is the withdrawal.
        await sql.query(
          `insert into net.http_request_queue (method, url, headers, timeout_milliseconds)
           select 'GET', 'http://receiver/before', '{}', 2000 from generate_series(1, 6)`,
        );
        worker.gate.close();
        await sql.query('select net.wake()');
        await worker.stopBefore('pgfetch_withdraw');

        await transaction.begin(isolation);
        const steps = [...stepsOf(transaction, path)];
        for (const turn of order) {
          if (turn === 'E') await steps.shift()?.();
          else if (await worker.step()) stepsGated += 1;
        }
        worker.gate.open();
        await soon(() => worker.sent.includes(steppedUrl(path)), `the request of interleaving ${order} is sent`, 5_000);
        await soon(() => worker.service.resting, 'the worker rests');
      }
      expect(stepsGated).toBeGreaterThan(orders.length);
      expect(worker.sent.filter((each) => each.includes('/at-once/'))).toEqual([]);
    },
  );

  test('a long writer beside delays nobody and its own request is not lost', async () => {
    const worker = await startSteppedWorker(url, 'worker');
    closing.push(worker.stop);
    const writer = await session();
    const other = await session();

    await writer.query(`begin isolation level ${isolation}`);
    await writer.query(`select net.http_get('http://receiver/long')`);
    for (let i = 0; i < 20; i++) {
      await other.query(`select net.http_get('http://receiver/short/' || $1::text)`, [i]);
      await until(() => worker.sent.includes(`http://receiver/short/${i}`), 'a short request beside the long writer');
    }
    expect(worker.sent).not.toContain('http://receiver/long');
    await writer.query('commit');
    await until(() => worker.sent.includes('http://receiver/long'), 'the request of the long writer');
  });
});
