import { describe, expect, test } from 'vitest';
import { httpServer } from '../http/loopback.ts';
import { type Backend, can, newestBackends, type Stage } from './backends.ts';
import { startGate } from './gate.ts';

/** Enqueues so many requests in one transaction, with a limit_key or none. */
const enqueue = (url: string, count: number, limitKey?: string): string =>
  `select net.request('GET', '${url}/' || n, timeout_milliseconds => 60000${limitKey === undefined ? '' : `, limit_key => '${limitKey}'`})
   from generate_series(1, ${count}) n`;

/** Answers with the status that `status` holds, and counts what arrives. */
async function startServer(): Promise<{ url: string; status: number; arrived: string[] }> {
  const server = { url: '', status: 200, arrived: [] as string[] };
  const { url } = await httpServer((request, response) => {
    server.arrived.push(request.url ?? '');
    response.writeHead(server.status).end();
  });
  server.url = url;
  return server;
}

async function breaker(stage: Stage): Promise<Record<string, unknown> | undefined> {
  const [row] = await stage.sql.query('select host, key, state, failures, total from net.breakers');
  return row;
}

/** A stage with these limits, and then a worker. */
async function openLimited(backend: Backend, limits: string): Promise<Stage> {
  const stage = await backend.open({ worker: false });
  await stage.sql.query(limits);
  await stage.startWorker();
  return stage;
}

