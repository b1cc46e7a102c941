import { readFileSync } from 'node:fs';
import type pg from 'pg';
import { describe, expect, test } from 'vitest';
import { sqlForMigration } from '../../src/schema/scripts.ts';
import { closedAfterEach } from '../support/opened.ts';
import { availableMajors, until } from '../support/servers.ts';
import { openStage, type Stage, secret } from './stage.ts';

// Code of an attacker's own that somebody with more rights is to run, or that is to see what is filtered away.

const hostileObjects = readFileSync(new URL('hostile-objects.sql', import.meta.url), 'utf8');

const everyPublicCall = `
  select
    net.http_get($1 || '/anything/g', '{"a b": "c/d"}', '{"X-Odd": "1"}', 3000),
    net.http_post($1 || '/anything/p', '{"a": 1}', '{"q": "ä"}', '{"X-A": "b"}'),
    net.http_delete($1 || '/anything/d'),
    net.request('put', $1 || '/anything/r', '{"X": "{{secret.a}}"}', '{"q": ["a b", "c"]}', form := '{"a": "b c"}', sign_with := 'a'),
    net.request('POST', $1 || '/anything/t', text := 'x'),
    net.wake(),
    net.worker_restart(),
    net._urlencode_string('a b'),
    net._encode_url_with_params_array('http://h', array['a=b']),
    net._http_collect_response(1),
    net.http_collect_response(1),
    net._request_state(1),
    net._is_own_transactions(1),
    net._last_running_xid(),
    net._others_have_ended(1),
    net._refuse_endless_wait()`;

/** The hostile objects, in a schema of the attacker's. */
async function plant({ admin, attacker }: Stage): Promise<void> {
  await admin.query('create schema evil authorization attacker; grant all on schema evil to attacker');
  await attacker.query(hostileObjects);
  await admin.query('grant usage on schema evil to public; grant select on all tables in schema evil to public');
}

/** A function that tells the attacker, and anybody who looks into `evil.told`, what it was given. */
async function plantLeak(attacker: pg.Client): Promise<void> {
  await attacker.query(`
    create function pg_temp.leak(what text) returns boolean language plpgsql cost 0.0000001 as
      $$ begin raise warning 'leaked %', what; return true; end $$`);
}

