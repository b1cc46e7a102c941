import pg from 'pg';
import type { Outcome } from '../../src/core/outcome.ts';
import type { QueueRow } from '../../src/core/request.ts';
import type { Database, Parameter, Row, Statement } from '../../src/postgres/database.ts';
import { connectPg } from '../../src/postgres/pg.ts';
import { noSecrets } from '../../src/secrets/secrets.ts';
import { register } from '../../src/store/register.ts';
import { sessionSettings } from '../../src/store/session.ts';
import { defaultSettings } from '../../src/store/settings.ts';
import { promiseChannel, wakeChannel } from '../../src/store/wake.ts';
import { Flights } from '../../src/worker/flights.ts';
import { Service } from '../../src/worker/service.ts';
import { Signal } from '../../src/worker/signal.ts';
import { Standings } from '../../src/worker/standings.ts';
import { defaultTiming } from '../../src/worker/timing.ts';

/**
 * Workers and enqueuing transactions that go one step at a time, so that every order of their steps can be tried: nothing
 * depends on who happens to be faster. Both run the real thing; a worker's statements pass a gate, and the documented
 * functions are stopped by a trigger between their INSERT and their look at the promise.
 */

/** Longer than any test. Everything that could cover up a missed wake-up is put off by it. */
export const never = 1_000_000_000;

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
export function interleavings(workerSteps: number, enqueueSteps: number): string[] {
  if (workerSteps === 0) return ['E'.repeat(enqueueSteps)];
  if (enqueueSteps === 0) return ['W'.repeat(workerSteps)];
  return [
    ...interleavings(workerSteps - 1, enqueueSteps).map((rest) => `W${rest}`),
    ...interleavings(workerSteps, enqueueSteps - 1).map((rest) => `E${rest}`),
  ];
}

/** Waits for what comes within milliseconds, at once when it is there. */
export async function soon(probe: () => boolean, what: string, timeoutMs: number = 10_000): Promise<void> {
  const beganMs = performance.now();
  while (!probe()) {
    const waitedMs = performance.now() - beganMs;
    if (waitedMs > timeoutMs) throw new Error(`Waited ${timeoutMs} ms in vain until ${what}`);
    await new Promise((resolve) => (waitedMs < 2 ? setImmediate(resolve) : setTimeout(resolve, 1)));
  }
}

/** A worker that goes one statement at a time. Its requests are answered at once. */
export type SteppedWorker = {
  readonly gate: Gate;
  readonly service: Service;
  /** URLs, in order. */
  readonly sent: readonly string[];
  /** How many announcements of promises have reached it, its own included. */
  readonly announcementsHeard: number;
  /** Lets its next statement run, or waits until it rests. Says whether there was one. */
  step(): Promise<boolean>;
  /** Lets it run up to that statement, and stops it there. */
  stopBefore(statementName: string): Promise<void>;
  /** Makes everything due that it had put off to a later time. */
  passTime(): void;
  /** Ends its session where it stands, as when the process is killed. */
  die(): Promise<void>;
  stop(): Promise<void>;
};

/** Starts one that listens, and whose batches are of four, so that a few more requests make it busy: then it promises. */
export async function startSteppedWorker(url: string, name: string): Promise<SteppedWorker> {
  const gate = new Gate();
  const db = await connectPg({
    connectionString: url,
    applicationName: 'pg_net test',
    connectTimeoutMs: 10_000,
    sessionSettings,
  });
  const registration = await register(db, {
    workerId: null,
    name,
    version: 'test',
    ownsSession: true,
    leaseMs: never,
  });
  if (registration === null) throw new Error('not registered');
  const sent: string[] = [];
  const send = async ({ row }: { row: QueueRow }): Promise<Outcome> => {
    sent.push(row.url);
    return {
      kind: 'reply',
      status: 200,
      headers: [],
      body: new Uint8Array(),
      truncated: false,
      timings: { dnsMs: 0, connectMs: 0, transferMs: 0, totalMs: 0 },
    };
  };
  const flights = new Flights({ furnish: noSecrets.furnish, clock: Date.now, random: Math.random, send });
  const orders = { stopping: false, restart: false, drains: 0 };
  const signal = new Signal();
  let ahead = 0;
  const service = new Service({
    db: gate.wrap(db),
    random: Math.random,
    orphansLeft: false,
    workerId: registration.workerId,
    obeyed: registration.asked,
    settings: { ...defaultSettings, batchSize: 4 },
    timing: {
      ...defaultTiming,
      leaseMs: never,
      promiseMs: never,
      quietMs: Number.MAX_SAFE_INTEGER,
      reclaimEveryMs: never,
      pingEveryMs: Number.MAX_SAFE_INTEGER,
      pausedEveryMs: Number.MAX_SAFE_INTEGER,
      lingerMs: 5,
    },
    listens: true,
    flights,
    standings: new Standings({ db, hasPolicies: false, roleNames: [], now: () => 0 }),
    signal,
    orders,
    now: () => performance.now() + ahead,
    onRecorded: () => {},
    lookForCallbacks: () => {},
    onDrained: () => {},
    warn: () => {},
  });
  let announcementsHeard = 0;
  await db.listen(wakeChannel, () => service.wake());
  await db.listen(promiseChannel, () => {
    announcementsHeard += 1;
    service.promiseAnnounced();
  });
  let isOver = false;
  const over = service.run().then(
    () => {
      isOver = true;
    },
    () => {
      isOver = true;
    },
  );
  const hasCome = (): boolean => isOver || gate.waitingFor !== undefined;
  const end = async (): Promise<void> => {
    await over;
    await db.close();
    await service.finish();
  };
  return {
    gate,
    service,
    sent,
    get announcementsHeard() {
      return announcementsHeard;
    },
    step: async () => {
      await soon(() => hasCome() || service.resting, `${name} goes on or rests`);
      const isThere = gate.waitingFor !== undefined;
      await gate.step();
      return isThere;
    },
    stopBefore: async (statementName) => {
      for (;;) {
        await soon(hasCome, `${name} makes a statement, at last ${statementName}`);
        if (isOver) throw new Error(`${name} ended before ${statementName}`);
        if (gate.waitingFor === statementName) return;
        await gate.step();
      }
    },
    passTime: () => {
      ahead += 2 * never;
      signal.raise();
    },
    die: async () => {
      await db.close();
      gate.open();
      flights.abandon();
      signal.raise();
      orders.stopping = true;
      await end();
    },
    stop: async () => {
      gate.open();
      orders.stopping = true;
      signal.raise();
      await end();
    },
  };
}

