import { describe, expect, test } from 'vitest';
import { can, newestBackends, type Stage } from './backends.ts';
import { startGate } from './gate.ts';

// run_at and delay: a request that is to be sent later.

/** Nothing but a notification or an alarm makes such a worker look. */
const timing = { quietMs: 1_000_000_000, reclaimEveryMs: 1_000_000_000 };

const request = (stage: Stage, path: string, when: string): Promise<number> =>
  stage.enqueue(`select net.request('GET', '${stage.echoUrl}${path}', ${when})`);

describe.each(newestBackends)('$name', (backend) => {
  test('is sent at its time and not before, though the worker was idle', async () => {
    const stage = await backend.open({ worker: false });
    const worker = await stage.startWorker({ timing });
    await stage.get('/first');
    await worker.drain();
    const ids = [
      await request(stage, '/delay', `delay := '250 milliseconds'`),
      await request(stage, '/run_at', `run_at := clock_timestamp() + interval '50 milliseconds'`),
    ];
    const due = await stage.sql.query<{ id: number; due_at: Date }>(`
      select id, due_at from net.http_request_queue where due_at is not null
      union all select id, created from net._http_response where id = any ('{${ids}}') and created is null`);
    for (const id of ids) {
      const { created } = await stage.response(id);
      const dueAt = due.find((row) => row.id === id)?.due_at;
      if (dueAt !== undefined) expect(created.getTime()).toBeGreaterThanOrEqual(dueAt.getTime());
    }
    expect(stage.receivedPaths.toSorted()).toEqual(['/delay', '/first', '/run_at']);
  });

  test('what waits for its time when the worker starts is sent, and what is far off is not waited for', async () => {
    const stage = await backend.open({ worker: false });
    const id = await request(stage, '/soon', `delay := '200 milliseconds'`);
    await request(stage, '/in-a-century', `delay := '100 years'`);
    const worker = await stage.startWorker({ timing });
    await worker.drain();
    expect(await stage.response(id)).toMatchObject({ status_code: 200 });
    await worker.drain();
    expect(stage.receivedPaths).toEqual(['/soon']);
    expect(await stage.count('net.http_request_queue where claimed_by is null')).toBe(1);
  });

  test('a time that has passed is now', async () => {
    const { sql } = await backend.open({ worker: false });
    await sql.query(`
      select net.request('GET', 'http://h', run_at := '2001-01-01');
      select net.request('GET', 'http://h', delay := '-1 day');
      select net.request('GET', 'http://h', delay := '0')`);
    expect(await sql.query('select due_at from net.http_request_queue')).toEqual(Array(3).fill({ due_at: null }));
  });

  test('behind 20,000 of a dead host that are due again, those of another are found at once', async () => {
    const stage = await backend.open();
    const enqueueDue = (url: string, count: number): string => `
      insert into net.http_request_queue (method, url, headers, timeout_milliseconds, due_at)
      select 'GET', '${url}' || n, '{}', 60000, now() from generate_series(1, ${count}) n;
      select net.wake()`;
    const dead = await startGate();
    await stage.sql.query(enqueueDue(`${dead.url}/`, 20_000));
    await stage.until(() => dead.waiting() === 150, 'its share of the slots is taken');
    await stage.sql.query(enqueueDue(`${stage.echoUrl}/get?due=`, 50));
    await stage.sql.query(
      `select net.http_get('${stage.echoUrl}/get?n=' || n) from generate_series(1, 50) n; select net.wake()`,
    );
    await stage.responses(100);
    expect(dead.waitingMost()).toBe(150);
    await stage.sql.query(`delete from net.http_request_queue where claimed_by is null`);
  });

  if (can(backend, 'severalSessions')) {
    test('of several workers one sends it', async () => {
      const stage = await backend.open({ worker: false });
      const workers = [];
      for (let i = 0; i < 3; i++) workers.push(await stage.startWorker({ timing }));
      await stage.sql.query(`
        select net.request('GET', '${stage.echoUrl}/' || n, run_at := now() + interval '300 milliseconds')
        from generate_series(1, 200) n`);
      await stage.responses(200);
      await Promise.all(workers.map((worker) => worker.drain()));
      expect(stage.received).toHaveLength(200);
    });

    test('one that is committed after its time is sent then', async () => {
      const stage = await backend.open({ worker: false });
      const worker = await stage.startWorker({ timing });
      const other = await stage.session();
      await other.query(`begin; select net.request('GET', '${stage.echoUrl}/late', delay := '20 milliseconds')`);
      await request(stage, '/due', `delay := '30 milliseconds'`);
      await stage.responses(1);
      await other.query('commit');
      await stage.responses(2);
      await worker.drain();
      expect(stage.receivedPaths).toEqual(['/due', '/late']);
    });
  }
});
