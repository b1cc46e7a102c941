import { describe, expect, test } from 'vitest';
import { newestBackends, type Stage } from './backends.ts';
import { startGate } from './gate.ts';

// priority: which of the requests that wait goes first.

const request = (stage: Stage, url: string, priority?: number): Promise<number> =>
  stage.enqueue(
    `select net.request('GET', '${url}', timeout_milliseconds := 60000, priority := ${priority ?? 'null'})`,
  );

describe.each(newestBackends)('$name', (backend) => {
  test('a higher one is sent first, equal ones in their order, and 0 is that of all others', async () => {
    const stage = await backend.open({ worker: false });
    await stage.sql.query(`alter role current_user set pg_net.concurrency = 1`);
    for (const [path, priority] of [['a'], ['b', 0], ['c', 3], ['d', 9], ['e', 1], ['f', 9], ['g']] as const) {
      await request(stage, `${stage.echoUrl}/${path}`, priority);
    }
    const worker = await stage.startWorker();
    await worker.drain();
    expect(stage.receivedPaths).toEqual(['/d', '/f', '/c', '/e', '/a', '/b', '/g']);
  });

  test('at a host without room, too: before those that were claimed earlier', async () => {
    const stage = await backend.open({ worker: false });
    await stage.sql.query(`alter role current_user set pg_net.concurrency_per_origin = 1`);
    const arrived: string[] = [];
    const gate = await startGate(({ url }) => {
      arrived.push(url ?? '');
      return false;
    });
    const worker = await stage.startWorker();
    for (const path of ['first', 'second']) await request(stage, `${gate.url}/${path}`);
    await stage.until(() => gate.waiting() === 1 && worker.held === 2, 'the second waits for room');
    for (const [path, priority] of [['third'], ['low', 1], ['high', 8]] as const) {
      await request(stage, `${gate.url}/${path}`, priority);
    }
    for (let answered = 1; answered <= 5; answered += 1) {
      await stage.until(() => gate.waiting() === 1, `number ${answered} has arrived`);
      gate.letOneThrough();
      await stage.responses(answered);
    }
    expect(arrived).toEqual(['/first', '/second', '/high', '/low', '/third']);
  });

  test('thousands with a priority to a dead host hold up nobody else, nor others with one', async () => {
    const stage = await backend.open();
    const dead = await startGate();
    const enqueue = (url: string, count: number, priority: number): string => `
      select net.request('GET', '${url}' || n, timeout_milliseconds := 60000, priority := ${priority})
      from generate_series(1, ${count}) n`;
    await stage.sql.query(enqueue(`${dead.url}/`, 3_000, 9));
    await stage.until(() => dead.waiting() === 150, 'its share of the slots is taken');
    await stage.sql.query(enqueue(`${stage.echoUrl}/get?urgent=`, 20, 5));
    await stage.sql.query(enqueue(`${stage.echoUrl}/get?n=`, 20, 0));
    await stage.responses(40);
    await stage.sql.query(`delete from net.http_request_queue where claimed_by is null`);
    expect(dead.waitingMost()).toBe(150);
  });
});
