import { describe, expect, test, vi } from 'vitest';
import { httpServer } from '../http/loopback.ts';
import { can, newestBackends, type Sql, type Stage } from './backends.ts';
import { startGate } from './gate.ts';

// Requests with the same ordering_key: one after another, in the order in which they were made.

vi.setConfig({ testTimeout: 60_000 });

/** Enqueues requests of these paths, all with the key; returns the ids. */
async function ask(
  sql: Sql,
  url: string,
  key: string,
  paths: readonly string[],
  more = '',
): Promise<readonly number[]> {
  const rows = await sql.query<{ id: number }>(
    `select net.request('GET', '${url}/' || p, ordering_key := '${key}', timeout_milliseconds := 60000${more}) as id
     from unnest('{${paths.join(',')}}'::text[]) with ordinality o (p, n) order by n`,
  );
  return rows.map(({ id }) => id);
}

/** Answers with the status that the path ends with (`/a-500`), 200 by default; notes the paths in the order of arrival. */
async function receiver(): Promise<{ readonly url: string; readonly paths: string[]; answers: Map<string, number> }> {
  const paths: string[] = [];
  const answers = new Map<string, number>();
  const { url } = await httpServer((request, response) => {
    const path = (request.url ?? '').slice(1);
    paths.push(path);
    response.writeHead(answers.get(path) ?? Number(/-(\d{3})$/.exec(path)?.[1] ?? 200)).end();
  });
  return { url, paths, answers };
}

async function isBlocked(stage: Stage, id: number): Promise<boolean> {
  const [row] = await stage.sql.query<{ blocks: boolean }>(
    `select due_at = 'infinity' and claimed_by is null as blocks from net.http_request_queue where id = ${id}`,
  );
  return row?.blocks === true;
}

