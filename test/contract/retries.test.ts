import { describe, expect, test, vi } from 'vitest';
import { can, newestBackends, type ResponseRow, type Stage } from './backends.ts';
import { startReceiver } from './receiver.ts';

// Requests that are tried again: how often, by which policy, and what is recorded of it.

vi.setConfig({ testTimeout: 60_000 });

const quick = `insert into net.retry_policy (name, max_attempts, first_delay, max_delay)
  values ('quick', 3, '1 millisecond', '1 millisecond')`;

type Attempted = ResponseRow & { attempts: number | null; is_dead: boolean | null };
const responseTo = async (stage: Stage, id: number): Promise<Attempted> => (await stage.response(id)) as Attempted;

type Attempt = {
  attempt: number;
  status_code: number | null;
  error_code: string | null;
  is_last: boolean;
  worker: string | null;
  is_sound: boolean;
};
const attemptsOf = (stage: Stage, id: number): Promise<Attempt[]> =>
  stage.sql.query<Attempt>(`
    select attempt, status_code, error_code, retry_at is null as is_last, worker,
      started <= created and total_ms >= 0 and (retry_at is null or retry_at >= started) as is_sound
    from net.attempts where request_id = ${id} order by attempt`);

/** `alter role ... set`, which workers obey on every backend, and the asking for it. */
async function configure(stage: Stage, ...settings: readonly string[]): Promise<void> {
  for (const setting of settings) await stage.sql.query(`alter role postgres set ${setting}`);
  await stage.sql.query('select net.worker_restart()');
}

