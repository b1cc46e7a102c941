// As https://worker.graphile.org/docs/performance has it for throughput: a local queue of 500, completions in batches.
import { Logger, makeWorkerUtils, run } from 'graphile-worker';
import pg from 'pg';
import { concurrency, serve } from './consumer.mjs';

const silent = new Logger(() => (level, message) => {
  if (level === 'error') console.error(message);
});

const keepStatement = {
  name: 'keep',
  text: 'insert into public.response (status, headers, body) values ($1, $2, $3)',
};

serve(({ url, keeps, get }) => {
  let pool;
  let utils;
  const task = keeps
    ? async (_payload, { withPgClient }) => {
        const { status, headers, body } = await get();
        await withPgClient((client) => client.query({ ...keepStatement, values: [status, headers, body] }));
      }
    : async () => void (await get());
  return {
    async enqueue(count) {
      utils = await makeWorkerUtils({ connectionString: url, logger: silent });
      await utils.migrate();
      const jobs = Array.from({ length: Math.min(count, 10_000) }, () => ({ identifier: 'get', payload: {} }));
      for (let left = count; left > 0; left -= jobs.length) await utils.addJobs(jobs.slice(0, left));
      await utils.withPgClient((client) =>
        client.query('create table if not exists public.response (status integer, headers jsonb, body text)'),
      );
      await utils.release();
    },
    async connect() {
      pool = new pg.Pool({ connectionString: url, max: 25 });
      pool.on('error', (error) => console.error(error));
      pool.on('connect', (client) => client.on('error', () => {}));
      await pool.query('select');
      utils = await makeWorkerUtils({ pgPool: pool, logger: silent });
    },
    consume: async () =>
      void (await run({
        pgPool: pool,
        logger: silent,
        noHandleSignals: true,
        taskList: { get: task },
        preset: {
          worker: {
            concurrentJobs: concurrency,
            maxPoolSize: 25,
            localQueue: { size: 500 },
            completeJobBatchDelay: 0,
            failJobBatchDelay: 0,
          },
        },
      })),
    one: async () => void (await utils.addJob('get', {})),
  };
});
