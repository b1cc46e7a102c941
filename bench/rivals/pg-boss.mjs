// Large batches fetched and completed by one statement each, the next one fetched at once while batches come full, several
// loops beside each other, and NOTIFY for what comes alone: what https://pgboss.io/api/workers offers for throughput and latency.
import { PgBoss } from 'pg-boss';
import { concurrency, serve } from './consumer.mjs';

const loops = 2;

serve(({ url, keeps, get }) => {
  const boss = new PgBoss({ connectionString: url, max: 10, useListenNotify: true });
  boss.on('error', (error) => console.error(error));
  return {
    async enqueue(count) {
      await boss.start();
      await boss.createQueue('get', { notify: true });
      const jobs = Array.from({ length: Math.min(count, 10_000) }, () => ({ data: {} }));
      for (let left = count; left > 0; left -= jobs.length) await boss.insert('get', jobs.slice(0, left));
      await boss.stop({ graceful: false });
    },
    connect: async () => void (await boss.start()),
    consume: async () =>
      void (await boss.work(
        'get',
        {
          batchSize: (concurrency * 5) / loops,
          localConcurrency: loops,
          burstWhenBatchFull: true,
          pollingIntervalSeconds: 0.5,
          perJobResults: keeps,
        },
        keeps
          ? (jobs) => Promise.all(jobs.map(async ({ id }) => ({ id, status: 'completed', output: await get() })))
          : async (jobs) => void (await Promise.all(jobs.map(get))),
      )),
    one: async () => void (await boss.send('get', {})),
  };
});