describe.each(newestBackends)('$name', (backend) => {
  test('of one key one at a time, in their order; other keys go beside', async () => {
    const stage = await backend.open();
    const gate = await startGate((request) => !(request.url ?? '').startsWith('/slow'));
    await ask(stage.sql, gate.url, 'a', ['slow1', 'slow2', 'slow3']);
    const others = await ask(stage.sql, gate.url, 'b', ['1', '2', '3']);
    for (const id of others) expect(await stage.response(id)).toMatchObject({ status_code: 200 });
    expect(gate.waiting()).toBe(1);
    for (let answered = 1; answered <= 3; answered += 1) {
      await stage.until(() => gate.waiting() === 1, 'the next one is sent');
      gate.letOneThrough();
      await stage.responses(3 + answered);
    }
    expect(gate.waitingMost()).toBe(1);
    expect(await stage.count('net.http_request_queue')).toBe(0);
  });

  test('many of many keys arrive in order, beside others without a key', async () => {
    const stage = await backend.open();
    const { url, paths } = await receiver();
    await stage.sql.query(
      `select net.request('GET', '${url}/' || n % 20 || '/' || n, ordering_key := 'k' || n % 20, timeout_milliseconds := 30000),
         net.http_get('${url}/plain/' || n, timeout_milliseconds := 30000)
       from generate_series(1, 400) n`,
    );
    await stage.responses(800);
    for (let key = 0; key < 20; key += 1) {
      const order = paths.filter((path) => path.startsWith(`${key}/`)).map((path) => Number(path.split('/')[1]));
      expect(order).toEqual([...order].sort((a, b) => a - b));
      expect(order).toHaveLength(20);
    }
  });

  test('drain waits for them', async () => {
    const stage = await backend.open({ worker: false });
    const { url } = await receiver();
    await ask(stage.sql, url, 'a', ['1', '2', '3', '4']);
    const worker = await stage.startWorker();
    await worker.drain();
    expect(await stage.count('net._http_response')).toBe(4);
  });

  test('one that failed is skipped, by default', async () => {
    const stage = await backend.open();
    const { url, paths } = await receiver();
    const [first, second] = await ask(stage.sql, url, 'a', ['1-500', '2']);
    expect(await stage.response(second ?? 0)).toMatchObject({ status_code: 200 });
    expect(await stage.response(first ?? 0)).toMatchObject({ status_code: 500 });
    expect(paths).toEqual(['1-500', '2']);
  });

  test('one that is due later, as those are that are tried again, holds its key until then', async () => {
    const stage = await backend.open({ worker: false });
    const { url, paths } = await receiver();
    const [first, second] = await ask(stage.sql, url, 'a', ['1', '2']);
    await stage.sql.query(
      `update net.http_request_queue set due_at = clock_timestamp() + '1 second', attempts = 1 where id = ${first}`,
    );
    const [other = 0] = await ask(stage.sql, url, 'b', ['other']);
    await stage.startWorker();
    await stage.response(other);
    expect(paths).toEqual(['other']);
    await stage.response(second ?? 0);
    expect(paths).toEqual(['other', '1', '2']);
  });

  test('one that blocks stays until it is sent again, or deleted', async () => {
    const stage = await backend.open();
    const { url, paths, answers } = await receiver();
    const [first = 0, second = 0, third = 0] = await ask(
      stage.sql,
      url,
      'a',
      ['1-500', '2-500', '3'],
      `, if_failed := 'block'`,
    );
    expect(await stage.response(first)).toMatchObject({ status_code: 500 });
    expect(await isBlocked(stage, first)).toBe(true);
    // Others go on, and it holds nothing but its key.
    const [other = 0] = await ask(stage.sql, url, 'b', ['other']);
    await stage.response(other);
    expect(paths).toEqual(['1-500', 'other']);

    answers.set('1-500', 204);
    expect(await stage.sql.query(`select net._retry_blocked(${first}) as retried`)).toEqual([{ retried: true }]);
    expect(await stage.response(second)).toMatchObject({ status_code: 500 });
    expect(await stage.response(first)).toMatchObject({ status_code: 204 });
    expect(await isBlocked(stage, second)).toBe(true);
    expect(await stage.sql.query(`select net._retry_blocked(${first}) as retried`)).toEqual([{ retried: false }]);

    await stage.sql.query(`delete from net.http_request_queue where id = ${second}; select net.wake()`);
    expect(await stage.response(third)).toMatchObject({ status_code: 200 });
    expect(paths).toEqual(['1-500', 'other', '1-500', '2-500', '3']);
  });

  test('what is known of a key is forgotten when nothing of it waits', async () => {
    const stage = await backend.open();
    const { url } = await receiver();
    await stage.sql.query(
      `select net.request('GET', '${url}', ordering_key := 'k' || n, timeout_milliseconds := 30000) from generate_series(1, 700) n`,
    );
    await stage.responses(700);
    await stage.until(async () => (await stage.count('net.ordering_keys')) === 0, 'the keys are forgotten');
  });

  test.runIf(can(backend, 'severalSessions'))('what is made after a late commit is sent after it', async () => {
    const stage = await backend.open();
    const paths: string[] = [];
    const gate = await startGate((request) => {
      paths.push((request.url ?? '').slice(1));
      return false;
    });
    const late = await stage.session();
    await late.query('begin');
    await ask(late, gate.url, 'a', ['first']);
    const begun = await ask(stage.sql, gate.url, 'a', ['1', '2', '3', '4']);
    for (const id of begun.slice(0, 3)) {
      await stage.until(() => gate.waiting() === 1, 'the next is sent');
      gate.letOneThrough();
      await stage.response(id);
    }
    await stage.until(() => gate.waiting() === 1, 'the fourth is sent');
    await late.query('commit');
    await ask(stage.sql, gate.url, 'a', ['last']);
    const [other = 0] = await ask(stage.sql, gate.url, 'b', ['other']);
    await stage.until(() => gate.waiting() === 2, 'the other is sent');
    // Neither of the two is sent beside the fourth.
    expect(paths).toEqual(['1', '2', '3', '4', 'other']);
    gate.letOneThrough();
    gate.letOneThrough();
    await stage.response(other);
    for (const answered of [6, 7]) {
      await stage.until(() => gate.waiting() === 1, 'the next is sent');
      gate.letOneThrough();
      await stage.responses(answered);
    }
    expect(paths.slice(5)).toEqual(['first', 'last']);
  });

  test('the same key of two roles is two keys', async () => {
    const stage = await backend.open();
    const gate = await startGate();
    await stage.sql.query('create role ordering_other');
    await ask(stage.sql, gate.url, 'a', ['1', '2']);
    await stage.sql.query('set role ordering_other');
    await ask(stage.sql, gate.url, 'a', ['3', '4']);
    await stage.sql.query('reset role');
    await stage.until(() => gate.waiting() === 2, 'one of each is sent');
    gate.open();
    await stage.responses(4);
    expect(gate.waitingMost()).toBe(2);
    await stage.sql.query('drop role ordering_other');
  });

  test.runIf(can(backend, 'severalSessions'))(
    'one that was given back keeps its turn, whatever came meanwhile',
    async () => {
      const stage = await backend.open({ worker: false });
      const gate = await startGate();
      const { url, paths } = await receiver();
      const late = await stage.session();
      await late.query('begin');
      const [before = 0] = await ask(late, url, 'a', ['before']);
      const [begun = 0] = await ask(stage.sql, gate.url, 'a', ['begun']);
      const worker = await stage.startWorker();
      await stage.until(() => gate.waiting() === 1, 'it is sent');
      await late.query('commit');
      await worker.stop();
      await stage.sql.query(`update net.http_request_queue set url = '${url}/begun' where id = ${begun}`);
      await stage.startWorker();
      await stage.response(before);
      expect(paths).toEqual(['begun', 'before']);
      gate.open();
    },
  );

  test.runIf(can(backend, 'severalSessions'))('one that a user has locked holds its key, and no other', async () => {
    const stage = await backend.open({ worker: false });
    const { url, paths } = await receiver();
    const [first = 0, second = 0] = await ask(stage.sql, url, 'a', ['1', '2']);
    const [third = 0] = await ask(stage.sql, url, 'b', ['3']);
    const user = await stage.session();
    await user.query(`begin; select from net.http_request_queue where id = ${first} for update`);
    await stage.startWorker();
    await stage.response(third);
    expect(paths).toEqual(['3']);
    await user.query('commit');
    await stage.response(second);
    expect(paths).toEqual(['3', '1', '2']);
  });
});
