import pg from 'pg';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { noTimings, type Outcome } from '../../src/core/outcome.ts';
import type { Database, Parameter, Row, Statement } from '../../src/postgres/database.ts';
import { connectPg } from '../../src/postgres/pg.ts';
import { sessionSettings } from '../../src/store/session.ts';
import type { Timing } from '../../src/worker/timing.ts';
import { Worker } from '../../src/worker/worker.ts';
import { installedDatabase } from '../support/installed.ts';
import { type Relay, startRelay } from '../support/relay.ts';
import { startTestPostgres, until } from '../support/servers.ts';

/**
 * What a worker does beside the traffic, and against a network that goes silent. Its clock can be put forward, its statements
 * are counted, and its requests are answered by the test.
 */
const never = 1_000_000_000;

describe('a worker', () => {
  const closing: (() => Promise<unknown>)[] = [];
  let url: string;
  let sql: pg.Client;
  let relay: Relay;

  beforeEach(async () => {
    const server = await startTestPostgres({ major: 18 });
    url = (await installedDatabase(server)).url;
    sql = await session();
    relay = await startRelay(server.port);
    closing.push(() => relay.close());
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

  async function start(timing: Partial<Timing>) {
    let aheadMs = 0;
    const statements: string[] = [];
    const sent: string[] = [];
    const answers: (() => void)[] = [];
    let isHolding = false;
    let late: { readonly name: string; readonly arrived: () => void; readonly released: Promise<void> } | undefined;
    const problems: string[] = [];
    const reply: Outcome = {
      kind: 'reply',
      status: 200,
      headers: [],
      body: new Uint8Array(),
      truncated: false,
      timings: noTimings,
    };
    const worker = new Worker({
      connect: async (): Promise<Database> => {
        const db = await connectPg({
          connectionString: relay.through(url),
          applicationName: 'pg_net test',
          connectTimeoutMs: 5_000,
          sessionSettings,
        });
        const query = async <R extends Row>(statement: Statement, parameters?: readonly Parameter[]) => {
          statements.push(statement.name);
          const rows = await db.query<R>(statement, parameters);
          if (late?.name === statement.name) {
            const { arrived, released } = late;
            late = undefined;
            arrived();
            await released;
          }
          return rows;
        };
        return {
          kind: db.kind,
          ended: db.ended,
          query,
          execute: (script) => db.execute(script),
          transaction: (work) => db.transaction(work),
          listen: (channel, onNotify) => db.listen(channel, onNotify),
          reset: () => db.reset(),
          ping: (timeoutMs) => db.ping(timeoutMs),
          close: () => db.close(),
        };
      },
      send: ({ row }) => {
        sent.push(row.url);
        return isHolding ? new Promise((resolve) => answers.push(() => resolve(reply))) : Promise.resolve(reply);
      },
      name: 'test',
      version: 'test',
      timing,
      stopTimeoutMs: 1_000,
      reconnect: { firstMs: 1, lastMs: 50 },
      now: () => performance.now() + aheadMs,
    });
    worker.on('problem', (error) => problems.push(error.message));
    closing.push(() => worker.stop());
    await worker.start();
    return {
      worker,
      statements,
      sent,
      problems,
      hold: () => {
        isHolding = true;
      },
      answer: () => {
        isHolding = false;
        for (const each of answers.splice(0)) each();
      },
      /** Keeps the next answer to that statement back until it is let go. */
      keepBack: (name: string) => {
        let letGo = (): void => {};
        const arrived = new Promise<void>((resolve) => {
          const released = new Promise<void>((go) => {
            letGo = go;
          });
          late = { name, arrived: resolve, released };
        });
        return { arrived, letGo: () => letGo() };
      },
      putForward: (ms: number) => {
        aheadMs += ms;
      },
      made: (name: string) => statements.filter((each) => each === name).length,
    };
  }

  const enqueue = async (path: string): Promise<string> =>
    (await sql.query('select net.http_get($1) as id', [`http://receiver/${path}`])).rows[0].id;
  const answered = (id: string): Promise<unknown> =>
    until(
      async () => (await sql.query('select from net._http_response where id = $1', [id])).rowCount === 1,
      `request ${id} is answered`,
    );

  test.each([
    ['before the statement arrives', 'everything' as const],
    ['before its answer comes back', 'answers' as const],
  ])('gives up a connection that goes silent %s, and records its answers over the next', async (_when, what) => {
    const { sent, problems, made, hold, answer, putForward } = await start({});
    hold();
    const id = await enqueue('held');
    await until(() => sent.length === 1, 'the request is in flight');
    const settles = made('pgfetch_settle');
    relay.swallow(what);
    answer();
    await until(() => made('pgfetch_settle') > settles, 'its response is on the way');
    expect(problems).toEqual([]);
    putForward(60_000);
    await until(() => problems.length > 0, 'the worker has noticed');
    expect(problems).toEqual([expect.stringMatching(/unanswered for 40 s.*Connecting anew/)]);
    relay.pointTo(Number(new URL(url).port));
    await answered(id);
    await answered(await enqueue('afterwards'));
    expect(sent).toEqual(['http://receiver/held', 'http://receiver/afterwards']);
    await until(
      async () => (await sql.query('select from net.http_request_queue')).rowCount === 0,
      'the queue is empty',
    );
  });

  test('what is left of an ended connection takes no wake-up from the next one', async () => {
    // Nothing but the notification leads to a look.
    const { worker, sent, hold, answer, keepBack, putForward } = await start({
      quietMs: never * 1_000,
      reclaimEveryMs: never,
      pingEveryMs: never * 1_000,
    });
    hold();
    await enqueue('held');
    await until(() => sent.length === 1, 'a request is in flight');
    // The last statement before the loop waits again: its answer comes when the connection is long gone.
    const { arrived, letGo } = keepBack('pgfetch_next_expiry');
    putForward(2 * never);
    const second = await enqueue('that-makes-it-tend');
    await arrived;
    const ready = new Promise((resolve) => worker.once('ready', resolve));
    await sql.query(`select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'pg_net test'`);
    await ready;
    answer();
    await answered(second);
    await worker.drain();
    await answered(await enqueue('by-the-next-connection'));
    letGo();
    for (let i = 0; i < 5; i += 1) await answered(await enqueue(`afterwards-${i}`));
  });

  test('keeps its pace beside an expired response that somebody has locked, and deletes it afterwards', async () => {
    await sql.query(`insert into net._http_response (id, created) values (-1, now() - interval '1 day')`);
    const user = await session();
    await user.query('begin; select from net._http_response where id = -1 for update');
    const { made, putForward } = await start({ reclaimEveryMs: never });
    // The lock is a transaction that runs for long, beside which the worker tends in the rhythm of reclaiming.
    putForward(2 * never);
    await answered(await enqueue('before'));
    await until(() => made('pgfetch_next_expiry') > 0, 'it has passed over the locked one');
    const looked = made('pgfetch_expire');
    for (let i = 0; i < 50; i += 1) await answered(await enqueue(String(i)));
    expect(made('pgfetch_expire') - looked).toBeLessThan(10);
    await user.query('rollback');
    putForward(2 * never);
    await answered(await enqueue('afterwards'));
    await until(
      async () => (await sql.query('select from net._http_response where id = -1')).rowCount === 0,
      'it is deleted',
    );
  });
});
