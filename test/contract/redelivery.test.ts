import { describe, expect, test } from 'vitest';
import { can, newestBackends, type Sql } from './backends.ts';

// Requests that are kept when they are done, and sending them again.

type SqlError = { code?: string; message: string; detail?: string; hint?: string };

async function errorOf(sql: Sql, statement: string): Promise<SqlError> {
  try {
    await sql.query(statement);
  } catch (error) {
    return error as SqlError;
  }
  throw new Error(`this was accepted: ${statement}`);
}

/** Runs it as a login of that role. */
async function as<T>(sql: Sql, role: string, work: () => Promise<T>): Promise<T> {
  await sql.query(`set session authorization ${role}`);
  try {
    return await work();
  } finally {
    // PGlite does not know how to RESET it.
    await sql.query('set session authorization postgres');
  }
}

type Kept = {
  id: number;
  state: string;
  status_code: number | null;
  error_code: string | null;
  redelivered_as: number;
};

const kept = (sql: Sql): Promise<Kept[]> =>
  sql.query<Kept>('select id, state, status_code, error_code, redelivered_as from net.kept_requests order by id');

/** Kept requests as the worker would have left them: 1 to `count`, which ended one second after another, an hour ago. */
async function keep(sql: Sql, count: number, columns: Readonly<Record<string, string>> = {}): Promise<void> {
  const given = {
    id: 'n',
    method: `'POST'`,
    url: `'http://h/' || n`,
    headers: `'{"A": "b"}'`,
    body: `convert_to('body ' || n, 'UTF8')`,
    timeout_milliseconds: '2000',
    attempts: '1',
    login_role: `'postgres'::regrole`,
    state: `'failed'`,
    status_code: '503',
    host: `'h'`,
    finished: `now() - interval '1 hour' + n * interval '1 second'`,
    ...columns,
  };
  await sql.query(`
    insert into net.kept_requests (${Object.keys(given).join(', ')})
    select ${Object.values(given).join(', ')} from generate_series(1, ${count}) n`);
}

/** What a request is, wherever it is stored: all that the queue and the copies have in common, the body as its hash. */
async function requestIn(sql: Sql, table: string, id: number): Promise<Record<string, unknown>> {
  const [row] = await sql.query<{ request: Record<string, unknown> }>(`
    select jsonb_object_agg(c.key, c.value) - 'id' - 'created' - 'attempts' - 'redelivery_of'
      || jsonb_build_object('body', md5(t.body), 'bytes', length(t.body)) as request
    from ${table} t
    cross join jsonb_each(to_jsonb(t) - 'body') c
    where t.id = ${id}
      and c.key in (
        select column_name from information_schema.columns where table_schema || '.' || table_name = 'net.http_request_queue'
        intersect
        select column_name from information_schema.columns where table_schema || '.' || table_name = 'net.kept_requests'
      )
    group by t.body`);
  if (row === undefined) throw new Error(`${table} has no ${id}`);
  return row.request;
}

const everyOption = `
  create function public.failed(response net._http_response) returns void language sql security definer
    set search_path = pg_catalog, pg_temp as 'select';
  insert into net.retry_policy (name, max_attempts, first_delay, max_delay) values ('slow', 3, '1 hour', '1 hour');`;

