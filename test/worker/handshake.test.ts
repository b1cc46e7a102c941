import pg from 'pg';
import { afterEach, beforeAll, describe, expect, test } from 'vitest';
import type { QueueRow } from '../../src/core/request.ts';
import type { Database, Parameter, Row, Statement } from '../../src/postgres/database.ts';
import { connectPg } from '../../src/postgres/pg.ts';
import { register } from '../../src/store/register.ts';
import { defaultSettings } from '../../src/store/settings.ts';
import { promiseChannel, wakeChannel } from '../../src/store/wake.ts';
import { Flights } from '../../src/worker/flights.ts';
import { Service } from '../../src/worker/service.ts';
import { Signal } from '../../src/worker/signal.ts';
import { defaultTiming } from '../../src/worker/timing.ts';
import { installedDatabase } from '../support/installed.ts';
import { startTestPostgres, until } from '../support/servers.ts';

/**
 * The hand-shake between a request that is enqueued and a worker that is going idle, interleaved at every step: nothing
 * here depends on who happens to be faster. The worker's statements pass a gate one by one; between them the enqueuing
 * transaction makes its own steps. Everything that could cover up a missed wake-up (the sweep after a quiet time, the
 * reclaiming, the end of a promise) is put off beyond the test.
 */
const never = 1_000_000_000;

/** Lets the statements of a session pass one at a time, when asked to. */
class Gate {
  #closed = false;
  /** In the order in which they were given; the worker may give two at once. */
  #waiting: { readonly name: string; readonly pass: () => void; readonly done: Promise<void> }[] = [];

  close(): void {
    this.#closed = true;
  }

