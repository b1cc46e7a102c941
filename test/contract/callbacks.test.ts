import { describe, expect, test } from 'vitest';
import { can, newestBackends, type Sql, type Stage } from './backends.ts';

// on_success and on_error: which function is called, with what, and what becomes of one that fails.

type CallbackRow = {
  request_id: number;
  attempts: number;
  error_code: string | null;
  error_msg: string | null;
  is_due: boolean;
};

/** A table for what the functions were told, and two functions that write to it. */
const objects = `
  create table told (id bigint, by text, status int, error text, content text, who name default current_user);
  create function paid(response net._http_response) returns void language plpgsql security definer
    set search_path = public, pg_temp as $$
    begin
      insert into told values (response.id, 'paid', response.status_code, response.error_code, response.content::jsonb ->> 'url');
    end $$;
  create function unpaid(response net._http_response) returns text language sql security definer
    set search_path = public, pg_temp as $$
      insert into told values (response.id, 'unpaid', response.status_code, response.error_code, null) returning by
    $$`;

const callbackRows = (sql: Sql): Promise<CallbackRow[]> =>
  sql.query<CallbackRow>(
    'select request_id, attempts, error_code, error_msg, due_at is not null as is_due from net.callbacks order by 1',
  );

async function openWith(open: () => Promise<Stage>, script: string = objects): Promise<Stage> {
  const stage = await open();
  await stage.sql.query(script);
  return stage;
}

const request = (stage: Stage, path: string, ...options: readonly string[]): Promise<number> =>
  stage.enqueue(`select net.request(${["'GET'", `'${stage.echoUrl}${path}'`, ...options].join(', ')})`);

/** Until there are no calls left to be made. */
const allCalled = ({ sql, until }: Stage): Promise<unknown> =>
  until(async () => (await callbackRows(sql)).length === 0, 'every callback has been called');

