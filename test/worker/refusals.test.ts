import pg from 'pg';
import { afterEach, describe, expect, test } from 'vitest';
import { noTimings } from '../../src/core/outcome.ts';
import { unbound } from '../../src/core/policy.ts';
import { startEchoServer } from '../../src/embedded/echo.ts';
import { noSecrets } from '../../src/secrets/secrets.ts';
import { type CreateWorkerOptions, createWorker } from '../../src/worker/create.ts';
import { Flights } from '../../src/worker/flights.ts';
import type { Worker } from '../../src/worker/worker.ts';
import { installedDatabase } from '../support/installed.ts';
import { newestMajors, startTestPostgres, until } from '../support/servers.ts';

/** What the database will not take, or not now, and what is enqueued while nobody looks: none of it may stop the rest. */
describe.each(newestMajors())('on PostgreSQL %i', (major) => {
  const closing: (() => Promise<unknown>)[] = [];

  afterEach(async () => {
    for (const close of closing.splice(0).reverse()) await close();
  });

  async function stage() {
    const { url } = await installedDatabase(await startTestPostgres({ major }));
    const seen: string[] = [];
    const echo = await startEchoServer({ onRequest: ({ path }) => seen.push(path) });
    closing.push(() => echo.close());
    const session = async (): Promise<pg.Client> => {
      const client = new pg.Client(url);
      await client.connect();
      closing.push(() => client.end());
      return client;
    };
    const start = async (options: Partial<CreateWorkerOptions> = {}): Promise<Worker> => {
      const worker = createWorker({ connectionString: url, allow: ['loopback'], stopTimeoutMs: 2_000, ...options });
      closing.push(() => worker.stop());
      await worker.start();
      return worker;
    };
    const sql = await session();
    const count = async (what: string): Promise<number> =>
      (await sql.query(`select count(*)::int as n from ${what}`)).rows[0].n;
    return { url, echo, seen, session, start, sql, count };
  }

  test('a response that a trigger raises for waits alone, and is recorded when the trigger is gone', async () => {
    const { echo, start, sql, count } = await stage();
    await sql.query(`
      create function public.refuse() returns trigger language plpgsql as
        $$ begin if new.content like '%poison%' then raise exception 'not this one'; end if; return new; end $$;
      create trigger refuse before insert on net._http_response for each row execute function public.refuse()`);
    await start();
    await sql.query(
      `select net.http_get('${echo.url}/' || case n when 7 then 'poison' else n::text end) from generate_series(1, 20) n`,
    );
    await until(async () => (await count('net._http_response')) === 19, 'the other responses');
    await sql.query(`select net.http_get('${echo.url}/afterwards')`);
    await until(async () => (await count('net._http_response')) === 20, 'a response to a later request');
    await sql.query('drop trigger refuse on net._http_response');
    await until(async () => (await count('net._http_response')) === 21, 'the one that was refused');
    expect(await count('net.http_request_queue')).toBe(0);
  });

  test('a unique violation of a trigger loses no response', async () => {
    const { echo, start, sql, count } = await stage();
    await sql.query(`
      create table public.once (content text unique);
      create function public.keep() returns trigger language plpgsql as
        $$ begin insert into public.once values (new.content); return new; end $$;
      create trigger keep before insert on net._http_response for each row execute function public.keep()`);
    await start();
    await sql.query(`select net.http_get('${echo.url}/same') from generate_series(1, 3)`);
    await until(async () => (await count('net._http_response')) === 1, 'the first of three equal responses');
    expect(await count('net.http_request_queue')).toBe(2);
    await sql.query('drop trigger keep on net._http_response');
    await until(async () => (await count('net._http_response')) === 3, 'all three');
  });

  test('a request that a user has locked holds up none of the others', async () => {
    const { echo, seen, session, start, sql, count } = await stage();
    const user = await session();
    await start();
    await sql.query(`select net.http_get('${echo.url}/delay/0.3') from generate_series(1, 30)`);
    await until(() => seen.length === 30, 'all of them in flight');
    await user.query('begin; delete from net.http_request_queue where id = 5');
    await until(async () => (await count('net._http_response')) === 29, 'the others');
    await sql.query(`select net.http_get('${echo.url}/afterwards')`);
    await until(async () => (await count('net._http_response')) === 30, 'a response to a later request');
    await user.query('rollback');
    await until(async () => (await count('net._http_response')) === 31, 'the one that was locked');
  });

  test('stop() returns though the database takes nothing, and the next worker sends what was left', async () => {
    const { echo, seen, session, start, sql, count } = await stage();
    const user = await session();
    const worker = await start({ stopTimeoutMs: 200 });
    await sql.query(`select net.http_get('${echo.url}/get')`);
    await until(async () => (await count('net._http_response')) === 1, 'a first response');
    await sql.query(`select net.http_get('${echo.url}/delay/0.5')`);
    await until(() => seen.length === 2, 'a request in flight');
    await user.query('begin; lock table net._http_response, net.http_request_queue');
    await worker.stop();
    await user.query('rollback');
    await start();
    await until(async () => (await count('net._http_response')) === 2, 'the request that was left');
  });

  test('what commits after a worker was replaced is sent, though it was enqueued under the old one’s promise', async () => {
    const { echo, seen, session, start, sql } = await stage();
    const late = await session();
    const first = await start();
    await late.query('begin');
    // As under load: a promise stands while the transaction enqueues, so it notifies nobody.
    await sql.query(
      `select setval('net.wake_promise', (extract(epoch from clock_timestamp()) * 1000)::bigint + 3600000)`,
    );
    await late.query(`select net.http_get('${echo.url}/late')`);
    await first.stop();
    await start();
    await until(
      async () => (await sql.query('select last_value::int as v from net.wake_promise')).rows[0].v === 1,
      'the promise to be taken back',
    );
    await late.query('commit');
    await until(() => seen.includes('/late'), 'the late request', 5_000);
  });

  test('a promise that says nothing, because its sequence was restarted by hand, is none', async () => {
    const { echo, sql } = await stage();
    const heard: string[] = [];
    sql.on('notification', ({ channel }) => heard.push(channel));
    await sql.query('listen net_wake; alter sequence net.wake_promise restart');
    await sql.query(`select net.http_get('${echo.url}/woken')`);
    await until(() => heard.includes('net_wake'), 'the notification', 5_000);
  });

  test('waiting for a restart in the transaction that asked for it raises', async () => {
    const { sql } = await stage();
    await expect(sql.query('select net.worker_restart(); select net.wait_until_running()')).rejects.toMatchObject({
      code: '55000',
      hint: expect.stringMatching(/Commit first/),
    });
  });
});

test('a group to record is bounded by its bytes, but for a single larger one', async () => {
  const body = new Uint8Array(1_000);
  const flights = new Flights({
    furnish: noSecrets.furnish,
    clock: Date.now,
    random: Math.random,
    send: async () => ({ kind: 'reply', status: 200, headers: [], body, truncated: false, timings: noTimings }),
  });
  flights.slots = { total: 10, perOrigin: 10 };
  for (let id = 1n; id <= 5n; id++) {
    flights.take(
      {
        id,
        method: 'GET',
        url: 'http://x/',
        headersJson: '{}',
        body: null,
        timeoutMs: 1,
        loginRole: null,
        setRole: null,
        signWith: null,
        extras: undefined,
      },
      1n,
      unbound,
    );
  }
  await until(() => flights.inAir === 0, 'all to land');
  expect(flights.takeLanded(10, 2_500)).toHaveLength(2);
  expect(flights.takeLanded(10, 10)).toHaveLength(1);
  expect(flights.takeLanded(1, 10_000)).toHaveLength(1);
  expect(flights.held).toBe(5);
});