describe.each(newestBackends)('$name', (backend) => {
  test('a host has no more requests at a time than net.limits says, and others are not held up', async () => {
    const stage = await openLimited(
      backend,
      `insert into net.limits (host, concurrency) values ('*', 100), ('127.0.0.1', 3)`,
    );
    const gate = await startGate();
    await stage.sql.query(enqueue(gate.url, 8));
    await stage.until(() => gate.waiting() === 3, 'as many as may are sent');
    await stage.sql.query(enqueue(stage.echoUrl.replace('127.0.0.1', 'localhost'), 5));
    await stage.responses(5);
    for (let answered = 1; answered <= 5; answered += 1) {
      gate.letOneThrough();
      await stage.responses(5 + answered);
      await stage.until(() => gate.waiting() === Math.min(3, 8 - answered), 'the next ones are sent');
    }
    gate.open();
    await stage.responses(13);
    expect(gate.waitingMost()).toBe(3);
    await stage.until(async () => (await stage.count('net.limit_holders')) === 0, 'what is not used is given back');
  });

  test('each limit_key is counted by itself, and obeys its host’s limit beside its own', async () => {
    const stage = await openLimited(
      backend,
      `insert into net.limits (host, key, concurrency)
       values ('127.0.0.1', null, 5), (null, 'tenant-*', 2), (null, 'tenant-1', 1), (null, 'free', null)`,
    );
    const gate = await startGate();
    await stage.sql.query(enqueue(`${gate.url}/one`, 10, 'tenant-1'));
    await stage.sql.query(enqueue(`${gate.url}/two`, 10, 'tenant-2'));
    await stage.until(() => gate.waiting() === 3, 'as many of each as may are sent');
    await stage.sql.query(enqueue(`${gate.url}/three`, 10, 'free'));
    await stage.until(() => gate.waiting() === 5, 'those of a key without a limit fill up their host’s');
    gate.open();
    await stage.responses(30);
    expect(gate.waitingMost()).toBe(5);
  });

  test('what is over a rate waits in the queue, until the limit is changed', async () => {
    const stage = await openLimited(
      backend,
      `insert into net.limits (host, requests_per_second) values ('127.0.0.1', 0.001)`,
    );
    const server = await startServer();
    await stage.sql.query(enqueue(server.url, 300));
    await stage.responses(1);
    await stage.sql.query(enqueue(stage.echoUrl.replace('127.0.0.1', 'localhost'), 5));
    await stage.responses(6);
    expect(server.arrived).toHaveLength(1);
    expect(await stage.count('net.http_request_queue')).toBe(299);
    await stage.sql.query(`update net.limits set requests_per_second = 100000`);
    await stage.responses(305);
    expect(new Set(server.arrived).size).toBe(300);
  });

  test('a host that fails has a pause; then one request tries it, and the others go on', async () => {
    const stage = await openLimited(backend, `insert into net.limits (host, breaker) values ('*', true)`);
    const server = await startServer();
    server.status = 503;
    await stage.sql.query(enqueue(server.url, 10));
    await stage.until(async () => (await breaker(stage))?.['state'] === 'open', 'the breaker opens');
    expect(await breaker(stage)).toEqual({ host: '127.0.0.1', key: null, state: 'open', failures: 10, total: 10 });
    await stage.sql.query(enqueue(server.url, 30));
    await stage.sql.query(enqueue(stage.echoUrl.replace('127.0.0.1', 'localhost'), 5));
    await stage.responses(15);
    expect(server.arrived).toHaveLength(10);

    // The pause ends; the first probe fails, and the pauses grow.
    await stage.sql.query(endPause);
    await stage.until(() => server.arrived.length === 11, 'a probe is sent');
    await stage.until(
      async () => (await stage.count(`net.limit_state where state = 'open' and openings = 2`)) === 1,
      'the breaker is open again',
    );
    expect(server.arrived).toHaveLength(11);
    server.status = 200;
    await stage.sql.query(endPause);
    await stage.responses(45);
    expect(server.arrived).toHaveLength(40);
    await stage.until(
      async () => (await stage.count(`net.breakers where state = 'closed' and host = '127.0.0.1'`)) === 1,
      'the breaker is closed',
    );
  });

  test('net.reset_breaker closes one at once', async () => {
    const stage = await openLimited(backend, `insert into net.limits (key, breaker) values ('partner', true)`);
    const server = await startServer();
    server.status = 500;
    await stage.sql.query(enqueue(server.url, 20, 'partner'));
    await stage.until(async () => (await breaker(stage))?.['state'] === 'open', 'the breaker opens');
    server.status = 200;
    await stage.until(async () => (await stage.count('net.http_request_queue')) === 0, 'those in flight are done');
    await stage.sql.query(enqueue(server.url, 5, 'partner'));
    expect(await stage.sql.query(`select net.reset_breaker(key => 'partner') as was_open`)).toEqual([
      { was_open: true },
    ]);
    await stage.responses(25);
    expect(await stage.sql.query(`select net.reset_breaker('nowhere.example') as was_open`)).toEqual([
      { was_open: false },
    ]);
    await expect(stage.sql.query('select net.reset_breaker()')).rejects.toThrow('takes a host or a key');
  });

  test('what waits behind a limit goes back to the queue when the worker stops', async () => {
    const stage = await backend.open({ worker: false });
    await stage.sql.query(`insert into net.limits (host, concurrency) values ('*', 1)`);
    const worker = await stage.startWorker();
    const gate = await startGate();
    await stage.sql.query(enqueue(gate.url, 10));
    await stage.until(() => gate.waiting() === 1 && worker.held > 1, 'one is sent and others wait');
    const stopped = worker.stop();
    await stage.until(
      async () => (await stage.count('net.http_request_queue where claimed_by is null')) === 9,
      'they are free',
    );
    gate.open();
    await stopped;
    expect(await stage.count('net._http_response')).toBe(1);
  });

  test('tokens: what is due and no more, of a host and a key together', async () => {
    const stage = await backend.open({ worker: false });
    const take = async (host: number | null, key: number | null, wanted: number): Promise<number[]> => {
      const [row] = await stage.sql.query<{ granted: number; wait_ms: number }>(
        `select granted, wait_ms from net._take_tokens(array['host h'], array[${host}]::float8[], array['key k'], array[${key}]::float8[], array[${wanted}])`,
      );
      return [row?.granted ?? -1, row?.wait_ms ?? -1];
    };
    const [first, waitMs = 0] = await take(0.1, null, 5);
    expect(first).toBe(1);
    expect(waitMs).toBeGreaterThan(9_900);
    expect((await take(0.1, null, 5))[0]).toBe(0);
    // A higher rate is not held up by what was due under the lower one.
    expect((await take(2, null, 5))[1]).toBeLessThanOrEqual(500);
    // What was due long ago has lapsed, but for 45 ms.
    await stage.sql.query(`update net.limit_state set next_at = now() - interval '1 hour'`);
    expect(await take(1_000, null, 500)).toEqual([46, expect.any(Number)]);
    // The slower of the two decides, and both are counted.
    await stage.sql.query(`update net.limit_state set next_at = now() - interval '1 hour'`);
    expect((await take(20, 0.1, 500))[0]).toBe(1);
    expect((await take(null, 0.1, 500))[0]).toBe(0);
    // More than is wanted is not taken.
    await stage.sql.query(`update net.limit_state set next_at = now() - interval '1 hour'`);
    expect(await take(1_000, null, 3)).toEqual([3, 0]);
  });

  test('permits: never more in sum than the limit, whoever asks for what', async () => {
    const stage = await backend.open({ worker: false });
    await stage.sql.query(`
      insert into net.worker (id, name, version, role, lease_until, restart_seen)
      select n, 'w', '', 10, now() + interval '1 hour', 0 from generate_series(1, 4) n`);
    // Each worker asks for any number, and has of what it may have any number under way.
    const [row] = await stage.sql.query<{ most: number }>(`
      create function pg_temp.most() returns integer language plpgsql as $$
      declare
        may    integer[] := '{0,0,0,0}';
        uses   integer[] := '{0,0,0,0}';
        given  integer;
        w      integer;
        most   integer := 0;
      begin
        perform setseed(0.5);
        for step in 1 .. 1000 loop
          w := 1 + floor(random() * 4);
          uses[w] := least(floor(random() * 8), greatest(may[w], uses[w]));
          select p.allowed into given
          from net._hold_permits(w, '{host h}', '{5}', array[uses[w]], array[uses[w] + floor(random() * 4)::int]) p;
          may[w] := given;
          most := greatest(most, (select sum(greatest(u.used, u.may)) from unnest(uses, may) u (used, may)));
        end loop;
        return most;
      end $$;
      select pg_temp.most() as most`);
    expect(row?.most).toBe(5);
  });

  test('rows that cannot be obeyed are refused', async () => {
    const stage = await backend.open({ worker: false });
    const inserting = (columns: string, values: string): Promise<unknown> =>
      stage.sql.query(`insert into net.limits (${columns}) values (${values})`);
    await expect(inserting('concurrency', '1')).rejects.toThrow('a host or a key, and not both');
    await expect(inserting('host, key', `'*', 'a'`)).rejects.toThrow('a host or a key, and not both');
    await expect(inserting('host', `'https://api.example.com/'`)).rejects.toThrow('invalid host in net.limits');
    await expect(inserting('host', `'127.1'`)).rejects.toThrow('invalid host in net.limits');
    await expect(inserting('key', `'a*b'`)).rejects.toThrow('invalid key in net.limits');
    await expect(inserting('host, requests_per_second', `'*', 0`)).rejects.toThrow('invalid requests_per_second');
    await expect(inserting('host, requests_per_second', `'*', 'NaN'`)).rejects.toThrow('invalid requests_per_second');
    await expect(inserting('host, concurrency', `'*', 0`)).rejects.toThrow('invalid concurrency');
    await inserting('host, breaker', `'*.example.com', true`);
    await expect(inserting('host', `'*.example.com'`)).rejects.toThrow('limits_host_key');
  });
});