  open(): void {
    this.#closed = false;
    for (const waiting of this.#waiting.splice(0)) waiting.pass();
  }

  get waitingFor(): string | undefined {
    return this.#waiting[0]?.name;
  }

  /** Lets the waiting statement run, and resolves when it has its answer. */
  async step(): Promise<void> {
    const waiting = this.#waiting.shift();
    waiting?.pass();
    await waiting?.done;
  }

  wrap(db: Database): Database {
    const gated = async <R extends Row>(
      statement: Statement,
      parameters?: readonly Parameter[],
    ): Promise<readonly R[]> => {
      let answered = (): void => {};
      // Recording goes on beside; it has no part in the hand-shake.
      if (this.#closed && statement.name !== 'pgfetch_settle') {
        const done = new Promise<void>((resolve) => {
          answered = resolve;
        });
        await new Promise<void>((resolve) => {
          this.#waiting.push({ name: statement.name, pass: resolve, done });
        });
      }
      try {
        return await db.query<R>(statement, parameters);
      } finally {
        answered();
      }
    };
    return new Proxy(db, { get: (target, key) => (key === 'query' ? gated : Reflect.get(target, key)) });
  }
}

/** Every order of `workerSteps` W's and `enqueueSteps` E's. */
function interleavings(workerSteps: number, enqueueSteps: number): string[] {
  if (workerSteps === 0) return ['E'.repeat(enqueueSteps)];
  if (enqueueSteps === 0) return ['W'.repeat(workerSteps)];
  return [
    ...interleavings(workerSteps - 1, enqueueSteps).map((rest) => `W${rest}`),
    ...interleavings(workerSteps, enqueueSteps - 1).map((rest) => `E${rest}`),
  ];
}

type Rig = {
  readonly gate: Gate;
  readonly service: Service;
  readonly sent: Set<string>;
  readonly stop: () => Promise<void>;
};

async function startRig(url: string): Promise<Rig> {
  const gate = new Gate();
  const db = await connectPg({ connectionString: url, applicationName: 'pg_net test', connectTimeoutMs: 10_000 });
  const registration = await register(db, {
    workerId: null,
    name: 'rig',
    version: 'test',
    ownsSession: true,
    leaseMs: never,
  });
  if (registration === null) throw new Error('not registered');
  const sent = new Set<string>();
  const flights = new Flights(async ({ row }: { row: QueueRow }) => {
    sent.add(row.url);
    return {
      kind: 'reply',
      status: 200,
      headers: [],
      body: new Uint8Array(),
      truncated: false,
      timings: { dnsMs: 0, connectMs: 0, transferMs: 0, totalMs: 0 },
    };
  });
  const orders = { stopping: false, restart: false, drains: 0 };
  const signal = new Signal();
  const service = new Service({
    db: gate.wrap(db),
    ...registration,
    // Few rows a claim, so that a few more make the worker busy: it promises.
    settings: { ...defaultSettings, batchSize: 4 },
    timing: {
      ...defaultTiming,
      leaseMs: never,
      promiseMs: never,
      quietMs: never,
      reclaimEveryMs: never,
      pingEveryMs: never,
      pausedEveryMs: never,
      lingerMs: 5,
    },
    listens: true,
    flights,
    signal,
    orders,
    now: () => performance.now(),
    onRecorded: () => {},
    onDrained: () => {},
    warn: () => {},
  });
  await db.listen(wakeChannel, () => service.wake());
  await db.listen(promiseChannel, () => service.promiseAnnounced());
  const running = service.run();
  return {
    gate,
    service,
    sent,
    stop: async () => {
      gate.open();
      orders.stopping = true;
      signal.raise();
      await running;
      await db.close();
      await service.finish();
    },
  };
}

describe.each(['read committed', 'repeatable read', 'serializable'] as const)('under %s', (isolation) => {
  let url: string;
  const closing: (() => Promise<void>)[] = [];

  beforeAll(async () => {
    url = (await installedDatabase(await startTestPostgres({ major: 18 }))).url;
  });

  afterEach(async () => {
    for (const close of closing.splice(0).reverse()) await close();
  });

  test('no interleaving of enqueueing and going idle loses a request', { timeout: 180_000 }, async () => {
    const rig = await startRig(url);
    closing.push(rig.stop);
    const client = new pg.Client(url);
    await client.connect();
    closing.push(() => client.end());
    let stepsGated = 0;

    for (const [number, order] of interleavings(6, 3).entries()) {
      const name = `http://receiver/${isolation.replace(' ', '-')}/${number}`;
      // Make the worker promise, and stop it where its next statement is the withdrawal.
      await client.query(
        `insert into net.http_request_queue (method, url, headers, timeout_milliseconds)
         select 'GET', 'http://receiver/before', '{}', 2000 from generate_series(1, 6)`,
      );
      rig.gate.close();
      await client.query('select net.wake()');
      while (rig.gate.waitingFor !== 'pgfetch_withdraw') {
        await until(() => rig.gate.waitingFor !== undefined, 'the worker to make a statement');
        if (rig.gate.waitingFor !== 'pgfetch_withdraw') await rig.gate.step();
      }

      const enqueue = enqueueSteps(client, isolation, name);
      await enqueue.begin();
      const steps = [enqueue.insert, enqueue.compare, enqueue.commit];
      for (const turn of order) {
        if (turn === 'E') {
          await steps.shift()?.();
        } else {
          await until(() => rig.gate.waitingFor !== undefined || rig.service.resting, 'the worker to go on or to rest');
          if (rig.gate.waitingFor !== undefined) {
            stepsGated += 1;
            await rig.gate.step();
          }
        }
      }
      rig.gate.open();
      await until(() => rig.sent.has(name), `the request of interleaving ${order} to be sent`, 5_000);
      await until(() => rig.service.resting, 'the worker to rest');
    }
    expect(stepsGated).toBeGreaterThan(84);
  });

  test('a long writer beside delays nobody and its own request is not lost', async () => {
    const rig = await startRig(url);
    closing.push(rig.stop);
    const writer = new pg.Client(url);
    await writer.connect();
    closing.push(() => writer.end());
    const other = new pg.Client(url);
    await other.connect();
    closing.push(() => other.end());

    await writer.query(`begin isolation level ${isolation}`);
    await writer.query(`select net.http_get('http://receiver/long')`);
    for (let i = 0; i < 20; i++) {
      await other.query(`select net.http_get('http://receiver/short/' || $1::text)`, [i]);
      await until(() => rig.sent.has(`http://receiver/short/${i}`), 'a short request beside the long writer');
    }
    expect(rig.sent.has('http://receiver/long')).toBe(false);
    await writer.query('commit');
    await until(() => rig.sent.has('http://receiver/long'), 'the request of the long writer');
  });
});

/** The steps that net.http_get makes, one statement each, so that others can come between them. */
function enqueueSteps(client: pg.Client, isolation: string, url: string) {
  return {
    // Fixes the snapshot of the stricter levels before anything else happens.
    begin: () => client.query(`begin isolation level ${isolation}; select 1 from net.installation`),
    insert: async () => {
      await client.query('select pg_current_xact_id()');
      await client.query(
        `insert into net.http_request_queue (method, url, headers, timeout_milliseconds) values ('GET', $1, '{}', 2000)`,
        [url],
      );
    },
    compare: () =>
      client.query(
        `select net._wake() where pg_sequence_last_value('net.wake_promise') <= date_part('epoch', clock_timestamp()) * 1000`,
      ),
    commit: () => client.query('commit'),
  };
}