describe.each(availableMajors())('on PostgreSQL %i', (major) => {
  const opened = closedAfterEach();

  test('search_path, temporary objects, functions, operators, types: none takes the place of what our functions mean', async () => {
    const stage = await openStage(opened, major);
    await plant(stage);
    const { admin, attacker, echo } = stage;
    // So that all that can be looked at is.
    await admin.query(`
      insert into net.policy values ('attacker', '::1', null), ('attacker', '127.0.0.1', null), ('victim', '*', null);
      insert into net.queue_limit values ('attacker', 100)`);
    await attacker.query(`
      create temp table policy (role oid, host text, methods text[]);
      create temp table queue_limit (role oid, requests bigint);
      create temp table queue_count (role oid);
      create domain pg_temp._caller as pg_catalog.text;
      create temp table http_request_queue (id int);
      create temp table _http_response (id int);
      create temp view pg_roles as select 'postgres'::name as rolname, evil.hijacked();
      create domain pg_temp.oid as pg_catalog.text;
      create domain pg_temp.jsonb as pg_catalog.text;
      set search_path = evil, pg_temp, pg_catalog, public`);
    await attacker.query(everyPublicCall.replaceAll('||', 'operator(pg_catalog.||)'), [echo.url]);
    await attacker.query('select * from net.settings');
    await attacker.query('select net.check_worker_is_up()').catch(({ message }) => {
      expect(message).toBe('the pg_net background worker is not up');
    });
    await attacker.query('set search_path = pg_catalog');
    const { rows } = await attacker.query('select url from net.http_request_queue order by id');
    expect(rows.map(({ url }) => url)).toEqual([
      `${echo.url}/anything/g?a%20b=c%2Fd`,
      `${echo.url}/anything/p?q=%C3%A4`,
      `${echo.url}/anything/d`,
      `${echo.url}/anything/r?q=a%20b&q=c`,
      `${echo.url}/anything/t`,
    ]);
    await admin.query('delete from net.policy');
    await stage.expectUnharmed();
  });

  test('the worker and its server-side functions mean PostgreSQL’s own under a hostile search_path of its role and database', async () => {
    const stage = await openStage(opened, major);
    await plant(stage);
    const { admin, name, victim, echo, received } = stage;
    await admin.query(`
      alter role serving in database "${name}" set search_path = evil, pg_catalog, public;
      alter database "${name}" set search_path = evil, pg_catalog;
      alter database "${name}" set pg_net.ttl = '100 milliseconds';
      grant all on schema evil to serving`);
    await stage.startWorker();
    await until(() => received.length === 1, 'the request of the victim');
    await victim.query('set search_path = pg_catalog');
    await victim.query('select net.http_get($1) from generate_series(1, 30)', [`${echo.url}/get`]);
    await until(() => received.length === 31, 'further requests');
    await victim.query(`select net.http_get('http://127.0.0.1:1/'), net.worker_restart()`);
    const left =
      'select (select count(*) from net._http_response) + (select count(*) from net.http_request_queue) as n';
    await until(async () => Number((await victim.query(left)).rows[0].n) === 0, 'all of it answered and expired');
  });

  test('an installation made under a hostile search_path is the same', async () => {
    const stage = await openStage(opened, major);
    await plant(stage);
    const { admin } = stage;
    const { rows: before } = await admin.query('select net._fingerprint() as f');
    await admin.query('drop schema net cascade; set search_path = evil, pg_catalog');
    await admin.query(await sqlForMigration());
    await admin.query('set search_path = pg_catalog');
    const { rows: after } = await admin.query('select net._fingerprint() as f');
    expect(after).toEqual(before);
  });

  test('what is passed to the functions is evaluated and cast as the caller', async () => {
    const { attacker, admin, expectUnharmed } = await openStage(opened, major);
    await admin.query('create schema evil authorization attacker');
    await attacker.query(`
      create table evil.who (name text);
      grant insert on evil.who to public;
      create type evil.url as (u text);
      create function evil.as_text(evil.url) returns text language plpgsql volatile as
        $$ begin insert into evil.who values (current_user); return ($1).u; end $$;
      create cast (evil.url as text) with function evil.as_text(evil.url) as implicit;
      create function evil.is_fine(text) returns boolean language plpgsql as
        $$ begin insert into evil.who values (current_user); return true; end $$;
      create domain evil.checked as text check (evil.is_fine(value));
      create domain evil.params as jsonb check (evil.is_fine(value::text))`);
    await attacker.query(`
      select
        net.http_get(row('http://h/cast')::evil.url),
        net.http_get('http://h/domain'::evil.checked, '{"a": "b"}'::evil.params, '{"X": "y"}'::evil.params),
        net.http_get('http://h/' || current_user)`);
    expect((await attacker.query('select distinct name from evil.who')).rows).toEqual([{ name: 'attacker' }]);
    expect((await attacker.query('select url from net.http_request_queue order by id')).rows).toEqual([
      { url: 'http://h/cast' },
      { url: 'http://h/domain?a=b' },
      { url: 'http://h/attacker' },
    ]);
    await expectUnharmed();
  });

  test('odd JSON gives nothing but an error or a plain header', async () => {
    const { attacker, admin, expectUnharmed } = await openStage(opened, major);
    const odd = [
      '[]',
      '"x"',
      'null',
      '1',
      '{"": "x"}',
      '{"a\\r\\nX-Forged": "x"}',
      '{"X": "a\\r\\nX-Forged: b"}',
      '{"X": "a\\nb"}',
      '{"X": {"toString": "x"}}',
      '{"X": ["a", "b"]}',
      '{"__proto__": "x"}',
      '{"constructor": {"prototype": {"polluted": 1}}}',
      '{"login_role": "10", "id": "1"}',
      `{"X": "'); drop schema net cascade; --"}`,
      `{"$1": "%I %s {{secret}}"}`,
      '{"Content-Length": "0", "Transfer-Encoding": "chunked"}',
    ];
    for (const headers of odd) {
      for (const argument of ['params', 'headers', 'body']) {
        if (argument === 'body') {
          await attacker.query('select net.http_post($1, body := $2)', ['http://127.0.0.1:1/', headers]);
          continue;
        }
        const outcome = await attacker
          .query(`select net.http_get($1, ${argument} := $2)`, ['http://127.0.0.1:1/', headers])
          .then(
            () => 'queued',
            ({ code }) => code,
          );
        expect(['queued', '22023'], `${argument} ${headers}`).toContain(outcome);
      }
    }
    const { rows } = await admin.query(
      `select distinct login_role::regrole::text as login from net.http_request_queue where url like 'http://127.0.0.1:1/%'`,
    );
    expect(rows).toEqual([{ login: 'attacker' }]);
    const { rows: forged } = await admin.query(
      `select from net.http_request_queue where url ~ '[\\r\\n]' or exists (select from jsonb_each_text(headers) h where h.key ~ '[\\r\\n]' or h.value ~ '[\\r\\n]')`,
    );
    expect(forged).toHaveLength(0);
    await expectUnharmed();
  });

  test('a leaky function is shown nothing that is filtered away, in WHERE, views, joins, orders and policies', async () => {
    const stage = await openStage(opened, major);
    const { attacker, admin } = stage;
    await admin.query(
      `insert into net._http_response (id, status_code, content, login_role) values (900, 200, $1, 'victim'::regrole)`,
      [secret],
    );
    await admin.query(`insert into net.policy values ('victim', '${secret}.example', null), ('victim', '*', null)`);
    await admin.query('grant create on schema public to attacker');
    const heard: string[] = [];
    attacker.on('notice', ({ message }) => heard.push(message ?? ''));
    await plantLeak(attacker);
    await attacker.query(
      `
      create view pg_temp.with_leak as select id from net._http_response where pg_temp.leak(content);
      create view public.barrier with (security_barrier) as select * from net._http_response;
      create temp table guarded (x int);
      insert into guarded values (1);
      alter table guarded enable row level security;
      alter table guarded force row level security;
      create policy leaky on guarded using (exists (select from net._http_response where pg_temp.leak(content)));
      create policy leaky_too on guarded using (exists (select from net.http_request_queue where pg_temp.leak(url)))`,
    );
    if (major >= 15) {
      await attacker.query(
        'create view pg_temp.invoked with (security_invoker = true) as select * from net._http_response',
      );
    }
    const rows: unknown[] = [];
    for (const statement of [
      'select id from net.http_request_queue where pg_temp.leak(url)',
      'select id from net._http_response where pg_temp.leak(content)',
      'select id from net._http_response where pg_temp.leak(content) and id = 900',
      'select id from net._http_response where case when pg_temp.leak(content) then true end',
      'select id from net._http_response r join generate_series(899, 901) n on pg_temp.leak(r.content) and r.id = n',
      'select id from net._http_response order by pg_temp.leak(content)',
      'select count(*) filter (where pg_temp.leak(content)) from net._http_response having count(*) > 0',
      'select (select id from net._http_response where pg_temp.leak(content) limit 1) as id where false',
      'select * from pg_temp.with_leak',
      'select * from guarded',
      'select host from net.policy where pg_temp.leak(host)',
      'select id from public.barrier where pg_temp.leak(content)',
      'select id from net._http_response where (content)::int > 0',
      'select id from net._http_response where 1 / (id - 900) > 0',
      'explain (analyze, verbose) select id from net._http_response where pg_temp.leak(content)',
    ]) {
      const result = await attacker.query(statement);
      if (!statement.startsWith('explain')) rows.push(...result.rows);
      expect(JSON.stringify(result.rows)).not.toContain(secret);
    }
    expect(rows).toEqual([]);
    expect(heard.filter((message) => message.startsWith('leaked'))).toEqual([]);
    await stage.expectUnharmed();
  });

  test('a view changes nobody’s sight: neither the attacker’s own, nor one that the victim shares', async () => {
    const { attacker, victim, admin } = await openStage(opened, major);
    await admin.query('create schema views; grant all on schema views to attacker, victim');
    await attacker.query(
      'create view views.mine as select id, url from net.http_request_queue; grant select on views.mine to public',
    );
    await victim.query(
      'create view views.theirs as select id, url from net.http_request_queue; grant select on views.theirs to public',
    );
    expect((await attacker.query('table views.mine')).rows).toEqual([]);
    expect((await attacker.query('table views.theirs')).rows).toEqual([]);
    await expect(
      attacker.query('create view views.all as select headers from net.http_request_queue; table views.all'),
    ).rejects.toMatchObject({ code: '42501' });
  });

  test('statistics, plans, prepared statements and error texts tell nothing of others’ rows', async () => {
    const { attacker, victim, victimsId, admin } = await openStage(opened, major);
    await admin.query(`
      insert into net.http_request_queue (method, url, headers, timeout_milliseconds, login_role)
      select 'GET', 'http://${secret}/', '{"X": "${secret}"}', 1, 'victim'::regrole from generate_series(1, 300);
      analyze net.http_request_queue`);
    const text = async (statement: string): Promise<string> =>
      JSON.stringify((await attacker.query(statement).catch((error: unknown) => ({ rows: [error] }))).rows);
    for (const statement of [
      'select * from pg_stats where schemaname = $$net$$',
      'select * from pg_statistic',
      'select * from pg_stats_ext',
      'select query from pg_stat_activity',
      'explain (analyze, verbose, buffers) select id, url from net.http_request_queue',
      'explain verbose select headers from net.http_request_queue',
      `select net.http_get(null::text), net.http_post(null)`,
      `select net.http_post('http://h', timeout_milliseconds := 0)`,
      'select lastval()',
      `select currval('net.http_request_queue_id_seq')`,
      `select pg_get_expr(adbin, adrelid) from pg_attrdef`,
    ]) {
      expect(await text(statement), statement).not.toContain(secret);
    }
    // A statement prepared in another role's name is planned and filtered anew.
    await admin.query('grant victim to attacker');
    await attacker.query('set role victim; prepare p as select id from net.http_request_queue');
    expect((await attacker.query('execute p')).rows).toHaveLength(1 + 300);
    await attacker.query('reset role');
    await admin.query('revoke victim from attacker');
    expect((await attacker.query('execute p')).rows).toEqual([]);
    // An id of somebody else's and one that never was are told apart by nothing.
    for (const call of [
      '_request_state($1)',
      '_is_own_transactions($1)',
      '_http_collect_response($1)',
      '_await_response($1)',
    ]) {
      const answers = await Promise.all(
        [victimsId, 987_654_321].map(async (id) =>
          attacker.query(`select net.${call} as answer`, [id]).then(
            ({ rows }) => rows[0],
            ({ code, message }) => [code, String(message).replace(String(id), 'ID')],
          ),
        ),
      );
      expect(answers[0], call).toEqual(answers[1]);
    }
    expect((await victim.query('select net._request_state($1) as state', [victimsId])).rows).toEqual([
      { state: 'waiting' },
    ]);
  });

  test('a role that has been granted without its rights (NOINHERIT) shows nothing until it is SET', async () => {
    const { attacker, admin, victimsId } = await openStage(opened, major);
    await admin.query('alter role attacker noinherit; grant victim to attacker');
    try {
      expect((await attacker.query('select id from net.http_request_queue')).rows).toEqual([]);
      await attacker.query('set role victim');
      expect((await attacker.query('select id from net.http_request_queue')).rows).toEqual([{ id: String(victimsId) }]);
    } finally {
      await admin.query('revoke victim from attacker; alter role attacker inherit');
    }
  });

  test('the settings of an ordinary login are no settings of the worker’s', async () => {
    const { attacker, admin } = await openStage(opened, major);
    const settings = 'select name, setting, source from net.settings';
    const before = (await admin.query(settings)).rows;
    await attacker.query(`set pg_net.batch_size = 1; set pg_net.username = 'attacker'; set pg_net.ttl = '0'`);
    await attacker.query(`alter role attacker set pg_net.batch_size = 1`).catch(() => {});
    await attacker.query(`alter role attacker set pg_net.username = 'attacker'`).catch(() => {});
    expect((await admin.query(settings)).rows).toEqual(before);
    await admin.query('alter role attacker reset all');
  });
});
