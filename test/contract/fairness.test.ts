import { describe, expect, test } from 'vitest';
import { newestBackends, type Stage } from './backends.ts';
import { startGate } from './gate.ts';

/** Enqueues so many requests in one transaction. */
const enqueue = (url: string, count: number): string =>
  `select net.http_get('${url}' || n, timeout_milliseconds := 60000) from generate_series(1, ${count}) n`;

/** Runs it as another role than the one that floods. */
async function asRole(stage: Stage, statement: string): Promise<void> {
  await stage.sql.query(`create role fairness_other; set role fairness_other`);
  await stage.sql.query(statement);
  // What it has enqueued is sent all the same.
  await stage.sql.query('reset role; drop role fairness_other');
}

describe.each(newestBackends)('$name', (backend) => {
  test('a host that does not answer takes three quarters of the slots and holds no other up', async () => {
    const stage = await backend.open();
    const dead = await startGate();
    // Many more than there are slots, and than one walk goes over.
    await stage.sql.query(enqueue(`${dead.url}/`, 5_000));
    await stage.until(() => dead.waiting() === 150, 'its share of the slots is taken');
    await stage.sql.query(enqueue(`${stage.echoUrl}/get?n=`, 50));
    await stage.responses(50);
    expect(dead.waitingMost()).toBe(150);
    expect(await stage.count('net._http_response where status_code = 200')).toBe(50);
    // Nor those that come while it goes on.
    dead.letOneThrough();
    await stage.responses(51);
    await stage.sql.query(enqueue(`${stage.echoUrl}/get?n=`, 50));
    await stage.responses(101);
    await stage.sql.query(`delete from net.http_request_queue where claimed_by is null`);
  });

  test('several such hosts share the slots and leave some free', async () => {
    const stage = await backend.open();
    const dead = await Promise.all([startGate(), startGate(), startGate()]);
    for (const gate of dead) await stage.sql.query(enqueue(`${gate.url}/`, 300));
    await stage.until(() => dead.every((gate) => gate.waiting() > 0), 'each has some');
    await stage.sql.query(enqueue(`${stage.echoUrl}/get?n=`, 50));
    await stage.responses(50);
    expect(dead.map((gate) => gate.waitingMost()).reduce((sum, most) => sum + most)).toBeLessThan(200);
    await stage.sql.query(`delete from net.http_request_queue where claimed_by is null`);
  });

  test('one role’s flood of a host holds up no other role’s requests to it', async () => {
    const stage = await backend.open();
    const gate = await startGate(({ url }) => url?.startsWith('/quick') === true);
    await stage.sql.query(enqueue(`${gate.url}/`, 2_000));
    await stage.until(() => gate.waiting() === 150, 'its share of the slots is taken');
    await asRole(stage, enqueue(`${gate.url}/quick/`, 20));
    await stage.responses(20);
    expect(gate.waitingMost()).toBe(150);
    expect(await stage.count('net.http_request_queue')).toBe(2_000);
    await stage.sql.query(`delete from net.http_request_queue where claimed_by is null`);
  });

  test('nor does one to more hosts than there are slots', async () => {
    const stage = await backend.open();
    const gate = await startGate();
    // User information makes them as many origins.
    await stage.sql.query(
      `select net.http_get(replace('${gate.url}/', '//', '//' || n || '@'), timeout_milliseconds := 60000)
       from generate_series(1, 2000) n`,
    );
    await stage.until(() => gate.waiting() === 187, 'its share of the slots is taken');
    await asRole(stage, enqueue(`${stage.echoUrl}/get?n=`, 20));
    await stage.responses(20);
    expect(gate.waitingMost()).toBe(187);
    expect(await stage.count('net.http_request_queue')).toBe(2_000);
    // Those that wait for room do not add up while it goes on.
    expect(await stage.count('net.http_request_queue where claimed_by is not null')).toBeLessThan(187 + 200);
    await stage.sql.query(`delete from net.http_request_queue where claimed_by is null`);
  });

  test('of what pg_net.concurrency_per_origin leaves each role has its turns', async () => {
    const stage = await backend.open({ worker: false });
    await stage.sql.query(`alter role current_user set pg_net.concurrency_per_origin = 2`);
    await stage.startWorker();
    const gate = await startGate();
    await stage.sql.query(enqueue(`${gate.url}/`, 500));
    await stage.until(() => gate.waiting() === 2, 'its slots are taken');
    await asRole(stage, enqueue(`${gate.url}/other/`, 5));
    const others = 'net.http_request_queue where set_role is not null';
    for (let answered = 0; (await stage.count(others)) > 0; answered += 1) {
      expect(answered).toBeLessThan(100);
      await stage.until(() => gate.waiting() === 2, 'its slots are taken');
      gate.letOneThrough();
      await stage.responses(answered + 1);
    }
    expect(gate.waitingMost()).toBe(2);
    await stage.sql.query(`delete from net.http_request_queue where claimed_by is null`);
  });

  test('whatever the shares, every request is sent once', async () => {
    const stage = await backend.open({ worker: false });
    await stage.sql.query(`alter role current_user set pg_net.concurrency = 4`);
    const gates = await Promise.all([startGate(), startGate(), startGate()]);
    // Interleaved, so that each look finds some of all.
    await stage.sql.query(
      `select net.http_get((array['${gates.map((gate) => gate.url).join("','")}'])[1 + n % 3] || '/' || n, timeout_milliseconds := 60000)
       from generate_series(0, 299) n`,
    );
    for (const gate of gates) gate.open();
    const worker = await stage.startWorker();
    await worker.drain();
    expect(await stage.count('net._http_response where status_code = 200')).toBe(300);
    expect(await stage.count('net.http_request_queue')).toBe(0);
  });

  test('pg_net.concurrency_per_origin bounds what is in flight to one host', async () => {
    const stage = await backend.open({ worker: false });
    await stage.sql.query(`alter role current_user set pg_net.concurrency_per_origin = 2`);
    await stage.startWorker();
    const gate = await startGate();
    await stage.sql.query(enqueue(`${gate.url}/`, 12));
    for (let answered = 0; answered < 12; answered += 1) {
      await stage.until(() => gate.waiting() === Math.min(2, 12 - answered), 'its slots are taken');
      gate.letOneThrough();
      await stage.responses(answered + 1);
    }
    expect(gate.waitingMost()).toBe(2);
  });

  test('what waits for room at its host goes back to the queue when the worker stops', async () => {
    const stage = await backend.open({ worker: false });
    await stage.sql.query(`alter role current_user set pg_net.concurrency_per_origin = 1`);
    const worker = await stage.startWorker();
    const gate = await startGate();
    await stage.sql.query(enqueue(`${gate.url}/`, 10));
    await stage.until(() => gate.waiting() === 1 && worker.held > 1, 'one is sent and others wait for room');
    const stopped = worker.stop();
    await stage.until(
      async () => (await stage.count('net.http_request_queue where claimed_by is null')) === 9,
      'they are free',
    );
    gate.open();
    await stopped;
    expect(await stage.count('net._http_response where status_code = 200')).toBe(1);
    expect(await stage.count('net.http_request_queue where claimed_by is null')).toBe(9);
  });
});
