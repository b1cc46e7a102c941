import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import pg from 'pg';
import { afterEach, expect, test } from 'vitest';
import { connectPg } from '../../src/postgres/pg.ts';
import { reclaim } from '../../src/store/reclaim.ts';
import { createWorker } from '../../src/worker/create.ts';
import { installedDatabase } from '../support/installed.ts';
import { startTestPostgres, until } from '../support/servers.ts';

const closing: (() => unknown)[] = [];

afterEach(async () => {
  for (const close of closing.splice(0).reverse()) await close();
});

/** A server whose answers to `/held` wait until it is told. */
async function startReceiver(): Promise<{ url: string; seen: string[]; answerAll: () => void }> {
  const held: (() => void)[] = [];
  let isHolding = true;
  const seen: string[] = [];
  const server = createServer({ keepAliveTimeout: 60_000 }, (request, response) => {
    seen.push(request.url ?? '');
    if (isHolding && request.url?.startsWith('/held')) held.push(() => response.end());
    else response.end();
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  closing.push(() => {
    server.closeAllConnections();
    return new Promise((resolve) => server.close(resolve));
  });
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    seen,
    answerAll: () => {
      isHolding = false;
      for (const answer of held.splice(0)) answer();
    },
  };
}

async function openSql(url: string): Promise<pg.Client> {
  const sql = new pg.Client(url);
  await sql.connect();
  closing.push(() => sql.end());
  return sql;
}

test('a notification alone restarts nothing, whoever sends it', async () => {
  const { url } = await installedDatabase(await startTestPostgres({ major: 18 }));
  const sql = await openSql(url);
  const { url: target, seen } = await startReceiver();
  let ready = 0;
  const worker = createWorker({ connectionString: url, allow: ['loopback'] });
  closing.push(() => worker.stop());
  worker.on('ready', () => {
    ready += 1;
  });
  await worker.start();
  for (let n = 0; n < 100; n++) {
    await sql.query('notify net_restart');
    await sql.query('select net.http_get($1)', [`${target}/${n}`]);
    await until(() => seen.length === n + 1, 'the worker to serve');
  }
  expect(ready).toBe(1);
  await sql.query('select net.worker_restart()');
  await until(() => ready === 2, 'the restart that was asked for');
});

test('restarts asked for by many sessions at once lose nothing, send nothing twice, and hold nothing up', async () => {
  const { url } = await installedDatabase(await startTestPostgres({ major: 18 }));
  const sql = await openSql(url);
  const { url: target, seen, answerAll } = await startReceiver();
  const other = await startReceiver();
  let ready = 0;
  const worker = createWorker({ connectionString: url, allow: ['loopback'] });
  closing.push(() => {
    answerAll();
    return worker.stop();
  });
  worker.on('ready', () => {
    ready += 1;
  });
  await worker.start();
  await sql.query(
    `select net.http_get($1 || '/held/' || n, timeout_milliseconds := 60000) from generate_series(1, 200) n`,
    [target],
  );
  await until(() => seen.length === 150, 'its share of the slots to be in flight');
  let isOver = false;
  const flooding = await Promise.all(Array.from({ length: 8 }, () => openSql(url)));
  const floods = flooding.map(async (session) => {
    while (!isOver) await session.query('select net.worker_restart()');
  });
  const answers = async (): Promise<number> =>
    (await sql.query('select count(*)::int as n from net._http_response where status_code = 200')).rows[0].n;
  for (let n = 1; n <= 10 || ready < 4; n++) {
    await sql.query('select net.http_get($1)', [`${other.url}/${n}`]);
    await until(async () => (await answers()) === n, 'the answer to another, while it goes on', 20_000);
  }
  isOver = true;
  await Promise.all(floods);
  answerAll();
  await until(async () => (await answers()) === 200 + other.seen.length, 'all answers', 20_000);
  const sent = [...seen, ...other.seen];
  expect(new Set(sent).size).toBe(sent.length);
  expect(seen).toHaveLength(200);
}, 60_000);

test('net.worker_restart() beside several workers sends nothing twice: what is in flight stays whose it is', async () => {
  const { url } = await installedDatabase(await startTestPostgres({ major: 18 }));
  const sql = await openSql(url);
  const { url: target, seen, answerAll } = await startReceiver();
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
  await sql.query(
    `select net.http_get($1 || '/held/' || n, timeout_milliseconds := 60000) from generate_series(1, 300) n`,
    [target],
  );
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

// Orders are counted at once and given at commit: whoever connects in between has counted one that it cannot have obeyed.
test('a worker that connects while an order is being given obeys it all the same', async () => {
  const { url } = await installedDatabase(await startTestPostgres({ major: 18 }));
  const sql = await openSql(url);
  const writer = await openSql(url);
  const { url: target, seen } = await startReceiver();
  let ready = 0;
  const worker = createWorker({ connectionString: url, allow: ['loopback'] });
  closing.push(() => worker.stop());
  worker.on('ready', () => {
    ready += 1;
  });
  await worker.start();
  /** Commits what `order` does when the worker has restarted meanwhile, for another reason. */
  const givenWhileItConnects = async (order: string): Promise<void> => {
    const before = ready;
    await writer.query(`begin; ${order}`);
    await sql.query('select net.worker_restart()');
    await until(() => ready > before, 'the restart');
    await writer.query('commit');
  };
  // By hand: past the check that net.http_get makes.
  const outcome = async (): Promise<string> => {
    const { rows } = await sql.query(
      `insert into net.http_request_queue (method, url, headers, timeout_milliseconds) values ('GET', $1, '{}', 5000) returning id`,
      [target],
    );
    await sql.query('select net.wake()');
    const [row] = await until(async () => {
      const found = await sql.query('select * from net._http_response where id = $1', [rows[0].id]);
      return found.rows.length > 0 && found.rows;
    }, 'the response');
    return row.error_code ?? String(row.status_code);
  };
  expect(await outcome()).toBe('200');
  await givenWhileItConnects(`insert into net.policy (host) values ('elsewhere.example')`);
  await until(async () => (await outcome()) === 'denied', 'the rule to be in force');
  await givenWhileItConnects('delete from net.policy');
  await until(async () => (await outcome()) === '200', 'the rule to be gone');
  await givenWhileItConnects('select net.set_paused(true)');
  await until(async () => (await sql.query('select from net.worker')).rowCount === 0, 'the worker to leave');
  const sent = seen.length;
  await sql.query('select net.http_get($1)', [target]);
  expect(seen).toHaveLength(sent);
});

test('who restarts while another looks for dead workers is not taken for dead', async () => {
  const { url } = await installedDatabase(await startTestPostgres({ major: 18 }));
  const sql = await openSql(url);
  // The look stops where it asks whether a session lives: after it has read of the old one.
  await sql.query(`
    create or replace function net._session_lives(pid integer, backend_start timestamptz, lease_until timestamptz)
      returns boolean language plpgsql as $$
    begin
      perform pg_advisory_lock_shared(4711);
      return pid is null;
    end $$;
    insert into net.worker (id, name, version, role, pid, lease_until, restart_seen)
    values (1, 'it', '', 10, 1, now() + interval '1 hour', 0);
    insert into net.http_request_queue (method, url, headers, timeout_milliseconds, claimed_by)
    values ('GET', 'http://x/', '{}', 1, 1);
    select pg_advisory_lock(4711)`);
  const db = await connectPg({ connectionString: url, applicationName: 'test', connectTimeoutMs: 10_000 });
  closing.push(() => db.close());
  const looking = reclaim(db, 2n);
  await until(
    async () =>
      (await sql.query(`select from pg_locks where locktype = 'advisory' and objid = 4711 and not granted`))
        .rowCount === 1,
    'the look to have begun',
  );
  await sql.query('update net.worker set pid = null');
  await sql.query('select pg_advisory_unlock(4711)');
  expect(await looking).toMatchObject({ freed: 0, buried: 0 });
});
