import { describe, expect, test } from 'vitest';
import { awaitResponses } from '../../src/store/await-responses.ts';
import { until } from '../support/servers.ts';
import { can, newestBackends, type Sql } from './backends.ts';

// Waiting for several answers: net.await inside a statement, awaitResponses in a program. No worker runs, but where one is needed:
// what it would write is written by hand. What net.await shares with net._await_response is in sql-waiting.test.ts.

const responses = (...ids: readonly number[]): string =>
  ids.map((id) => `insert into net._http_response (id, status_code) values (${id}, ${200 + id})`).join(';');

const requests = (count: number, options: string = ''): string =>
  `select net.request('GET', 'http://h'${options}) from generate_series(1, ${count})`;

describe.each(newestBackends)('$name', (backend) => {
  test('returns what is there in the order of the ids, wherever one waits', async () => {
    const { sql } = await backend.open({ worker: false });
    await sql.query(responses(1, 2, 3));
    const statuses = 'select id, status_code from net.await(array[3, 1, 3, 2])';
    const expected = [3, 1, 3, 2].map((id) => ({ id, status_code: 200 + id }));
    expect(await sql.query(statuses)).toEqual(expected);
    await sql.query('begin isolation level serializable');
    expect(await sql.query(statuses)).toEqual(expected);
    await sql.query('commit');
    expect(await sql.query('select id from net.await(array[[1, 2], [3, 1]])')).toEqual(
      [1, 2, 3, 1].map((id) => ({ id })),
    );
  });

  test('waits for nothing where there is nothing to wait for', async () => {
    const { sql } = await backend.open({ worker: false });
    for (const none of [`'{}'`, 'null', '(select array_agg(id) from net.http_request_queue)']) {
      expect(await sql.query(`select * from net.await(${none})`), none).toEqual([]);
    }
  });

  test('refuses what makes no sense', async () => {
    const { sql } = await backend.open({ worker: false });
    await expect(sql.query('select net.await(array[1, net.http_get(null)])')).rejects.toMatchObject({
      code: '22004',
      message: 'ids must not contain NULL',
      detail: 'Number 2 is NULL.',
      hint: expect.stringContaining('net.http_get'),
    });
    await expect(sql.query(`select net.await('{1}', '-1 second')`)).rejects.toMatchObject({
      code: '22023',
      message: 'timeout must not be negative: -00:00:01',
      hint: expect.stringContaining(`'0'`),
    });
  });

  test.each(['repeatable read', 'serializable'])('waiting in %s raises', async (isolation) => {
    const { sql } = await backend.open({ worker: false });
    await sql.query(requests(1));
    await sql.query(`begin isolation level ${isolation}`);
    await expect(sql.query('select net.await(array[1])')).rejects.toMatchObject({ code: '55000' });
    await sql.query('rollback');
  });

  test.runIf(!can(backend, 'waitingInsideAStatement'))('waiting inside a statement raises', async () => {
    const { sql } = await backend.open({ worker: false });
    await sql.query(requests(1));
    await expect(sql.query('select net.await(array[1])')).rejects.toMatchObject({
      code: '55000',
      message: expect.stringMatching(/could only last for ever: this server has one session/),
    });
  });

  describe.runIf(can(backend, 'waitingInsideAStatement'))('with several sessions', () => {
    test('waits until the last answer has come, in whatever order they come', async () => {
      const stage = await backend.open({ worker: false });
      const waiter = await stage.session();
      await stage.sql.query(requests(3));
      const waiting = waiter.query('select id from net.await(array[2, 1, 3])');
      for (const id of [3, 2, 1]) {
        await waiterIsAsleep(stage.sql);
        await stage.sql.query(responses(id));
      }
      expect(await waiting).toEqual([{ id: 2 }, { id: 1 }, { id: 3 }]);
    });

    test('a worker answers a hundred', async () => {
      const stage = await backend.open();
      await stage.sql.query(
        `create temp table asked as
         select net.http_get('${stage.echoUrl}/get?' || i, timeout_milliseconds := 10000) as id from generate_series(1, 100) i`,
      );
      expect(
        await stage.sql.query('select count(status_code) as answers from net.await(array(select id from asked))'),
      ).toEqual([{ answers: 100 }]);
    });

    test('raises at once for one among many that gets no response', async () => {
      const stage = await backend.open({ worker: false });
      await stage.sql.query(requests(2));
      await stage.sql.query(requests(1, `, keep := 'none'`));
      await stage.sql.query(requests(1, `, delay := '1 week'`));
      const cases: readonly [ids: string, error: object][] = [
        ['1, 2, 4711', { code: 'P0002', message: 'there is no request 4711, and no response to it' }],
        ['1, 3', { code: '55000', message: expect.stringContaining('3, whose response is not kept') }],
        ['1, 4', { code: 'NET01', message: expect.stringMatching(/^request 4 is not sent before \d{4}-.*time-out/) }],
      ];
      for (const [ids, error] of cases) {
        await expect(stage.sql.query(`select net.await(array[${ids}], '1 hour')`), ids).rejects.toMatchObject(error);
      }
      await expect(stage.sql.query('select net._await_response(3)')).rejects.toMatchObject({ code: '55000' });
      await stage.sql.query('begin');
      await stage.sql.query(requests(1));
      await expect(stage.sql.query('select net.await(array[1, 5])')).rejects.toMatchObject({
        code: '55000',
        message: expect.stringContaining('request 5 in the transaction that made it'),
      });
      await stage.sql.query('rollback');
    });

    test('one that is deleted while another is waited for is noticed', async () => {
      const stage = await backend.open({ worker: false });
      const waiter = await stage.session();
      await stage.sql.query(requests(2));
      const waiting = waiter.query('select net.await(array[1, 2])').catch((error: unknown) => error);
      await waiterIsAsleep(stage.sql);
      await stage.sql.query(`delete from net.http_request_queue where id = 2; ${responses(1)}`);
      expect(await waiting).toMatchObject({
        code: 'P0002',
        message: 'there is no request 2, and no response to it',
      });
    });

    test('at the time-out says which are missing, and why', async () => {
      const stage = await backend.open({ worker: false });
      await stage.sql.query(requests(14));
      await stage.sql.query(responses(1, 5));
      const wait = `select net.await(array(select generate_series(14, 1, -1)::bigint), '20 milliseconds')`;
      const missing = 'No response yet to 12: 2, 3, 4, 6, 7, 8, 9, 10, 11, 12 and more.';
      const error = { code: 'NET01', message: 'the time-out ended before every request had its response' };
      await expect(stage.sql.query(wait)).rejects.toMatchObject({
        ...error,
        detail: `${missing} The pg_net background worker is down: no pgfetch worker is connected to this database.`,
        hint: expect.stringContaining('pgfetch worker'),
      });
      await stage.sql.query('select net.set_paused(true)');
      await expect(stage.sql.query(wait)).rejects.toMatchObject({
        ...error,
        detail: expect.stringContaining(`${missing} The workers of this database are paused since`),
        hint: expect.stringContaining('pgfetch resume'),
      });
      await expect(stage.sql.query(`select net.await('{1,2}', '0')`)).rejects.toMatchObject(error);
    });

    test('beside a worker the time-out says that they are not given up', async () => {
      const stage = await backend.open();
      const id = await stage.enqueue(
        `select net.http_get('${stage.echoUrl}/delay/5', timeout_milliseconds := 10000) as id`,
      );
      await expect(stage.sql.query(`select net.await('{${id}}', '20 milliseconds')`)).rejects.toMatchObject({
        code: 'NET01',
        detail: `No response yet to 1: ${id}.`,
        hint: expect.stringContaining('not given up'),
      });
    });

    test("somebody else's request is unknown", async () => {
      const stage = await backend.open({ worker: false });
      await stage.sql.query(`${requests(1)}; ${responses(2)}; drop role if exists test_bob; create role test_bob`);
      await stage.sql.query('set role test_bob');
      for (const id of [1, 2]) {
        await expect(stage.sql.query(`select net.await('{${id}}')`)).rejects.toMatchObject({ code: 'P0002' });
      }
      await stage.sql.query('reset role');
    });
  });
});

