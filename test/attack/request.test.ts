import type pg from 'pg';
import { describe, expect, test } from 'vitest';
import { closedAfterEach } from '../support/opened.ts';
import { availableMajors } from '../support/servers.ts';
import { attempt, openStage, type Stage } from './stage.ts';

// net.request says for whom it asks in a value of the domain net._caller. Here an ordinary login tries to say somebody else.

/** The rest of the arguments of net._enqueue. */
const rest = `'GET', 'http://127.0.0.1:1/', null, null, null, null, null, null, 1, null, null`;

/** What a value for the victim looks like in this transaction. */
const forged = `(pg_current_xact_id()::text || ' ' || to_regrole('victim')::oid::text)`;

/** Each makes such a value in another way, and must be refused. */
const forgeries: Readonly<Record<string, string>> = {
  'a text': `select net._enqueue(${forged}, ${rest})`,
  'a cast': `select net._enqueue(${forged}::net._caller, ${rest})`,
  'cast()': `select net._enqueue(cast(${forged} as net._caller), ${rest})`,
  'an unknown literal': `select net._enqueue('1 10', ${rest})`,
  'a literal of the type': `select net._enqueue(net._caller '1 10', ${rest})`,
  'no value': `select net._enqueue(null, ${rest})`,
  'no value, typed': `select net._enqueue(null::net._caller, ${rest})`,
  'an empty value': `select net._enqueue('', ${rest})`,
  'named arguments': `select net._enqueue(caller => ${forged}, method => 'GET', url => 'http://h', headers => null,
     params => null, json_body => null, form_body => null, text_body => null, bytes_body => null, timeout_milliseconds => 1,
     sign_with => null, options => null)`,
  'an element of an array': `select net._enqueue((array[${forged}]::net._caller[])[1], ${rest})`,
  'an element of an array literal': `select net._enqueue((format('{"%s"}', ${forged})::net._caller[])[1], ${rest})`,
  unnest: `select net._enqueue(c, ${rest}) from unnest(format('{"%s"}', ${forged})::net._caller[]) c`,
  'a composite': `select net._enqueue((row(${forged})::evil.holder).c, ${rest})`,
  'a composite literal': `select net._enqueue((format('("%s")', ${forged})::evil.holder).c, ${rest})`,
  'a column that an outer join leaves empty': `select net._enqueue(h.c, ${rest}) from (select 1) one left join evil.held h on false`,
  'a scalar subquery without a row': `select net._enqueue((select c from evil.held where false), ${rest})`,
  'a field that a record lacks': `select net._enqueue((jsonb_populate_record(null::evil.holder, '{}')).c, ${rest})`,
  jsonb_populate_record: `select net._enqueue((jsonb_populate_record(null::evil.holder, jsonb_build_object('c', ${forged}))).c, ${rest})`,
  json_populate_recordset: `select net._enqueue(r.c, ${rest})
     from json_populate_recordset(null::evil.holder, json_build_array(json_build_object('c', ${forged}))) r`,
  json_to_record: `select net._enqueue(r.c, ${rest}) from json_to_record(json_build_object('c', ${forged})) r (c net._caller)`,
  'a piece of XML': `select net._enqueue(x.c, ${rest})
     from (select (xpath('//text()', format('<a>%s</a>', ${forged})::xml))[1]::text::net._caller as c) x`,
  'a domain over the domain': `select net._enqueue(${forged}::evil.over, ${rest})`,
  'a domain over the base type': `select net._enqueue(${forged}::evil.plain, ${rest})`,
  'a type with an implicit cast': `select net._enqueue(row('x')::evil.castable, ${rest})`,
  'a function in SQL': `select net._enqueue(evil.in_sql(${forged}), ${rest})`,
  'a function in SQL that is passed the value': `select evil.through_sql(${forged})`,
  'a function in PL/pgSQL': `select net._enqueue(evil.in_plpgsql(${forged}), ${rest})`,
  'a variable': `do $$ declare c net._caller := ${forged}; begin perform net._enqueue(c, ${rest}); end $$`,
  'a variable that is never set': `do $$ declare c net._caller; begin perform net._enqueue(c, ${rest}); end $$`,
  'a polymorphic function': `select net._enqueue(evil.same(null::net._caller, ${forged}), ${rest})`,
  'a definer function of one’s own': `select evil.as_definer(${forged})`,
  'a prepared statement': `prepare forge (net._caller) as select net._enqueue($1, ${rest}); execute forge('1 10')`,
  'a prepared statement given a text': `prepare forge_text (text) as select net._enqueue($1, ${rest}); execute forge_text('1 10')`,
  'a prepared statement given nothing': `prepare forge_null (net._caller) as select net._enqueue($1, ${rest}); execute forge_null(null)`,
  'a table': `create temp table t (c net._caller); insert into t values (${forged}); select net._enqueue(c, ${rest}) from t`,
  'a column that becomes one': `create temp table t as select ${forged} as c; alter table t alter c type net._caller;
     select net._enqueue(c, ${rest}) from t`,
  'a default': `create temp table t (x int, c net._caller default ${forged}); insert into t (x) values (1)`,
  'a generated column': `create temp table t (v text, c net._caller generated always as (v) stored);
     insert into t (v) values (${forged})`,
  'a union': `select net._enqueue(u.c, ${rest}) from (select null::net._caller as c union all select ${forged}) u where c is not null`,
  coalesce: `select net._enqueue(coalesce(null::net._caller, ${forged}), ${rest})`,
  'a case': `select net._enqueue(case when true then ${forged} else null::net._caller end, ${rest})`,
  'another search_path': `set local search_path = evil, pg_catalog; select net._enqueue(${forged}, ${rest})`,
  'a SET that says another role': `set local role to victim; select net.request('GET', 'http://127.0.0.1:1/')`,
  'the setting role': `select set_config('role', 'victim', true), net.request('GET', 'http://127.0.0.1:1/')`,
  'the domain without its check': 'alter domain net._caller drop constraint caller_is_current_user',
  'a cast of one’s own': `create function evil.cast_it(evil.castable) returns net._caller language sql as $$ select null::net._caller $$;
     create cast (evil.castable as net._caller) with function evil.cast_it(evil.castable);
     select net._enqueue(row('x')::evil.castable, ${rest})`,
  'net.request as its owner': 'alter function net.request security definer',
  'the function that reads the value': `select net._caller_role('1 10')`,
};