/** As if the time until the next probe had gone by. */
const endPause = `
  update net.limit_state set retry_at = clock_timestamp() where state = 'open';
  notify net_breakers`;

describe.each(newestBackends.filter((backend) => can(backend, 'severalSessions')))(
  'several workers, $name',
  (backend) => {
    test('have no more requests at a time in sum, and each has its share', async () => {
      const stage = await backend.open({ worker: false });
      await stage.sql.query(`insert into net.limits (host, concurrency) values ('127.0.0.1', 6)`);
      const workers = await Promise.all([stage.startWorker(), stage.startWorker(), stage.startWorker()]);
      const gate = await startGate();
      await stage.sql.query(enqueue(gate.url, 1_000));
      await stage.until(() => gate.waiting() === 6 && workers.every(({ held }) => held > 0), 'the limit is reached');
      const shares = `select array_agg(held order by held)::text as shares from net.limit_holders`;
      await stage.until(async () => {
        gate.letOneThrough();
        return (await stage.sql.query(shares))[0]?.['shares'] === '{2,2,2}';
      }, 'each has its share');
      expect(gate.waitingMost()).toBe(6);
      await stage.sql.query('delete from net.http_request_queue where claimed_by is null');
      gate.open();
      await stage.until(async () => (await stage.count('net.http_request_queue')) === 0, 'all is done');
      expect(gate.waitingMost()).toBe(6);
    });

    test('with more workers than requests at a time, each has its turns', async () => {
      const stage = await backend.open({ worker: false });
      await stage.sql.query(`insert into net.limits (host, concurrency) values ('127.0.0.1', 1)`);
      let recording = 0;
      const workers = await Promise.all([stage.startWorker(), stage.startWorker()]);
      for (const worker of workers) worker.once('recorded', () => (recording += 1));
      const gate = await startGate();
      await stage.sql.query(enqueue(gate.url, 1_000));
      await stage.until(() => workers.every(({ held }) => held > 0), 'both hold some');
      await stage.until(() => {
        gate.letOneThrough();
        return recording === 2;
      }, 'both have sent some');
      expect(gate.waitingMost()).toBe(1);
      await stage.sql.query('delete from net.http_request_queue where claimed_by is null');
      gate.open();
      await stage.until(async () => (await stage.count('net.http_request_queue')) === 0, 'all is done');
    });

    test('keep a rate in sum', async () => {
      const stage = await backend.open({ worker: false });
      await stage.sql.query(`insert into net.limits (host, requests_per_second) values ('127.0.0.1', 100)`);
      await Promise.all([stage.startWorker(), stage.startWorker(), stage.startWorker()]);
      const server = await startServer();
      const began = performance.now();
      await stage.sql.query(enqueue(server.url, 150));
      await stage.responses(150);
      // The first, and those of 45 ms, may be sent at once.
      expect(performance.now() - began).toBeGreaterThan(((150 - 1 - 4.5) / 100) * 1_000 - 1);
      expect(new Set(server.arrived).size).toBe(150);
    });

    test('all learn of a breaker that has opened, and send one probe', async () => {
      const stage = await backend.open({ worker: false });
      await stage.sql.query(`insert into net.limits (host, breaker) values ('127.0.0.1', true)`);
      const workers = await Promise.all([stage.startWorker(), stage.startWorker(), stage.startWorker()]);
      const server = await startServer();
      server.status = 500;
      await stage.sql.query(enqueue(server.url, 10));
      await stage.until(async () => (await breaker(stage))?.['state'] === 'open', 'the breaker opens');
      await stage.responses(10);
      await stage.sql.query(enqueue(server.url, 1_000));
      await stage.until(() => workers.every(({ held }) => held > 0), 'each has some that wait');
      await stage.sql.query(endPause);
      await stage.until(
        async () => (await stage.count(`net.limit_state where state = 'open' and openings = 2`)) === 1,
        'the breaker is open again',
      );
      expect(server.arrived).toHaveLength(11);
      await stage.sql.query('delete from net.http_request_queue where claimed_by is null');
    });

    test('those of many keys that wait for one host do not all wait in the worker’s memory', async () => {
      const stage = await openLimited(backend, `insert into net.limits (host, concurrency) values ('127.0.0.1', 1)`);
      const gate = await startGate();
      await stage.sql.query(
        `select net.request('GET', '${gate.url}/', limit_key => 'k' || n, timeout_milliseconds => 60000)
       from generate_series(1, 1500) n`,
      );
      const claimed = 'net.http_request_queue where claimed_by is not null';
      await stage.until(async () => gate.waiting() === 1 && (await stage.count(claimed)) >= 1_000, 'they wait');
      gate.letOneThrough();
      await stage.responses(1);
      await stage.until(() => gate.waiting() === 1, 'the next one is sent');
      expect(await stage.count(claimed)).toBeLessThanOrEqual(1_000 + 200 + 1);
      await stage.sql.query('delete from net.http_request_queue where claimed_by is null');
      await stage.sql.query('update net.limits set concurrency = 1000');
      gate.open();
      await stage.until(async () => (await stage.count('net.http_request_queue')) === 0, 'all is done');
    });

    test('a connection that is lost gives nobody more', async () => {
      const stage = await backend.open({ worker: false });
      await stage.sql.query(`insert into net.limits (host, concurrency) values ('127.0.0.1', 4)`);
      const worker = await stage.startWorker();
      const gate = await startGate();
      await stage.sql.query(enqueue(gate.url, 30));
      await stage.until(() => gate.waiting() === 4, 'the limit is reached');
      const ready = new Promise((resolve) => worker.once('ready', resolve));
      await stage.sql.query(`select pg_terminate_backend(pid) from net.worker`);
      await ready;
      for (let answered = 1; answered <= 3; answered += 1) {
        await stage.until(() => gate.waiting() === 4, 'the next one is sent');
        gate.letOneThrough();
        await stage.responses(answered);
      }
      gate.open();
      await stage.responses(30);
      expect(gate.waitingMost()).toBe(4);
    });

    test('what a worker held that is gone is free', async () => {
      const stage = await backend.open({ worker: false });
      await stage.sql.query(`insert into net.limits (host, concurrency) values ('127.0.0.1', 2)`);
      await stage.sql.query(`
      insert into net.worker (id, name, version, role, lease_until, restart_seen)
      select n, 'other', '', 10, now() + n * interval '1 minute', 0 from (values (-1), (1)) v (n);
      insert into net.limit_holders
      select 'host 127.0.0.1', n, 1, 1, now() from (values (-1), (0), (1)) v (n)`);
      await stage.startWorker();
      const gate = await startGate();
      await stage.sql.query(enqueue(gate.url, 3));
      await stage.until(() => gate.waiting() === 1, 'what the living one does not hold is taken');
      await stage.sql.query('delete from net.worker where id = 1');
      await stage.until(() => gate.waiting() === 2, 'what it held is taken');
      gate.open();
      await stage.responses(3);
      expect(gate.waitingMost()).toBe(2);
    });
  },
);
