import pg from 'pg';
import { beforeAll, expect, test } from 'vitest';
import { connectPg } from '../../src/postgres/pg.ts';
import { expire } from '../../src/store/expire.ts';
import { createWorker } from '../../src/worker/create.ts';
import { installedDatabase } from '../support/installed.ts';
import { startTestPostgres, type TestServer } from '../support/servers.ts';

// How much the worker's statements read, by the server's own statistics: a session keeps the plans of its prepared statements, and
// one that was made for an almost empty table must not read the whole of a long one, again and again.

let server: TestServer;
beforeAll(async () => {
  server = await startTestPostgres({ major: 18 });
});

/** A database with a worker whose statements have been planned while the tables were almost empty, as they mostly are. */
async function withSettledPlans(
  run: (client: pg.Client, stop: () => Promise<void>, drain: () => Promise<void>) => Promise<void>,
): Promise<void> {
  const { url, drop } = await installedDatabase(server);
  const client = new pg.Client({ connectionString: url });
  await client.connect();
  // Everything is denied: no request goes anywhere.
  const worker = createWorker({ connectionString: url });
  try {
    await worker.start();
    for (let round = 0; round < 12; round++) {
      await client.query(`select net.http_get('http://127.0.0.1:9/')`);
      await worker.drain();
      if (round === 5) await client.query('vacuum (analyze) net.http_request_queue, net._http_response');
    }
    await run(
      client,
      () => worker.stop(),
      () => worker.drain(),
    );
  } finally {
    await worker.stop();
    await client.end();
    await drop();
  }
}

const read = `
  select sum(coalesce(seq_tup_read, 0) + coalesce(idx_tup_fetch, 0))::int as rows
  from pg_stat_user_tables where schemaname = 'net' and relname = $1`;

async function rowsReadOf(client: pg.Client, table: string): Promise<number> {
  // The statistics of a session count when it ends; those of this one must be fresh.
  await client.query('select pg_stat_clear_snapshot()');
  const { rows } = await client.query<{ rows: number }>(read, [table]);
  return rows[0]?.rows ?? Number.NaN;
}

test('what is read of the queue grows with the requests, not with their square', async () => {
  await withSettledPlans(async (client, stop, drain) => {
    const requests = 20_000;
    await client.query(`select count(net.http_get('http://127.0.0.1:9/')) from generate_series(1, $1::int)`, [
      requests,
    ]);
    await drain();
    await stop();
    // Up to so many that are claimed and not yet recorded are passed over by each claim. Their square would be a hundred times more.
    expect(await rowsReadOf(client, 'http_request_queue')).toBeLessThan(requests * 30);
  });
});

test('a look for old responses reads none of those that are not old', async () => {
  const { url, drop } = await installedDatabase(server);
  const client = new pg.Client({ connectionString: url });
  await client.connect();
  await client.query(
    `insert into net._http_response (id, status_code, created)
     select i, 200, now() - case when i <= 100 then interval '1 day' else interval '1 minute' end from generate_series(1, 20000) i`,
  );
  const db = await connectPg({ connectionString: url, applicationName: 'pgfetch test', connectTimeoutMs: 10_000 });
  const step = await expire(db, 'responses', 6 * 3_600_000, 1_000, new Date(0));
  expect(step.rows).toBe(100);
  expect((await expire(db, 'responses', 6 * 3_600_000, 1_000, step.upTo)).rows).toBe(0);
  await db.close();
  expect(await rowsReadOf(client, '_http_response')).toBeLessThan(1_000);
  expect((await client.query('select from net._http_response')).rowCount).toBe(19_900);
  await client.end();
  await drop();
});