describe.each(newestBackends)('$name', (backend) => {
  test('is tried again until it succeeds, or is dead; every attempt is a row, the same key is sent; what no attempt can mend leaves none', async () => {
    const stage = await backend.open();
    const receiver = await startReceiver();
    receiver.answer('/flaky', { status: 503 }, { status: 429, headers: { 'retry-after': '0' } }, { status: 201 });
    await stage.sql.query(quick);
    const id = await stage.enqueue(`select net.request('POST', '${receiver.url}/flaky', retry_policy := 'quick')`);
    expect(await responseTo(stage, id)).toMatchObject({ status_code: 201, attempts: 3, is_dead: null });
    const attempts = await attemptsOf(stage, id);
    expect(attempts).toMatchObject([
      { attempt: 1, status_code: 503, is_last: false, is_sound: true },
      { attempt: 2, status_code: 429, is_last: false, is_sound: true },
      { attempt: 3, status_code: 201, is_last: true, is_sound: true },
    ]);
    expect(attempts.every(({ worker }) => worker !== null)).toBe(true);
    const keys = receiver.asked('/flaky').map((headers) => headers['idempotency-key']);
    expect(new Set(keys).size).toBe(1);
    expect(keys[0]).toMatch(/^[0-9a-f]{8}-[0-9a-f]{4}-4/);
    expect(await stage.count('net.http_request_queue')).toBe(0);

    receiver.answer('/down', { status: 500 });
    receiver.answer('/wrong', { status: 404 });
    const ask = (path: string, options: string): Promise<number> =>
      stage.enqueue(`select net.request('GET', '${receiver.url}${path}'${options})`);
    const dead = await ask('/down', `, retry_policy := 'quick'`);
    const wrong = await ask('/wrong', `, retry_policy := 'quick'`);
    const once = await ask('/down?once', ', max_attempts := 1');
    const denied = await stage.enqueue(`select net.request('GET', 'http://10.0.0.1/', retry_policy := 'quick')`);
    const refused = await stage.enqueue(
      `select net.request('GET', 'http://127.0.0.1:1/', retry_policy := 'quick', max_attempts := 2)`,
    );
    expect(await responseTo(stage, dead)).toMatchObject({ status_code: 500, attempts: 3, is_dead: true });
    expect(await responseTo(stage, wrong)).toMatchObject({ status_code: 404, attempts: null, is_dead: null });
    expect(await responseTo(stage, once)).toMatchObject({ attempts: null, is_dead: null });
    expect(await responseTo(stage, denied)).toMatchObject({ error_code: 'denied', attempts: null, is_dead: null });
    expect(await responseTo(stage, refused)).toMatchObject({
      error_code: 'connect_failed',
      attempts: 2,
      is_dead: true,
    });
    expect(receiver.asked('/down')).toHaveLength(3);
    expect(receiver.asked('/wrong')).toHaveLength(1);
    expect((await attemptsOf(stage, refused)).map((a) => a.error_code)).toEqual(['connect_failed', 'connect_failed']);
    expect(await stage.count('net.attempts')).toBe(3 + 5);
  });

  test('settings try the documented functions again, too, by the policy that they name, with keys if asked for', async () => {
    const stage = await backend.open({ worker: false });
    const receiver = await startReceiver();
    for (const path of ['/one', '/two', '/three']) receiver.answer(path, { status: 409 });
    await stage.sql.query(quick);
    await stage.sql.query(`update net.retry_policy set statuses = '409'`);
    const get = (path: string): Promise<number> => stage.get(receiver.url + path);
    await configure(stage, `pg_net.retry_policy to 'quick'`);
    const worker = await stage.startWorker();
    expect(await responseTo(stage, await get('/one'))).toMatchObject({ attempts: 3, is_dead: true });
    const none = receiver.asked('/one').map((headers) => headers['idempotency-key']);
    expect(none).toEqual([undefined, undefined, undefined]);

    await worker.stop();
    await configure(stage, 'pg_net.max_attempts to 2', 'pg_net.idempotency_keys to on');
    await stage.startWorker();
    const id = await get('/two');
    expect(await responseTo(stage, id)).toMatchObject({ attempts: 2, is_dead: true });
    expect(await responseTo(stage, await get('/three'))).toMatchObject({ attempts: 2 });
    const [key, again] = receiver.asked('/two').map((headers) => headers['idempotency-key']);
    expect(key).toMatch(/^[0-9a-f]{8}-[0-9a-f]{4}-8[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/);
    expect(again).toBe(key);
    expect(receiver.asked('/three')[0]?.['idempotency-key']).not.toBe(key);
    expect(await stage.sql.query(`select idempotency_key from net.kept_requests where id = ${id}`)).toEqual([
      { idempotency_key: key },
    ]);

    // What a request says itself goes before them: 409 is in no policy of its own.
    receiver.answer('/four', { status: 409 });
    await stage.sql.query(`insert into net.retry_policy (name, first_delay) values ('others', '1 millisecond')`);
    const other = await stage.enqueue(`select net.request('GET', '${receiver.url}/four', retry_policy := 'others')`);
    expect(await responseTo(stage, other)).toMatchObject({ attempts: null, is_dead: null });
  });

  test.runIf(can(backend, 'severalSessions'))(
    'a policy that the settings name is obeyed as it is changed, and one that is not there is said',
    async () => {
      const stage = await backend.open();
      const receiver = await startReceiver();
      await configure(stage, `pg_net.retry_policy to 'quick'`);
      await stage.until(
        () => stage.log.some((line) => line.includes('pg_net.retry_policy is "quick": there is no such row')),
        'the worker says that there is no such policy',
      );
      await stage.sql.query(`${quick}; select net.worker_restart()`);
      receiver.answer('/down', { status: 500 });
      await stage.until(async () => {
        const id = await stage.get(`${receiver.url}/down`);
        return (await responseTo(stage, id)).attempts === 3;
      }, 'the policy is in force');
      await stage.sql.query(`update net.retry_policy set max_attempts = 2; select net.worker_restart()`);
      await stage.until(async () => {
        const id = await stage.get(`${receiver.url}/down`);
        return (await responseTo(stage, id)).attempts === 2;
      }, 'the changed policy is in force');
    },
  );

  test('one that a user deletes while it is tried has its last answer as its response', async () => {
    const stage = await backend.open();
    const receiver = await startReceiver();
    await stage.sql.query(quick);
    receiver.answer('/held', { status: 503 });
    const { held, letGo } = receiver.hold('/held');
    const id = await stage.enqueue(`select net.request('GET', '${receiver.url}/held', retry_policy := 'quick')`);
    await stage.until(() => held() === 1, 'the request is being sent');
    await stage.sql.query('delete from net.http_request_queue');
    letGo();
    expect(await responseTo(stage, id)).toMatchObject({ status_code: 503 });
    expect(receiver.asked('/held')).toHaveLength(1);
  });

  test.runIf(can(backend, 'severalSessions'))(
    'one that a user has locked goes back when it is free, others at once',
    async () => {
      const stage = await backend.open();
      const receiver = await startReceiver();
      await stage.sql.query(quick);
      for (const path of ['/locked', '/free']) receiver.answer(path, { status: 503 }, { status: 200 });
      const { held, letGo } = receiver.hold('/locked');
      const ask = (path: string): Promise<number> =>
        stage.enqueue(`select net.request('GET', '${receiver.url}${path}', retry_policy := 'quick')`);
      const locked = await ask('/locked');
      await stage.until(() => held() === 1, 'the request is being sent');
      const other = await stage.session();
      await other.query(`begin; select from net.http_request_queue where id = ${locked} for update`);
      letGo();
      await stage.until(() => stage.log.some((line) => /tried again.*locked/.test(line)), 'the worker says so');
      expect(await responseTo(stage, await ask('/free'))).toMatchObject({ status_code: 200, attempts: 2 });
      await other.query('commit');
      expect(await responseTo(stage, locked)).toMatchObject({ status_code: 200, attempts: 2 });
    },
  );

  test('each is sent again at its own time, however many wait, though nothing else makes the worker look', async () => {
    const stage = await backend.open({ worker: false });
    const receiver = await startReceiver();
    const never = 1_000_000_000;
    await stage.startWorker({ timing: { quietMs: never, reclaimEveryMs: never, leaseMs: never } });
    const ids: number[] = [];
    for (const ms of [5, 100, 200, 300]) {
      receiver.answer(`/after-${ms}`, { status: 503 }, { status: 200 });
      await stage.sql.query(`
        insert into net.retry_policy (name, first_delay, max_delay) values ('p${ms}', '${ms} ms', '${ms} ms')`);
      ids.push(
        await stage.enqueue(`select net.request('GET', '${receiver.url}/after-${ms}', retry_policy := 'p${ms}')`),
      );
    }
    for (const id of ids) expect(await responseTo(stage, id)).toMatchObject({ status_code: 200, attempts: 2 });
  });

  test('attempts and keys expire as responses do, and nothing else goes', async () => {
    const stage = await backend.open({ worker: false });
    await stage.sql.query(`
      insert into net.attempts (request_id, attempt, started, created)
      select n, 1, now(), now() - interval '7 hours' from generate_series(1, 450) n
      union all select 1000, 1, now(), now();
      insert into net.idempotency_keys select 10, n::text, n, now() - interval '1 second' from generate_series(1, 3) n
      union all select 10, 'new', 4, now() + interval '1 hour'`);
    await stage.startWorker();
    await stage.until(
      async () => (await stage.count('net.attempts')) === 1 && (await stage.count('net.idempotency_keys')) === 1,
      'what is old is gone',
    );
    expect(await stage.sql.query('select request_id from net.attempts')).toEqual([{ request_id: 1000 }]);
    expect(await stage.sql.query('select key from net.idempotency_keys')).toEqual([{ key: 'new' }]);
  });

  test('policies and options that make no sense are refused, and who may see and write what', async () => {
    const stage = await backend.open({ worker: false });
    const policy = (column: string, value: string): Promise<unknown> =>
      stage.sql.query(`insert into net.retry_policy (name, ${column}) values ('p', ${value})`);
    for (const [column, value] of [
      ['statuses', `'200'`],
      ['statuses', `'504-500'`],
      ['statuses', `'5XX'`],
      ['statuses', `'429,'`],
      ['max_attempts', '0'],
      ['max_attempts', '101'],
      ['first_delay', `'0'`],
      ['max_delay', `'1 millisecond'`],
      ['time_limit', `'400 days'`],
      ['max_retry_after', `'-1 s'`],
    ] as const) {
      await expect(policy(column, value), `${column} ${value}`).rejects.toMatchObject({ code: '23514' });
    }
    for (const statuses of ['', '4xx', ' 408 ,429, 500-504', '5xx,4xx']) {
      await policy('statuses', `'${statuses}'`);
      await stage.sql.query('delete from net.retry_policy');
    }
    const request = (options: string): Promise<unknown> =>
      stage.sql.query(`select net.request('GET', 'http://h/', ${options})`);
    for (const attempts of [-1, 0, 101]) {
      await expect(request(`max_attempts := ${attempts}`)).rejects.toMatchObject({ code: '22023' });
    }
    await expect(request(`retry_policy := 'none'`)).rejects.toMatchObject({ code: '42704' });
    expect(await stage.count('net.http_request_queue')).toBe(0);

    const { sql } = stage;
    // A role sees the attempts of its own requests, and every policy; it writes neither.
    for (const role of ['test_ada', 'test_ben']) await sql.query(`drop role if exists ${role}; create role ${role}`);
    await sql.query(`
      ${quick};
      insert into net.attempts (request_id, attempt, started, login_role, set_role)
      values (1, 1, now(), 'test_ada'::regrole, null), (2, 1, now(), 'postgres'::regrole, 'test_ada'::regrole),
        (3, 1, now(), 'test_ben'::regrole, null)`);
    await sql.query('set session authorization test_ada');
    try {
      const seen = 'select array_agg(request_id::int order by 1) as ids from (select request_id from net.attempts) a';
      expect(await sql.query(seen)).toEqual([{ ids: [1, 2] }]);
      expect(await sql.query('select name from net.retry_policy')).toEqual([{ name: 'quick' }]);
      for (const forbidden of [
        'update net.retry_policy set max_attempts = 100',
        'delete from net.attempts',
        'select from net.idempotency_keys',
      ]) {
        await expect(sql.query(forbidden), forbidden).rejects.toMatchObject({ code: '42501' });
      }
    } finally {
      await sql.query('set session authorization postgres; drop role test_ada; drop role test_ben');
    }
  });
});