describe.each(newestBackends)('$name', (backend) => {
  test('what failed is kept as it was made, and sent again as a new request; what succeeded is neither', async () => {
    const stage = await backend.open();
    const { sql, echoUrl } = stage;
    const url = `${echoUrl}/status/503`;
    const failed = await stage.enqueue(
      `select net.request('POST', '${url}', '{"X-Id": "ü"}', bytes := '\\x00ff0a0d80', label := 'orders')`,
    );
    await stage.response(failed);
    const nowhere = await stage.get('http://127.0.0.1:1/');
    const fine = await stage.get('/get');
    await stage.responses(3);
    expect(await kept(sql)).toEqual([
      { id: failed, state: 'failed', status_code: 503, error_code: null, redelivered_as: null },
      { id: nowhere, state: 'failed', status_code: null, error_code: 'connect_failed', redelivered_as: null },
    ]);

    const again = await stage.enqueue(`select net.redeliver(${failed})`);
    expect(again).toBeGreaterThan(fine);
    expect(await stage.response(again)).toMatchObject({ status_code: 503, label: 'orders' });
    const [first, second, ...more] = stage.received.filter(({ path }) => path === '/status/503');
    expect(more).toEqual([]);
    expect(second).toMatchObject({ method: 'POST', body: first?.body });
    const headersOf = (request: typeof first): unknown => request?.headers;
    expect(headersOf(second)).toEqual(headersOf(first));
    expect(await sql.query('select id, redelivered_as, redelivery_of from net.kept_requests order by id')).toEqual([
      { id: failed, redelivered_as: again, redelivery_of: null },
      { id: nowhere, redelivered_as: null, redelivery_of: null },
      { id: again, redelivered_as: null, redelivery_of: failed },
    ]);
  });

  test('a body of a megabyte is kept and sent again byte for byte', async () => {
    const stage = await backend.open();
    const id = await stage.enqueue(`
      select net.request('PUT', '${stage.echoUrl}/status/500', bytes := (
        select string_agg(sha256(n::text::bytea), '') from generate_series(1, 32768) n
      ))`);
    await stage.response(id);
    await stage.response(await stage.enqueue(`select net.redeliver(${id})`));
    const [first, second] = stage.received;
    expect(first?.body).toHaveLength(1_048_576);
    expect(Buffer.compare(first?.body ?? new Uint8Array(), second?.body ?? new Uint8Array())).toBe(0);
    expect(await stage.sql.query('select octet_length(body) as bytes from net.kept_requests')).toEqual([
      { bytes: 1_048_576 },
      { bytes: 1_048_576 },
    ]);
  });

  test('every option goes with it, and attempts count from nothing', async () => {
    const stage = await backend.open({ worker: false });
    const { sql } = stage;
    await sql.query(everyOption);
    const id = await stage.enqueue(`
      select net.request(
        'PUT', 'http://127.0.0.1:1/x', '{"Accept": "a/b", "webhook-id": "w"}', text := repeat('é', 500000), timeout_milliseconds := 77,
        sign_with := 'webhooks', retry_policy := 'slow', max_attempts := 1, idempotency_key := 'k-1', ordering_key := 'o',
        if_failed := 'skip', limit_key := 'l', on_error := 'public.failed', keep := 'status', label := 'x'
      )`);
    await sql.query(`update net.http_request_queue set ordering_key = null, priority = 7`);
    const made = await requestIn(sql, 'net.http_request_queue', id);
    expect(made).toMatchObject({ bytes: 1_000_000, priority: 7, limit_key: 'l', retry: { maxAttempts: 1 } });
    await sql.query(`alter role postgres set pg_net.keep_requests_ttl to '30 days'`);
    const worker = await stage.startWorker();
    await stage.until(async () => (await kept(sql)).length === 1, 'it is kept');
    await worker.stop();
    expect(await requestIn(sql, 'net.kept_requests', id)).toEqual(made);

    const again = await stage.enqueue(`select net.redeliver(${id})`);
    expect(await requestIn(sql, 'net.http_request_queue', again)).toEqual(made);
    expect(
      await sql.query(
        'select attempts, first_sent_at, due_at, redelivery_of, created = now() as c from net.http_request_queue',
      ),
    ).toMatchObject([{ attempts: null, first_sent_at: null, due_at: null, redelivery_of: id }]);
    // The key does not lead back to the first request.
    expect(await stage.count('net.http_request_queue')).toBe(1);
  });

  test('an Idempotency-Key that the attempts carried goes with it, unless the headers have one', async () => {
    const { sql } = await backend.open({ worker: false });
    await keep(sql, 2, {
      idempotency_key: `'generated'`,
      headers: `case n when 1 then '{"A": "b"}' else '{"idempotency-KEY": "given"}' end::jsonb`,
    });
    await sql.query('select net.redeliver(id) from net.kept_requests');
    expect(await sql.query('select headers from net.http_request_queue order by redelivery_of')).toEqual([
      { headers: { A: 'b', 'Idempotency-Key': 'generated' } },
      { headers: { 'idempotency-KEY': 'given' } },
    ]);
  });

  test('the settings say which are kept, and for how long', async () => {
    const stage = await backend.open({ worker: false });
    const { sql } = stage;
    await sql.query(`alter role postgres set pg_net.keep_requests to 'all'`);
    await sql.query(
      "do $$ begin if exists (select from pg_roles where rolname = 'contract_worker') then alter role contract_worker reset all; end if; end $$",
    );
    await stage.startWorker();
    const fine = await stage.get('/get');
    const missing = await stage.get('/status/404');
    await stage.responses(2);
    expect(await kept(sql)).toMatchObject([
      { id: fine, state: 'succeeded', status_code: 200 },
      { id: missing, state: 'failed', status_code: 404 },
    ]);
    await sql.query(`alter role postgres set pg_net.keep_requests to 'none'`);
    await sql.query(`alter role postgres set pg_net.keep_requests_ttl to '1 hour'`);
    await sql.query(`update net.kept_requests set finished = now() - interval '59 minutes' where id = ${missing}`);
    await sql.query(`update net.kept_requests set finished = now() - interval '61 minutes' where id = ${fine}`);
    await sql.query('select net.worker_restart()');
    await stage.until(async () => (await kept(sql)).length === 1, 'one has expired');
    await stage.get('/status/500');
    await stage.responses(3);
    expect(await kept(sql)).toMatchObject([{ id: missing }]);
  });

  test('a request that is not kept says why', async () => {
    const stage = await backend.open({ worker: false });
    const { sql } = stage;
    const waiting = await stage.get('/get');
    await sql.query(`
      insert into net._http_response (id, status_code) values (501, 200);
      insert into net._http_response (id, error_msg) values (502, 'it failed')`);
    const because = async (id: number | string): Promise<SqlError> => errorOf(sql, `select net.redeliver(${id})`);
    for (const [id, why] of [
      [waiting, /^It is not done/],
      [501, /^It succeeded \(status 200\)/],
      [502, /^It failed, but was not kept/],
      [503, /^There is no such request/],
      ['null', /^There is no such request/],
    ] as const) {
      const error = await because(id);
      expect(error, String(id)).toMatchObject({ code: 'P0002', detail: expect.stringMatching(why) });
      expect(error.hint, String(id)).toBeTruthy();
    }
    expect(await stage.count('net.http_request_queue')).toBe(1);
  });

  test('by criteria: a dry run changes nothing, then each that fits is sent once, spread over time', async () => {
    const { sql } = await backend.open({ worker: false });
    await keep(sql, 30, { label: `'batch ' || n % 3`, host: `case when n % 2 = 0 then 'H:8080' else 'other' end` });
    const fitting = `host := 'h', label := 'batch 0'`;
    const dry = await sql.query<{ id: number; new_id: number | null }>(`select * from net.redeliver_where(${fitting})`);
    expect(dry.map(({ id, new_id }) => [id, new_id])).toEqual([6, 12, 18, 24, 30].map((id) => [id, null]));
    expect(dry[0]).toMatchObject({
      method: 'POST',
      host: 'H:8080',
      status_code: 503,
      error_code: null,
      label: 'batch 0',
    });
    expect(await sql.query('select from net.http_request_queue')).toEqual([]);
    expect(await sql.query('select from net.kept_requests where redelivered_as is not null')).toEqual([]);

    const done = await sql.query<{ id: number; new_id: number; run_at: Date }>(
      `select * from net.redeliver_where(${fitting}, dry_run := false, per_second := 0.5, max_requests := 4)`,
    );
    expect(done.map(({ id }) => id)).toEqual([6, 12, 18, 24]);
    expect(
      await sql.query(`
        select redelivery_of, convert_from(body, 'UTF8') as body, extract(epoch from due_at - min(due_at) over ())::int as after_s
        from net.http_request_queue order by id`),
    ).toEqual([6, 12, 18, 24].map((id, i) => ({ redelivery_of: id, body: `body ${id}`, after_s: i * 2 })));
    const rest = `select id from net.redeliver_where(${fitting}, dry_run := false)`;
    expect(await sql.query(rest)).toEqual([{ id: 30 }]);
    expect(await sql.query(rest)).toEqual([]);
    expect(await sql.query(`select * from net.redeliver_where(${fitting})`)).toEqual([]);
    // By its id it can be sent again all the same.
    expect(await sql.query('select net.redeliver(30) > 0 as sent')).toEqual([{ sent: true }]);
  });

  test('a worker at rest sends what is spread, each when it is due', async () => {
    const stage = await backend.open();
    await stage.get('/get');
    await stage.responses(1);
    await keep(stage.sql, 4, {
      id: '1000 + n',
      url: `'${stage.echoUrl}/anything/' || n`,
      method: `'GET'`,
      body: 'null',
    });
    const [sent] = await stage.sql.query<{ min: string; max: string }>(
      `select min(new_id), max(run_at) from net.redeliver_where(host := 'h', dry_run := false, per_second := 10)`,
    );
    await stage.responses(5);
    expect([...stage.receivedPaths].slice(1).sort()).toEqual([1, 2, 3, 4].map((n) => `/anything/${n}`));
    const early = `select from net._http_response where id = ${sent?.min} + 3 and created < '${new Date(sent?.max ?? 0).toISOString()}'`;
    expect(await stage.sql.query(early)).toEqual([]);
  });

  test('by status, time and state; what makes no sense is refused', async () => {
    const { sql } = await backend.open({ worker: false });
    await keep(sql, 9, {
      status_code: '(array[400, 404, 429, 500, 503, 599, null, 200, 503])[n]',
      error_code: `case n when 7 then 'timed_out' end`,
      state: `(array['failed', 'failed', 'dead', 'failed', 'dead', 'failed', 'failed', 'succeeded', 'cancelled'])[n]`,
      finished: `'2026-01-01 00:00Z'::timestamptz + n * interval '1 hour'`,
    });
    const ids = async (criteria: string): Promise<number[]> =>
      (await sql.query<{ id: number }>(`select id from net.redeliver_where(${criteria})`)).map(({ id }) => id);
    expect(await ids(`status := '503'`)).toEqual([5]);
    expect(await ids(`status := '5xx'`)).toEqual([4, 5, 6]);
    expect(await ids(`status := '404-500'`)).toEqual([2, 3, 4]);
    expect(await ids(`status := 'error'`)).toEqual([7]);
    expect(await ids(`status := '429 , ERROR,500 - 503'`)).toEqual([3, 4, 5, 7]);
    expect(await ids(`status := '2xx'`)).toEqual([]);
    expect(await ids(`status := '2xx', state := 'succeeded'`)).toEqual([8]);
    expect(await ids(`state := 'dead'`)).toEqual([3, 5]);
    expect(await ids(`state := 'cancelled'`)).toEqual([9]);
    expect(await ids(`since := '2026-01-01 02:00Z', until := '2026-01-01 05:00Z'`)).toEqual([2, 3, 4]);
    expect(await ids(`since := '-infinity'`)).toEqual([1, 2, 3, 4, 5, 6, 7]);
    expect(
      await ids(`host := 'h', status := null, per_second := null, max_requests := null, dry_run := null`),
    ).toHaveLength(7);
    for (const [criteria, message] of [
      ['', /needs a criterion/],
      ['dry_run := false, label := null', /needs a criterion/],
      [`status := '5x'`, /^status is "5x"/],
      [`status := ''`, /^status is ""/],
      [`status := '503-500'`, /^status is/],
      [`status := '404,'`, /^status is/],
      [`state := 'sad'`, /^state is "sad"/],
      [`host := 'h', per_second := 0`, /^per_second is 0/],
      [`host := 'h', per_second := 'NaN'`, /^per_second is NaN/],
      [`host := 'h', max_requests := 0`, /^max_requests is 0/],
      [`host := 'h', max_requests := 100001`, /^max_requests is 100001/],
    ] as const) {
      const error = await errorOf(sql, `select * from net.redeliver_where(${criteria})`);
      expect(error, criteria).toMatchObject({ code: '22023', message: expect.stringMatching(message) });
      expect(error.hint, criteria).toBeTruthy();
    }
  });

  test('only for whoever has the rights of the role that asked, net_admin and the owner; sent as that role', async () => {
    const { sql } = await backend.open({ worker: false });
    for (const role of ['test_carol', 'test_bob', 'test_alice', 'test_admin'])
      await sql.query(`drop role if exists ${role}`);
    await sql.query(`
      create role test_alice; create role test_bob; create role test_carol; create role test_admin;
      grant test_alice to test_carol; grant net_admin to test_admin`);
    // 1: test_alice's; 2: made by a login of test_bob as test_alice; 3: nobody's.
    await keep(sql, 3, {
      login_role: `case n when 2 then 'test_bob'::regrole end`,
      set_role: `case when n < 3 then 'test_alice'::regrole end`,
    });
    const where = `select id from net.redeliver_where(since := '-infinity')`;
    for (const [role, may] of [
      ['test_alice', [1, 2]],
      ['test_carol', [1, 2]],
      ['test_bob', []],
      ['test_admin', [1, 2, 3]],
      ['postgres', [1, 2, 3]],
    ] as const) {
      await as(sql, role, async () => {
        expect(await sql.query(where), role).toEqual(may.map((id) => ({ id })));
        for (const id of [1, 2, 3]) {
          await sql.query('begin');
          const sent = await sql.query(`select net.redeliver(${id})`).then(
            () => true,
            (error: SqlError) => error,
          );
          await sql.query('rollback');
          if ((may as readonly number[]).includes(id)) expect(sent, `${role} ${id}`).toBe(true);
          else {
            expect(sent, `${role} ${id}`).toMatchObject({
              code: 'P0002',
              detail: expect.stringMatching(/^There is no such/),
            });
          }
        }
      });
    }
    // What others may see of it: nothing; the requester nothing that may hold a secret.
    await as(sql, 'test_bob', async () => {
      expect(await sql.query('select id from net.kept_requests')).toEqual([{ id: 2 }]);
      expect(await errorOf(sql, 'select headers from net.kept_requests')).toMatchObject({ code: '42501' });
      expect(await errorOf(sql, 'select body from net.kept_requests')).toMatchObject({ code: '42501' });
    });
    await as(sql, 'test_admin', () => sql.query('select net.redeliver(2)'));
    expect(
      await sql.query(
        'select login_role::regrole::text as login, set_role::regrole::text as role from net.http_request_queue',
      ),
    ).toEqual([{ login: 'test_bob', role: 'test_alice' }]);
    await sql.query('truncate net.http_request_queue, net.kept_requests');
    await sql.query('drop role test_carol; drop role test_bob; drop role test_alice; drop role test_admin');
  });

  test('net.policy and net.queue_limit hold for it, as for the request', async () => {
    const { sql } = await backend.open({ worker: false });
    await sql.query('drop role if exists test_alice; create role test_alice');
    await keep(sql, 3, { set_role: `'test_alice'::regrole` });
    await sql.query(`insert into net.policy (role, host) values ('test_alice', 'elsewhere')`);
    for (const statement of [
      'select net.redeliver(1)',
      `select * from net.redeliver_where(host := 'h')`,
      `select * from net.redeliver_where(host := 'h', dry_run := false)`,
    ]) {
      expect(await errorOf(sql, statement), statement).toMatchObject({
        code: '42501',
        message: 'role "test_alice" may not send requests to h',
      });
    }
    await sql.query(`delete from net.policy; insert into net.queue_limit (role, requests) values ('test_alice', 2)`);
    expect(await errorOf(sql, `select * from net.redeliver_where(host := 'h', dry_run := false)`)).toMatchObject({
      code: '53400',
    });
    expect(await sql.query('select from net.kept_requests where redelivered_as is not null')).toEqual([]);
    expect(
      await sql.query(`select id from net.redeliver_where(host := 'h', dry_run := false, max_requests := 2)`),
    ).toEqual([{ id: 1 }, { id: 2 }]);
    await sql.query(
      'truncate net.http_request_queue, net.kept_requests; delete from net.queue_limit; drop role test_alice',
    );
  });

  test.runIf(can(backend, 'severalSessions'))('two at a time: by criteria each is sent by one of them', async () => {
    const stage = await backend.open({ worker: false });
    await keep(stage.sql, 6);
    const other = await stage.session();
    await stage.sql.query('begin');
    const choose = (most: number): string =>
      `select id from net.redeliver_where(host := 'h', dry_run := false, max_requests := ${most})`;
    expect(await stage.sql.query(choose(2))).toEqual([{ id: 1 }, { id: 2 }]);
    expect(await other.query(choose(4))).toEqual([{ id: 3 }, { id: 4 }]);
    await stage.sql.query('rollback');
    expect(await other.query(choose(6))).toEqual([{ id: 1 }, { id: 2 }, { id: 5 }, { id: 6 }]);
    await stage.sql.query('begin isolation level repeatable read');
    expect(await stage.sql.query('select net.redeliver(1) > 0 as sent')).toEqual([{ sent: true }]);
    await stage.sql.query('commit');
    expect(await stage.count('net.http_request_queue')).toBe(7);
  });

  test('a response is recorded with its copy, or not at all', async () => {
    const stage = await backend.open({ worker: false });
    const { sql } = stage;
    await sql.query(`
      create function public.refuse() returns trigger language plpgsql as 'begin raise ''no copy''; end';
      create trigger refuse before insert on net.kept_requests for each row execute function public.refuse()`);
    const id = await stage.get('/status/500');
    await stage.startWorker();
    await stage.until(() => stage.log.some((line) => /could not be recorded/.test(line)), 'it is refused');
    expect(await stage.count('net._http_response')).toBe(0);
    expect(await stage.count(`net.http_request_queue where id = ${id}`)).toBe(1);
    await sql.query('drop trigger refuse on net.kept_requests');
    await stage.response(id);
    expect(await kept(sql)).toMatchObject([{ id, state: 'failed', status_code: 500 }]);
    expect(stage.received).toHaveLength(1);
    // Nor does a copy that somebody has put there stand in its way.
    await sql.query(`insert into net.kept_requests (id, method, url, headers, timeout_milliseconds, attempts, state)
      select id, 'GET', 'http://by-hand/', '{}', 1, 1, 'failed' from generate_series(${id + 1}, ${id + 2}) id`);
    await sql.query(`select net.http_get('${stage.echoUrl}/status/' || s) from generate_series(500, 503) s`);
    await stage.responses(5);
    expect(await sql.query(`select url from net.kept_requests where id > ${id} order by id`)).toEqual([
      { url: 'http://by-hand/' },
      { url: 'http://by-hand/' },
      { url: `${stage.echoUrl}/status/502` },
      { url: `${stage.echoUrl}/status/503` },
    ]);
  });

  test('durable mode keeps them through a crash, too', async () => {
    const { sql } = await backend.open({ worker: false });
    const persistence = `select relpersistence as p from pg_class where oid = 'net.kept_requests'::regclass`;
    expect(await sql.query(persistence)).toEqual([{ p: 'u' }]);
    await sql.query('select net.set_durable(true)');
    expect(await sql.query(persistence)).toEqual([{ p: 'p' }]);
  });
});