describe.each(newestBackends)('$name', (backend) => {
  test("a request that is nobody's is recorded, and calls nothing", async () => {
    const stage = await openWith(() => backend.open());
    const id = await stage.enqueue(
      `insert into net.http_request_queue (method, url, headers, timeout_milliseconds, on_success)
       values ('GET', '${stage.echoUrl}/get', '{}', 10000, 'paid'::regproc) returning id`,
    );
    await stage.sql.query('select net.wake()');
    expect(await stage.response(id)).toMatchObject({ status_code: 200 });
    expect(await stage.count('net.callbacks')).toBe(0);
  });

  test('the one function or the other is called with the response, as its owner', async () => {
    const stage = await openWith(() => backend.open());
    const both = `on_success := 'paid', on_error := 'unpaid'`;
    const good = await request(stage, '/get', both);
    const bad = await request(stage, '/status/404', both);
    const unreachable = await stage.enqueue(`select net.request('GET', 'http://10.0.0.1:1/', ${both})`);
    await request(stage, '/status/500', `on_success := 'paid'`);
    await request(stage, '/get', `on_error := 'unpaid'`);
    await stage.responses(5);
    await stage.until(async () => (await stage.count('told')) === 3, 'three functions have been called');
    const who = 'postgres';
    expect(await stage.sql.query('select * from told order by id')).toEqual([
      { id: good, by: 'paid', status: 200, error: null, content: `${stage.echoUrl}/get`, who },
      { id: bad, by: 'unpaid', status: 404, error: null, content: null, who },
      { id: unreachable, by: 'unpaid', status: null, error: 'denied', content: null, who },
    ]);
    await allCalled(stage);
  });

  test('one that raises leaves nothing but a record of it; the response stays, and it is called again', async () => {
    const stage = await openWith(
      () => backend.open(),
      `${objects};
       create table mood (is_good boolean); insert into mood values (false);
       create function moody(response net._http_response) returns void language plpgsql security definer
         set search_path = public, pg_temp as $$
         begin
           insert into told values (response.id, 'moody');
           if not (select is_good from mood) then
             raise exception 'not now' using errcode = 'ZZ001';
           end if;
         end $$`,
    );
    const id = await request(stage, '/get', `on_success := 'moody'`);
    await stage.until(
      async () => (await callbackRows(stage.sql))[0]?.error_code === 'ZZ001',
      'the function has failed',
    );
    expect(await callbackRows(stage.sql)).toEqual([
      { request_id: id, attempts: expect.any(Number), error_code: 'ZZ001', error_msg: 'not now', is_due: true },
    ]);
    expect(await stage.sql.query('select * from told')).toEqual([]);
    expect(await stage.response(id)).toMatchObject({ status_code: 200 });
    await stage.sql.query('update mood set is_good = true');
    await allCalled(stage);
    expect(await stage.sql.query('select id, by from told')).toEqual([{ id, by: 'moody' }]);
  });

  test('it is called four times at most; what failed for good is kept as long as responses, and not longer', async () => {
    const stage = await openWith(() => backend.open());
    await stage.sql.query(`
      create function never(response net._http_response) returns void language plpgsql security definer as
        $$ begin raise exception 'never'; end $$`);
    const id = await request(stage, '/get', `on_success := 'never'`);
    for (const attempts of [1, 2, 3, 4]) {
      await stage.until(async () => (await callbackRows(stage.sql))[0]?.attempts === attempts, `${attempts} attempts`);
      await stage.sql.query('update net.callbacks set due_at = clock_timestamp() where due_at is not null');
      // Any request makes the worker look.
      await stage.response(await request(stage, '/get', `on_success := 'paid'`));
    }
    expect((await callbackRows(stage.sql)).filter(({ request_id }) => request_id === id)).toEqual([
      { request_id: id, attempts: 4, error_code: 'P0001', error_msg: 'never', is_due: false },
    ]);
    await stage.sql.query(`update net.callbacks set created = created - interval '7 hours'`);
    await request(stage, '/get', `on_success := 'paid'`);
    await allCalled(stage);
  });

  test('one that calls net.request makes a request of its owner, in the transaction of the call', async () => {
    const stage = await openWith(() => backend.open());
    await stage.sql.query(`
      create function next(response net._http_response) returns bigint language sql security definer
        set search_path = public, pg_temp as
        $$ select net.request('GET', replace(response.content::jsonb ->> 'url', '/first', '/second'), on_success := 'public.paid') $$`);
    const first = await request(stage, '/anything/first', `on_success := 'next'`);
    const [told] = await stage.until(async () => {
      const rows = await stage.sql.query<{ id: number; content: string }>('select id, content from told');
      return rows.length > 0 && rows;
    }, 'the second response');
    expect(told).toEqual({ id: expect.any(Number), content: `${stage.echoUrl}/anything/second` });
    expect(told?.id).toBeGreaterThan(first);
    expect(
      await stage.sql.query('select distinct set_role::regrole::text as by, login_role from net._http_response'),
    ).toEqual([{ by: 'postgres', login_role: null }]);
  });

  test('drain waits for them', async () => {
    const stage = await openWith(() => backend.open({ worker: false }));
    // Of several of the name it is the one that was meant.
    await stage.sql.query(`
      create function paid(variadic net._http_response[]) returns int language sql security definer as 'select 1 / 0';
      create function paid(anyelement) returns int language sql security definer as 'select 1 / 0';
      create function paid(text) returns int language sql security definer as 'select 1 / 0'`);
    await request(stage, '/get', `on_success := 'paid(net._http_response)'::regprocedure`);
    const worker = await stage.startWorker();
    await worker.drain();
    expect(await stage.count('told')).toBe(1);
  });

  test('what was left over when a worker ended is called by the next one; without the function or the response the call fails', async () => {
    const stage = await openWith(() => backend.open({ worker: false }));
    const worker = await stage.startWorker();
    const ids = [await request(stage, '/get'), await request(stage, '/get'), await request(stage, '/get')];
    await worker.drain();
    await worker.stop();
    // As it is between the response and the call, and after a worker died with the first call in its hands.
    await stage.sql.query(`
      insert into net.callbacks (request_id, function, requester, due_at, ticket) values
        (${ids[0]}, 'paid'::regproc, 10, clock_timestamp() - interval '1 second', '\\x00'),
        (${ids[1]}, 'unpaid'::regproc, 10, clock_timestamp(), null),
        (${ids[2]}, 'paid'::regproc, 10, clock_timestamp(), null);
      drop function unpaid;
      delete from net._http_response where id = ${ids[2]}`);
    await stage.startWorker();
    await stage.until(
      async () => (await callbackRows(stage.sql)).every(({ attempts }) => attempts > 0),
      'the first is called, and the others have failed',
    );
    expect(await callbackRows(stage.sql)).toEqual([
      expect.objectContaining({ error_code: '55000', error_msg: expect.stringMatching(/^the function is gone/) }),
      expect.objectContaining({ error_code: 'P0002', error_msg: `the response to request ${ids[2]} is gone` }),
    ]);
    expect(await stage.sql.query('select id, by from told')).toEqual([{ id: ids[0], by: 'paid' }]);
  });

  test('only a SECURITY DEFINER function of the caller that takes a response is accepted, by whatever name the caller knows it', async () => {
    const { sql } = await openWith(() => backend.open({ worker: false }));
    await sql.query(`
      create schema app; grant usage on schema app to net_callback; set search_path = app, public;
      create function app.here(net._http_response) returns setof int language sql strict security definer as 'select 1 union select 2';
      create function app.here(net._http_response, int default 1) returns int language sql security definer as 'select 1';
      create function app.known(net._http_response) returns int language sql security definer as 'select 1';
      create function app.invoker(net._http_response) returns int language sql as 'select 1';
      create function app.more(net._http_response, int default 1) returns int language sql security definer as 'select 1';
      create function app.many(variadic net._http_response[]) returns int language sql security definer as 'select 1';
      create function app.nothing() returns int language sql security definer as 'select 1';
      create function app.word(text) returns int language sql security definer as 'select 1';
      create procedure app.proc(net._http_response) language sql security definer as 'select 1';
      create role other_owner;
      create function app.other(net._http_response) returns int language sql security definer as 'select 1';
      alter function app.other owner to other_owner`);
    const attempt = (name: string): Promise<unknown> =>
      sql.query(`select net.request('GET', 'http://h/', on_success := ${name})`).then(
        () => 'accepted',
        (error: { code: string; message: string }) => `${error.code} ${error.message}`,
      );
    const refusal = '22023 on_success must be a SECURITY DEFINER function of yours that takes a net._http_response';
    try {
      expect(await attempt(`'known'`)).toBe('accepted');
      expect(await attempt(`'app.here(net._http_response)'::regprocedure`)).toBe('accepted');
      expect(await attempt(`'here'`)).toMatch(/^42725 more than one function named "here"/);
      for (const name of ['invoker', 'more', 'many', 'nothing', 'word', 'proc', 'other', 'pg_catalog.now']) {
        expect(await attempt(`'${name}'`), name).toBe(refusal);
      }
      expect(await attempt(`0::regproc`)).toBe(refusal);
      expect(await attempt(`'known', keep := 'none'`)).toBe(
        '22023 keep = none does not go with on_success or on_error',
      );
      expect(await attempt(`'known', keep := 'status'`)).toBe('accepted');
    } finally {
      await sql.query('reset search_path; drop function app.other; drop role other_owner');
    }
    // One that net_callback may not call is refused, with what to grant.
    await sql.query(`
      create schema "My app";
      create function "My app".paid(net._http_response) returns int language sql security definer as 'select 1';
      revoke execute on function "My app".paid from public`);
    const ask = `select net.request('GET', 'http://h/', on_error := '"My app".paid')`;
    const lack = (await sql.query(ask).catch((error: unknown) => error)) as { code: string; hint: string };
    expect(lack).toMatchObject({
      code: '42501',
      hint: 'GRANT USAGE ON SCHEMA "My app" TO net_callback; GRANT EXECUTE ON FUNCTION "My app".paid(net._http_response) TO net_callback;',
    });
    await sql.query(lack.hint);
    await sql.query(ask);
    expect(
      await sql.query('select on_error::regproc::text as f from net.http_request_queue where on_error is not null'),
    ).toEqual([{ f: '"My app".paid' }]);
  });
});