/** PostgreSQL's isolation levels; READ UNCOMMITTED is READ COMMITTED. */
export const isolationLevels = ['read committed', 'repeatable read', 'serializable'] as const;
export type IsolationLevel = (typeof isolationLevels)[number];

const stopKey = 7_301;

const documentedFunctions = {
  get: 'select net.http_get($1) as id',
  post: 'select net.http_post($1) as id',
  delete: 'select net.http_delete($1) as id',
};

/**
 * A session that enqueues through the documented function, which stops after its INSERT: `insert` returns there, and `compare`
 * lets it look at the promise and return. Only one of them in a database.
 */
export class SteppedEnqueue {
  readonly #client: pg.Client;
  readonly #controller: pg.Client;
  readonly #pid: number;
  #call: Promise<bigint> | undefined;

  static async open(url: string): Promise<SteppedEnqueue> {
    const client = new pg.Client(url);
    const controller = new pg.Client(url);
    await client.connect();
    await controller.connect();
    await controller.query(`
      create or replace function public.stop_here() returns trigger language plpgsql as $$
      begin
        perform pg_advisory_lock_shared(${stopKey});
        perform pg_advisory_unlock_shared(${stopKey});
        return null;
      end $$;
      create or replace trigger stop_here after insert on net.http_request_queue
        for each row when (new.url like '%/stepped/%') execute function public.stop_here()`);
    const { rows } = await client.query<{ pid: number }>('select pg_backend_pid() as pid');
    return new SteppedEnqueue(client, controller, rows[0]?.pid ?? 0);
  }

  private constructor(client: pg.Client, controller: pg.Client, pid: number) {
    this.#client = client;
    this.#controller = controller;
    this.#pid = pid;
  }

  /** Begins, and takes the snapshot of the stricter levels before anything else happens. */
  async begin(isolation: IsolationLevel): Promise<void> {
    await this.#client.query(`begin isolation level ${isolation}; select 1 from net.installation`);
  }

  async execute(statement: string): Promise<void> {
    await this.#client.query(statement);
  }

  /** Up to after the INSERT, which each documented function has of its own. `path` names the request: its URL is `http://receiver/stepped/<path>`. */
  async insert(path: string, method: keyof typeof documentedFunctions = 'get'): Promise<void> {
    await this.#controller.query('select pg_advisory_lock($1)', [stopKey]);
    this.#call = this.#client
      .query<{ id: string }>(documentedFunctions[method], [steppedUrl(path)])
      .then(({ rows }) => BigInt(rows[0]?.id ?? 0));
    this.#call.catch(() => {});
    for (;;) {
      const { rows } = await this.#controller.query(
        `select from pg_locks where locktype = 'advisory' and objid = $1 and pid = $2 and not granted`,
        [stopKey, this.#pid],
      );
      if (rows.length > 0) return;
    }
  }

  /** The rest of the function: it compares the promise with the clock, notifies or not, and returns the request's id. */
  async compare(): Promise<bigint> {
    await this.#controller.query('select pg_advisory_unlock($1)', [stopKey]);
    return (await this.#call) ?? 0n;
  }

  /** Both, and the outcome forgotten: for what is rolled back. */
  async enqueueAtOnce(path: string): Promise<void> {
    await this.#client.query('select net.http_get($1)', [`http://receiver/at-once/${path}`]);
  }

  async close(): Promise<void> {
    await this.#controller.end();
    await this.#client.end();
  }
}

export function steppedUrl(path: string): string {
  return `http://receiver/stepped/${path}`;
}