const objects = `
  create type evil.holder as (c net._caller);
  create table evil.held (c net._caller);
  create domain evil.over as net._caller;
  create domain evil.plain as text;
  create type evil.castable as (t text);
  create function evil.castable_text(evil.castable) returns text language sql as $$ select ${forged} $$;
  create cast (evil.castable as text) with function evil.castable_text(evil.castable) as implicit;
  create function evil.in_sql(text) returns net._caller language sql as 'select $1::net._caller';
  create function evil.through_sql(net._caller) returns bigint language sql as $$ select net._enqueue($1, ${rest}) $$;
  create function evil.in_plpgsql(v text) returns net._caller language plpgsql as 'begin return v; end';
  create function evil.same(one anyelement, v text) returns anyelement language plpgsql as 'begin return v; end';
  create function evil.as_definer(v text) returns bigint language plpgsql security definer as
    $$ begin return net._enqueue(v, ${rest}); end $$;
  create function evil.always(net._caller, net._caller) returns boolean language sql as 'select true';
  create function evil.always_text(text, text) returns boolean language sql as 'select true';
  create operator evil.= (leftarg = text, rightarg = text, function = evil.always_text);
  create function evil.to_regrole(text) returns regrole language sql as $$ select 'victim'::regrole $$;
  create function evil.quote_ident(text) returns text language sql as $$ select 'victim' $$`;

/** Who asked, of each request beside the victim's own first one. */
async function requesters({ admin, victimsId }: Stage): Promise<unknown[]> {
  const { rows } = await admin.query(
    `select coalesce(login_role::regrole::text, '-') || '/' || coalesce(set_role::regrole::text, '-') as by
     from net.http_request_queue where id <> $1 order by id`,
    [victimsId],
  );
  return rows.map(({ by }) => by);
}

async function openEvil(stage: Stage): Promise<void> {
  await stage.admin.query('create schema evil authorization attacker');
  await stage.attacker.query(objects);
}

const request = `select net.request('GET', 'http://127.0.0.1:1/') as id`;
const idOf = async (client: pg.Client, text: string = request): Promise<number> =>
  Number((await client.query(text)).rows[0].id);