describe.each(newestBackends.filter((backend) => can(backend, 'severalSessions')))('$name', (backend) => {
  test('one that does not end is ended, even if it will not hear of it, and holds up no other role', async () => {
    const stage = await openWith(() => backend.open({ worker: false }));
    await stage.sql.query(`
      create role waiting_owner; grant all on schema public to waiting_owner;
      create function stuck(net._http_response) returns void language plpgsql security definer as $$
        begin
          loop
            begin
              perform pg_sleep(100);
            exception
              when query_canceled then
                null;
            end;
          end loop;
        end $$;
      alter function stuck owner to waiting_owner;
      set role waiting_owner; select net.request('GET', '${stage.echoUrl}/get', on_success := 'stuck'); reset role`);
    try {
      await stage.startWorker({ timing: { callbackTimeoutMs: 200 } });
      await stage.until(
        async () => (await stage.sql.query(`select from pg_stat_activity where wait_event = 'PgSleep'`)).length === 1,
        'the function sleeps',
      );
      await request(stage, '/get', `on_success := 'paid'`);
      await stage.until(async () => (await stage.count('told')) === 1, "another role's function has been called");
      expect(await callbackRows(stage.sql)).toMatchObject([{ attempts: 0, error_code: null }]);
      await stage.until(async () => (await callbackRows(stage.sql))[0]?.attempts === 1, 'its failure is recorded');
      expect(await callbackRows(stage.sql)).toMatchObject([{ error_code: '57014' }]);
    } finally {
      await stage.sql.query(
        'drop function stuck; delete from net.callbacks; drop owned by waiting_owner; drop role waiting_owner',
      );
    }
  });

  test('two workers call each function once', async () => {
    const stage = await openWith(() => backend.open());
    await stage.startWorker();
    await stage.sql.query(
      `select net.request('GET', '${stage.echoUrl}/get', on_success := 'paid') from generate_series(1, 60)`,
    );
    await stage.responses(60);
    await allCalled(stage);
    expect(await stage.sql.query('select count(*) as n, count(distinct id) as ids from told')).toEqual([
      { n: 60, ids: 60 },
    ]);
  });

  test('without a login to call by, a worker says so once, and the calls wait', async () => {
    const stage = await openWith(() => backend.open({ worker: false }));
    const worker = await stage.startWorker({ connectCallbacks: undefined as never });
    for (let n = 0; n < 3; n += 1) await stage.response(await request(stage, '/get', `on_success := 'paid'`));
    await worker.drain();
    expect(stage.log.filter((line) => line.startsWith('callbacks (on_success, on_error) wait'))).toHaveLength(1);
    expect(await callbackRows(stage.sql)).toMatchObject(
      Array.from({ length: 3 }, () => ({ attempts: 0, error_code: null, is_due: true })),
    );
  });
});
