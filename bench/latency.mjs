// From commit to a response that another session can see: from idle, back to back, and at steady rates.
import { setTimeout as sleep } from 'node:timers/promises';
import { createWorker } from '../dist/index.js';
import { benchmark, percentile, rounded } from './stage.mjs';

await benchmark(
  'latency',
  { requests: { type: 'string', default: '300' } },
  async ({ url, target, session, number, say }) => {
    const requests = number('requests', 20);
    const asking = await session();
    const looking = await session();
    const worker = createWorker({ connectionString: url, allow: ['loopback'] });
    await worker.start();
    const result = {};

    /** Enqueues, commits, and looks until the response is there. */
    const once = async () => {
      const { rows } = await asking.query({
        name: 'ask',
        text: 'select net.http_get($1) as id',
        values: [`${target}/`],
      });
      const committed = performance.now();
      for (;;) {
        const found = await looking.query({
          name: 'look',
          text: 'select from net._http_response where id = $1',
          values: [rows[0].id],
        });
        if (found.rowCount === 1) return performance.now() - committed;
        if (performance.now() - committed > 10_000) throw new Error(`no response to request ${rows[0].id}`);
      }
    };
    const measure = async (name, pauseMs, count) => {
      const took = [];
      for (let i = 0; i < count; i++) {
        took.push(await once());
        const pause = pauseMs();
        if (pause > 0) await sleep(pause);
      }
      result[`${name}, ms`] = { p50: rounded(percentile(took, 0.5)), p99: rounded(percentile(took, 0.99)) };
      say(`${name}: p50 ${rounded(percentile(took, 0.5))} ms`);
    };
    try {
      await measure('warm-up', () => 0, 50);
      delete result['warm-up, ms'];
      await measure('idle (one every 1.2 s)', () => 1_200, Math.max(3, Math.round(requests / 15)));
      await measure('back to back', () => 0, requests);
      await measure('50/s', () => 18, requests);
      Object.assign(result, await steady(worker, session, looking, target, number('requests', 20) * 10));
    } finally {
      await worker.stop();
    }
    return { requests, ...result };
  },
);

/** 1,000/s from eight sessions: each response's age is read from the clock of the server that wrote it. */
async function steady(_worker, session, looking, target, count) {
  const clients = await Promise.all(Array.from({ length: 8 }, () => session()));
  const committed = new Map();
  const began = performance.now();
  await Promise.all(
    clients.map(async (client, c) => {
      for (let i = c; i < count; i += clients.length) {
        const wait = began + i - performance.now();
        if (wait > 0) await sleep(wait);
        const { rows } = await client.query({
          name: 'ask',
          text: 'select net.http_get($1) as id',
          values: [`${target}/`],
        });
        committed.set(rows[0].id, Date.now() + (performance.now() % 1));
      }
    }),
  );
  const seconds = (performance.now() - began) / 1_000;
  const ids = [...committed.keys()];
  let rows = [];
  while (rows.length < ids.length) {
    ({ rows } = await looking.query(
      'select id, extract(epoch from created)::float8 * 1000 as at from net._http_response where id = any($1)',
      [ids],
    ));
  }
  const ages = rows.map((row) => Math.max(0, row.at - committed.get(row.id)));
  return {
    'steady rate, requests/s': Math.round(count / seconds),
    'at that rate, ms (to the recording statement)': {
      p50: rounded(percentile(ages, 0.5)),
      p99: rounded(percentile(ages, 0.99)),
    },
  };
}
