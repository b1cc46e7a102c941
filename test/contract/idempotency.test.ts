import { describe, expect, test, vi } from 'vitest';
import { can, newestBackends, type Sql, type Stage } from './backends.ts';
import { startReceiver } from './receiver.ts';

// Enqueuing once: the same role, the same key, the same request.

vi.setConfig({ testTimeout: 60_000 });

const ask = (url: string, key: string): string =>
  `select net.request('POST', '${url}', text := 'paid', idempotency_key := '${key}') as id`;
const idOf = async (sql: Sql, text: string): Promise<number> => (await sql.query<{ id: number }>(text))[0]?.id ?? -1;

/** Waits until so many sessions wait for a lock of another. */
const waiting = (stage: Stage, count: number): Promise<unknown> =>
  stage.until(
    async () =>
      (await stage.count(`pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()`)) === count,
    `${count} sessions wait`,
  );

describe.each(newestBackends)('$name', (backend) => {
  test('the same key is the first request, also after it was answered; it is sent as the header', async () => {
    const stage = await backend.open();
    const receiver = await startReceiver();
    const url = `${receiver.url}/paid`;
    const id = await stage.enqueue(ask(url, 'order-42'));
    expect(await stage.enqueue(ask(url, 'order-42'))).toBe(id);
    await stage.response(id);
    expect(await stage.enqueue(ask(url, 'order-42'))).toBe(id);
    const other = await stage.enqueue(ask(url, 'order-43'));
    expect(other).not.toBe(id);
    await stage.response(other);
    expect(receiver.asked('/paid').map((headers) => headers['idempotency-key'])).toEqual(['order-42', 'order-43']);
  });

  test('a key stands for its window, and within its role', async () => {
    const { sql } = await backend.open({ worker: false });
    for (const role of ['test_ada', 'test_ben']) await sql.query(`drop role if exists ${role}; create role ${role}`);
    const as = async (role: string, text: string): Promise<number> => {
      await sql.query(`set session authorization ${role}`);
      try {
        return await idOf(sql, text);
      } finally {
        await sql.query('set session authorization postgres');
      }
    };
    const ada = await as('test_ada', ask('http://h/', 'k'));
    const ben = await as('test_ben', ask('http://h/', 'k'));
    expect(ben).not.toBe(ada);
    expect(await as('test_ada', ask('http://h/', 'k'))).toBe(ada);
    await sql.query(`update net.idempotency_keys set expires_at = now() where request_id = ${ada}`);
    const later = await as('test_ada', ask('http://h/', 'k'));
    expect(later).not.toBe(ada);
    expect(await as('test_ada', ask('http://h/', 'k'))).toBe(later);
    expect(await as('test_ben', ask('http://h/', 'k'))).toBe(ben);

    const windowOf = async (setting: string): Promise<number | undefined> => {
      await sql.query(`set pg_net.idempotency_window = '${setting}'`);
      await idOf(sql, ask('http://h/', setting));
      const [row] = await sql.query<{ s: number }>(
        `select round(extract(epoch from expires_at - now()))::int as s from net.idempotency_keys where key = '${setting}'`,
      );
      return row?.s;
    };
    expect(await windowOf('90s')).toBe(90);
    // What makes no sense is the default; what is too long, a year.
    expect(await windowOf('soon')).toBe(86_400);
    expect(await windowOf('9999years')).toBe(365 * 86_400);
    for (const role of ['test_ada', 'test_ben']) {
      await sql.query(`delete from net.http_request_queue; drop role ${role}`);
    }
  });

  test('what is rolled back or refused has not been given', async () => {
    const { sql } = await backend.open({ worker: false });
    await sql.query('begin');
    await sql.query('savepoint here');
    const undone = await idOf(sql, ask('http://h/', 'k'));
    await sql.query('rollback to here');
    const id = await idOf(sql, ask('http://h/', 'k'));
    expect(id).not.toBe(undone);
    await sql.query('commit');
    expect(await idOf(sql, ask('http://h/', 'k'))).toBe(id);
    expect(await sql.query('select id from net.http_request_queue')).toEqual([{ id }]);

    // What no header can carry, and one in both places.
    for (const key of ['', 'a b', 'é', 'x'.repeat(256)]) {
      await expect(sql.query(ask('http://h/', key)), key).rejects.toMatchObject({ code: '22023' });
    }
    await expect(
      sql.query(`select net.request('GET', 'http://h/', '{"idempotency-KEY": "x"}', idempotency_key := 'k')`),
    ).rejects.toMatchObject({ code: '22023' });
    // Its own header stays, and is no key of ours.
    const own = `select net.request('GET', 'http://h/', '{"idempotency-KEY": "x"}', max_attempts := 3) as id`;
    expect(await idOf(sql, own)).not.toBe(await idOf(sql, own));
    expect(await sql.query(`select distinct headers from net.http_request_queue where method = 'GET'`)).toEqual([
      { headers: { 'idempotency-KEY': 'x' } },
    ]);
    expect(await sql.query('select key from net.idempotency_keys')).toEqual([{ key: 'k' }]);
  });

  test('a key that is given again adds nothing to a queue that is full; what is refused takes no key', async () => {
    const { sql } = await backend.open({ worker: false });
    await sql.query('insert into net.queue_limit (role, requests) values (null, 1)');
    const id = await idOf(sql, ask('http://h/', 'k'));
    expect(await idOf(sql, ask('http://h/', 'k'))).toBe(id);
    await expect(sql.query(ask('http://h/', 'other'))).rejects.toMatchObject({ code: '53400' });
    expect(await sql.query('select key from net.idempotency_keys')).toEqual([{ key: 'k' }]);
  });

  test.runIf(can(backend, 'severalSessions'))('eight sessions at once are given one id', async () => {
    const stage = await backend.open({ worker: false });
    const sessions = await Promise.all(Array.from({ length: 8 }, () => stage.session()));
    for (let round = 0; round < 20; round += 1) {
      const ids = await Promise.all(sessions.map((session) => idOf(session, ask('http://h/', `round-${round}`))));
      expect(new Set(ids).size).toBe(1);
    }
    expect(await stage.count('net.http_request_queue')).toBe(20);
  });

  test.runIf(can(backend, 'severalSessions'))(
    'who gives it meanwhile waits: for the same id, or to be the first',
    async () => {
      const stage = await backend.open({ worker: false });
      const [one, two] = [await stage.session(), await stage.session()];
      await one.query('begin');
      const first = await idOf(one, ask('http://h/', 'committed'));
      const same = idOf(two, ask('http://h/', 'committed'));
      await waiting(stage, 1);
      await one.query('commit');
      expect(await same).toBe(first);

      await one.query('begin');
      const undone = await idOf(one, ask('http://h/', 'rolled-back'));
      const next = idOf(two, ask('http://h/', 'rolled-back'));
      await waiting(stage, 1);
      await one.query('rollback');
      expect(await next).not.toBe(undone);
      expect(await idOf(one, ask('http://h/', 'rolled-back'))).toBe(await next);

      // Who only repeats a key waits for nobody who does.
      await one.query('begin');
      expect(await idOf(one, ask('http://h/', 'committed'))).toBe(first);
      expect(await idOf(two, ask('http://h/', 'committed'))).toBe(first);
      await one.query('rollback');
    },
  );

  test.runIf(can(backend, 'severalSessions'))(
    'beyond READ COMMITTED a key that another gave meanwhile is a serialization failure',
    async () => {
      const stage = await backend.open({ worker: false });
      const [one, two] = [await stage.session(), await stage.session()];
      for (const level of ['repeatable read', 'serializable']) {
        await one.query(`begin isolation level ${level}; select 1 from net.installation`);
        const id = await idOf(two, ask('http://h/', level.replace(' ', '-')));
        await expect(idOf(one, ask('http://h/', level.replace(' ', '-')))).rejects.toMatchObject({ code: '40001' });
        await one.query('rollback');
        await one.query(`begin isolation level ${level}`);
        expect(await idOf(one, ask('http://h/', level.replace(' ', '-')))).toBe(id);
        await one.query('commit');
      }
    },
  );
});