describe.each(newestBackends)('awaitResponses on $name', (backend) => {
  test('returns the responses in the order of the ids, as the worker records them', async () => {
    const stage = await backend.open();
    const db = await stage.connect();
    const ids = [
      await stage.enqueue(
        `select net.request('GET', '${stage.echoUrl}/delay/0.2', label := 'slow', timeout_milliseconds := 10000)`,
      ),
      await stage.get('/status/404'),
      await stage.get('http://10.0.0.1'),
    ];
    const [denied, missing, slow, again, ...rest] = await awaitResponses(db, [...ids].reverse().concat(ids[0] ?? 0));
    expect(rest).toEqual([]);
    expect(denied).toMatchObject({ id: BigInt(ids[2] ?? 0), statusCode: null, errorCode: 'denied', headers: null });
    expect(missing).toMatchObject({ statusCode: 404, timedOut: false, errorMessage: null, content: null });
    expect(slow).toMatchObject({
      statusCode: 200,
      label: 'slow',
      host: new URL(stage.echoUrl).host,
      headers: { 'content-type': 'application/json' },
      content: expect.stringContaining('/delay/0.2'),
      created: expect.any(Date),
    });
    expect(again).toEqual(slow);
    expect(await awaitResponses(db, [])).toEqual([]);
  });

  test('says what net.await says where there is nothing to wait for', async () => {
    const stage = await backend.open({ worker: false });
    const db = await stage.connect();
    await stage.sql.query(`${requests(2)}; ${requests(1, `, keep := 'none'`)}; ${requests(1, `, delay := '1 week'`)}`);
    const cases: readonly [id: number, code: string][] = [
      [4711, 'P0002'],
      [3, '55000'],
      [4, 'NET01'],
    ];
    for (const [id, code] of cases) {
      await expect(awaitResponses(db, [1, id]), String(id)).rejects.toMatchObject({ name: 'PostgresError', code });
    }
    for (const timeoutMs of [0, 30]) {
      await expect(awaitResponses(db, [2, 1], { timeoutMs })).rejects.toMatchObject({
        code: 'NET01',
        message: 'the time-out ended before every request had its response',
        detail: expect.stringMatching(/^No response yet to 2: 1, 2\. .* down/),
        hint: expect.stringContaining('pgfetch worker'),
      });
    }
    await expect(awaitResponses(db, [1], { timeoutMs: -1 })).rejects.toThrow('timeoutMs must not be negative: -1');
  });

  test('a signal ends the wait', async () => {
    const stage = await backend.open({ worker: false });
    const db = await stage.connect();
    await stage.sql.query(requests(1));
    const reason = new Error('enough');
    const stop = new AbortController();
    const waiting = awaitResponses(db, [1], { signal: stop.signal });
    stop.abort(reason);
    await expect(waiting).rejects.toBe(reason);
    await expect(awaitResponses(db, [1], { signal: AbortSignal.abort(reason) })).rejects.toBe(reason);
  });

  test.runIf(can(backend, 'severalSessions'))('one that may still be committed is waited for', async () => {
    const stage = await backend.open({ worker: false });
    const db = await stage.connect();
    await stage.sql.query('begin');
    const id = await stage.enqueue(`select net.http_get('http://h')`);
    const waiting = awaitResponses(db, [id]);
    const observer = await stage.session();
    await stage.until(
      async () =>
        (
          await observer.query(
            `select from pg_stat_activity where datname = current_database() and query like '%_check_awaited%' and pid <> pg_backend_pid()`,
          )
        ).length === 1,
      'it has looked for it in vain',
    );
    await stage.sql.query(`commit; insert into net._http_response (id, status_code) values (${id}, 201)`);
    expect(await waiting).toMatchObject([{ statusCode: 201 }]);
  });
});

/** It sleeps between its looks: seen asleep, it has looked at least once. */
async function waiterIsAsleep(observer: Sql): Promise<void> {
  await until(
    async () =>
      (
        await observer.query(`
          select from pg_stat_activity
          where datname = current_database() and wait_event = 'PgSleep' and query like '%net.await%' and pid <> pg_backend_pid()`)
      ).length === 1,
    'the other session waits',
  );
}