describe.each(availableMajors())('net.request on PostgreSQL %i', (major) => {
  const opened = closedAfterEach();

  test('is attributed to nobody else, however the value is made', async () => {
    const stage = await openStage(opened, major);
    await openEvil(stage);
    const came: Record<string, string> = {};
    for (const [way, statement] of Object.entries(forgeries)) {
      const outcome = await attempt(stage.attacker, statement);
      if (!/^(23514|42501)/.test(outcome)) came[way] = outcome;
    }
    expect(came).toEqual({});
    for (const value of ['1 10', Buffer.from('1 10'), null]) {
      await expect(stage.attacker.query(`select net._enqueue($1, ${rest})`, [value])).rejects.toMatchObject({
        code: value === null ? '42501' : '23514',
      });
    }
    await expect(stage.attacker.query(`copy evil.held from program 'true'`)).rejects.toMatchObject({ code: '42501' });
    expect(await requesters(stage)).toEqual([]);
    await stage.expectUnharmed();
  });

  test('a value from before is worth nothing: not after a membership is gone, not out of a table that the victim wrote to', async () => {
    const stage = await openStage(opened, major);
    await openEvil(stage);
    const { admin, attacker, victim } = stage;
    const own = `(pg_current_xact_id()::text || ' ' || current_user::regrole::oid::text)`;
    await attacker.query(`
      create table evil.guests (name text, c net._caller default ${own});
      grant usage on schema evil to public; grant insert on evil.guests to public`);
    await victim.query(`insert into evil.guests values ('victim')`);
    await admin.query('grant victim to attacker');
    await attacker.query(`set role victim; insert into evil.guests values ('as victim'); reset role`);
    await admin.query('revoke victim from attacker');
    const { rows } = await attacker.query('select c from evil.guests');
    expect(rows).toHaveLength(2);
    for (const statement of [
      `select net._enqueue(c, ${rest}) from evil.guests`,
      `select net._enqueue((select g.c from evil.guests g where name = 'victim'), ${rest})`,
      `do $$ declare kept net._caller := (select c from evil.guests limit 1); begin perform net._enqueue(kept, ${rest}); end $$`,
    ]) {
      expect(await attempt(attacker, statement), statement).toMatch(/^(42501|23514)/);
    }
    expect(await requesters(stage)).toEqual([]);
  });

  test('follows SET ROLE in a statement that was prepared, or planned, as another role', async () => {
    const stage = await openStage(opened, major);
    const { admin, attacker } = stage;
    await admin.query(
      'create schema evil authorization attacker; grant victim to attacker; grant usage on schema evil to victim',
    );
    try {
      await attacker.query(`
        create function evil.ask() returns bigint language plpgsql as $$ begin return net.request('GET', 'http://127.0.0.1:1/'); end $$;
        create function evil.ask_in_sql() returns bigint language sql as $$ select net.request('GET', 'http://127.0.0.1:1/') $$;
        prepare ask as ${request};
        set plan_cache_mode = force_generic_plan`);
      const all = `select evil.ask(); select evil.ask_in_sql(); execute ask`;
      await attacker.query(`${all}; set role victim; ${all}; reset role; ${all}`);
      const three = (by: string): string[] => Array.from({ length: 3 }, () => `-/${by}`);
      expect(await requesters(stage)).toEqual([...three('attacker'), ...three('victim'), ...three('attacker')]);
    } finally {
      await admin.query('revoke victim from attacker');
    }
  });

  test('made by a definer function it belongs to that function’s owner, and its caller sees nothing of it', async () => {
    const stage = await openStage(opened, major);
    const { admin, attacker, victim, echo } = stage;
    await admin.query('create schema shop; grant all on schema shop to victim; grant usage on schema shop to attacker');
    await victim.query(`
      create function shop.charge(url text) returns bigint language plpgsql security definer set search_path = pg_catalog, pg_temp as
        $$ begin return net.request('POST', url, "json" := '{"pin": 1234}'); end $$;
      create view shop.asked as select net.request('GET', 'http://127.0.0.1:1/') as id;
      grant select on shop.asked to attacker`);
    const id = await idOf(attacker, `select shop.charge('${echo.url}/anything/charge') as id`);
    expect(await requesters(stage)).toEqual(['-/victim']);
    const seen =
      'select id from net.http_request_queue where id = $1 union all select id from net._http_response where id = $1';
    expect((await attacker.query(seen, [id])).rows).toEqual([]);
    expect((await victim.query(seen, [id])).rows).toHaveLength(1);
    await stage.expectUnharmed();
    const response = `select status_code from net._http_response where id = ${id}`;
    await expect.poll(async () => (await victim.query(response)).rows).toEqual([{ status_code: 200 }]);
    // Neither seen, nor collected, nor awaited: as if there were none.
    expect((await attacker.query(seen, [id])).rows).toEqual([]);
    expect((await attacker.query(`select (net._http_collect_response($1)).message as m`, [id])).rows).toEqual([
      { m: 'request matching request_id not found' },
    ]);
    await expect(attacker.query('select net._await_response($1)', [id])).rejects.toMatchObject({ code: 'P0002' });
    // A view's functions run as who asks it.
    await idOf(attacker, 'select id from shop.asked');
    await expect
      .poll(
        async () =>
          (await admin.query(`select set_role::regrole::text as by from net._http_response order by id desc limit 1`))
            .rows,
      )
      .toEqual([{ by: 'attacker' }]);
  });

  test('what others run on the attacker’s behalf is the attacker’s: a materialized view that is refreshed', async () => {
    const stage = await openStage(opened, major);
    const { admin, attacker } = stage;
    await admin.query('create schema evil authorization attacker');
    await attacker.query(`create materialized view evil.view as ${request}`);
    await admin.query('refresh materialized view evil.view');
    expect(await requesters(stage)).toEqual(['-/attacker', '-/attacker']);
  });

  test('cannot be awaited by others while it waits', async () => {
    const stage = await openStage(opened, major);
    const id = await idOf(stage.victim);
    await expect(stage.attacker.query('select net._await_response($1)', [id])).rejects.toMatchObject({ code: 'P0002' });
    const { rows } = await stage.attacker.query('select net._request_state($1) as state', [id]);
    expect(rows).toEqual([{ state: 'unknown' }]);
  });
});
