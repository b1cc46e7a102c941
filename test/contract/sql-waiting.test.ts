import { describe, expect, test } from 'vitest';
import { until } from '../support/servers.ts';
import { can, newestBackends, type Sql } from './backends.ts';

// Collecting responses, and waiting for them inside a statement. No worker runs: what it would write is written by hand.

const response = (id: number): string =>
  `insert into net._http_response (id, status_code, headers, content) values (${id}, 418, '{"A": "b"}', 'body')`;

describe.each(newestBackends)('$name', (backend) => {
  test('_http_collect_response tells answers, failures and the unknown apart', async () => {
    const { sql } = await backend.open({ worker: false });
    await sql.query(`
      ${response(1)};
      insert into net._http_response (id, timed_out, error_msg) values (2, true, 'Timeout of 5 ms reached.')`);
    const rows = await sql.query(`
      select id, r.status::text, r.message, (r.response).status_code, (r.response).headers, (r.response).body
      from unnest(array[1, 2, 3]) as id, net._http_collect_response(id) r order by id`);
    const none = { status_code: null, headers: null, body: null };
    expect(rows).toEqual([
      { id: 1, status: 'SUCCESS', message: 'ok', status_code: 418, headers: { A: 'b' }, body: 'body' },
      { id: 2, status: 'ERROR', message: 'Timeout of 5 ms reached.', ...none },
      { id: 3, status: 'ERROR', message: 'request matching request_id not found', ...none },
    ]);
    expect(await sql.query('select (net.http_collect_response(1)).message')).toEqual([{ message: 'ok' }]);
  });

  test('what is there already is returned at once, wherever one waits', async () => {
    const { sql } = await backend.open({ worker: false });
    await sql.query(response(1));
    await sql.query('begin isolation level serializable');
    expect(
      await sql.query(
        'select net._await_response(1) as is_there, (net._http_collect_response(1, async := false)).message',
      ),
    ).toEqual([{ is_there: true, message: 'ok' }]);
    await sql.query('commit');
    expect(await sql.query('select net._await_response(null) as nothing')).toEqual([{ nothing: null }]);
  });

  const waits = [
    'select net._await_response(1)',
    'select net._http_collect_response(1, async := false)',
    'select net.http_collect_response(1, async := false)',
    'select net.wait_until_running()',
  ];

  test.each(['repeatable read', 'serializable'])('waiting in %s raises', async (isolation) => {
    const { sql } = await backend.open({ worker: false });
    await sql.query(`select net.http_get('http://h')`);
    for (const wait of waits) {
      await sql.query(`begin isolation level ${isolation}`);
      await expect(sql.query(wait), wait).rejects.toMatchObject({
        code: '55000',
        message: `waiting for the worker in a ${isolation.toUpperCase()} transaction could only last for ever`,
        hint: expect.stringContaining('READ COMMITTED'),
      });
      await sql.query('rollback');
    }
  });

  test('without a worker, check_worker_is_up raises', async () => {
    const { sql } = await backend.open({ worker: false });
    await expect(sql.query('select net.check_worker_is_up()')).rejects.toMatchObject({
      message: 'the pg_net background worker is not up',
      detail: expect.stringContaining('is down'),
      hint: expect.stringContaining('pgfetch worker'),
    });
  });

  describe.runIf(can(backend, 'waitingInsideAStatement'))('with several sessions', () => {
    test('waiting for a request of the own transaction raises', async () => {
      const { sql } = await backend.open({ worker: false });
      for (const within of ['', 'savepoint s;']) {
        await sql.query(`begin; ${within}`);
        const [row] = await sql.query<{ id: number }>(`select net.http_get('http://h') as id`);
        await expect(sql.query(`select net._await_response(${row?.id})`)).rejects.toMatchObject({
          code: '55000',
          hint: 'Commit first, then wait.',
        });
        await sql.query('rollback');
      }
    });

    test('waiting for what there is not raises', async () => {
      const { sql } = await backend.open({ worker: false });
      // In a transaction with an id of its own, too: that one does not end while it waits.
      for (const begin of ['begin', 'begin; create table mine (x int); savepoint s; insert into mine values (1)']) {
        await sql.query(begin);
        await expect(sql.query('select net._await_response(4711)')).rejects.toMatchObject({
          code: 'P0002',
          message: 'there is no request 4711, and no response to it',
        });
        await sql.query('rollback');
      }
    });

    test('who waits gets the answer when it comes, and an error when it can come no more', async () => {
      const stage = await backend.open({ worker: false });
      const waiter = await stage.session();
      await stage.sql.query(`select net.http_get('http://h'), net.http_get('http://h')`);
      const first = waiter.query('select net._await_response(1) as is_there');
      await waiterIsWaiting(stage.sql);
      await stage.sql.query(response(1));
      expect(await first).toEqual([{ is_there: true }]);

      const second = waiter.query('select net._await_response(2)').catch((error: unknown) => error);
      await waiterIsWaiting(stage.sql);
      await stage.sql.query('delete from net.http_request_queue');
      expect(await second).toMatchObject({ code: 'P0002' });
    });

    test('a request whose transaction has not ended yet may still come: who asks for it waits', async () => {
      const stage = await backend.open({ worker: false });
      const [waiter, observer] = [await stage.session(), await stage.session()];
      for (const end of ['commit', 'rollback']) {
        await stage.sql.query('begin');
        const [row] = await stage.sql.query<{ id: number }>(`select net.http_get('http://h') as id`);
        const waiting = waiter
          .query(`select net._await_response(${row?.id}) as is_there`)
          .catch((error: unknown) => error);
        await waiterIsWaiting(observer);
        await stage.sql.query(end);
        if (end === 'commit') {
          await waiterIsWaiting(observer);
          await stage.sql.query(response(row?.id ?? 0));
          expect(await waiting).toEqual([{ is_there: true }]);
        } else {
          expect(await waiting).toMatchObject({ code: 'P0002' });
        }
      }
    });
  });

  test.runIf(!can(backend, 'waitingInsideAStatement'))(
    'waiting inside a statement raises, because nobody else can write',
    async () => {
      const { sql } = await backend.open({ worker: false });
      await sql.query(`select net.http_get('http://h')`);
      for (const wait of waits) {
        await expect(sql.query(wait), wait).rejects.toMatchObject({
          code: '55000',
          message: expect.stringMatching(/could only last for ever: this server has one session/),
          hint: expect.stringContaining('Await the response in your program'),
        });
      }
    },
  );
});

/** It sleeps between its looks: seen asleep, it has looked at least once. The observer must not be in a transaction: the view is cached in one. */
async function waiterIsWaiting(observer: Sql): Promise<void> {
  await until(
    async () =>
      (
        await observer.query(`
          select from pg_stat_activity
          where datname = current_database() and wait_event = 'PgSleep' and query like '%_await_response%' and pid <> pg_backend_pid()`)
      ).length === 1,
    'the other session waits',
  );
}
