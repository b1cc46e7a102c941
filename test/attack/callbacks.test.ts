import type pg from 'pg';
import { describe, expect, test } from 'vitest';
import { connectPg } from '../../src/postgres/pg.ts';
import { claimCallback } from '../../src/store/callbacks.ts';
import { createWorker } from '../../src/worker/create.ts';
import type { Worker } from '../../src/worker/worker.ts';
import { closedAfterEach, type Opened } from '../support/opened.ts';
import { availableMajors, until } from '../support/servers.ts';
import { attempt, openStage, type Stage } from './stage.ts';

// A user's function runs in a session of ours. Here it tries to get more than its owner's rights, now, at the commit, or later.

/** What a function of the attacker's does. It notes who it is, and what came of trying, in evil.log. */
type Attack = {
  readonly name: string;
  /** Run as the attacker beforehand. */
  readonly before?: string;
  /** In PL/pgSQL; `perform evil.try(statement)` notes the outcome. */
  readonly body: string;
};

/** Divides by zero unless it sees the victim's request, which is the first, or the response to it. */
const look = `select 1 / count(*)
  from (select id from net.http_request_queue union all select id from net._http_response) r where id = 1`;

const attacks: readonly Attack[] = [
  { name: 'takes the role of the session', body: `perform evil.try('reset role')` },
  { name: 'takes the login of the session', body: `perform evil.try('set session authorization default')` },
  { name: 'takes the role of the owner', body: `perform evil.try('set role postgres')` },
  { name: 'sets it', body: `perform evil.try($$ select set_config('role', 'net_callback', false) $$)` },
  { name: 'reads the queue', body: `perform evil.try($$ ${look} $$)` },
  { name: 'takes a call', body: `perform evil.try($$ select net._take_callback(1, 'x') $$)` },
  {
    name: 'leaves a trigger that fires at the commit',
    before: `
      create table evil.bait (x int);
      create function evil.later() returns trigger language plpgsql as $$
        begin
          perform evil.try($t$ ${look} $t$);
          perform evil.try('alter role calling superuser');
          perform evil.try('set role postgres');
          return null;
        end $$;
      create constraint trigger later after insert on evil.bait deferrable initially deferred
        for each row execute function evil.later();
      grant usage on schema evil to public; grant execute on all functions in schema evil to public`,
    body: 'insert into evil.bait values (1)',
  },
  {
    name: 'leaves a cursor that is run at the commit',
    before: `
      create function evil.at_commit() returns int language plpgsql as $$
        begin perform evil.try($t$ ${look} $t$); return 1; end $$;
      grant usage on schema evil to public; grant execute on all functions in schema evil to public`,
    body: `execute 'declare later cursor with hold for select evil.at_commit()'`,
  },
  {
    name: 'leaves another search_path',
    before: `
      create function evil.same(bigint, bigint) returns boolean language plpgsql as $$
        begin perform evil.try($t$ ${look} $t$); return $1 = $2; end $$;
      create operator evil.= (leftarg = bigint, rightarg = bigint, function = evil.same)`,
    body: `perform set_config('search_path', 'evil, pg_catalog', false)`,
  },
];

const objects = `
  create table evil.log (who name, session name, what text, outcome text);
  grant insert on evil.log to public;
  create function evil.try(statement text) returns void language plpgsql as $$
    begin
      execute statement;
      insert into evil.log values (current_user, session_user, statement, 'done');
    exception when others then
      insert into evil.log values (current_user, session_user, statement, sqlstate);
    end $$`;

const definer = (name: string, body: string): string => `
  create function evil.${name}(response net._http_response) returns void language plpgsql security definer as
    $attack$ begin ${body}; insert into evil.log values (current_user, session_user, 'end of ${name}', response.status_code::text); end $attack$`;

async function openEvil(opened: Opened, major: Parameters<typeof openStage>[1]): Promise<Stage> {
  const stage = await openStage(opened, major);
  await stage.admin.query(`
    do $$ begin
      if not exists (select from pg_roles where rolname = 'calling') then create role calling login; end if;
    end $$;
    grant net_callback to calling;
    create schema evil authorization attacker; grant usage on schema evil to net_callback`);
  await stage.attacker.query(objects);
  return stage;
}

async function serve(opened: Opened, stage: Stage, callbackUser = 'calling', log: string[] = []): Promise<Worker> {
  const warn = (_fields: object, message: string): void => void log.push(message);
  const worker = createWorker({
    connectionString: stage.urlAs('serving'),
    callbackDatabaseUrl: stage.urlAs(callbackUser),
    allow: ['loopback'],
    stopTimeoutMs: 2_000,
    log: { info: () => {}, warn, error: warn },
  });
  opened.push(() => worker.stop());
  await worker.start();
  await worker.drain();
  return worker;
}

const ask = (client: pg.Client, { echo }: Stage, name: string): Promise<unknown> =>
  client.query(`select net.request('GET', $1, on_success := '${name}')`, [`${echo.url}/anything/attack`]);

const log = async ({ admin }: Stage): Promise<{ who: string; session: string; what: string; outcome: string }[]> =>
  (await admin.query('select * from evil.log')).rows;

/** A session of the callbacks' login, and a call that it may make: what a worker would do, in steps. */
async function callableBy(opened: Opened, stage: Stage): Promise<{ session: pg.Client; call: string }> {
  await (await serve(opened, stage, 'attacker')).stop();
  const db = await connectPg({ connectionString: stage.url, applicationName: 'test', connectTimeoutMs: 10_000 });
  opened.push(() => db.close());
  await stage.admin.query('update net.callbacks set due_at = clock_timestamp()');
  const claim = await claimCallback(db, [], 60_000);
  if (claim === undefined) throw new Error('there is nothing to call');
  return {
    session: await stage.session('calling'),
    call: `select net._call_back(${claim.requestId}, '${claim.ticket}') as called`,
  };
}

describe.each(availableMajors())('a callback on PostgreSQL %i', (major) => {
  const opened = closedAfterEach();

  test('gains nothing, by whatever it does or leaves behind', async () => {
    const stage = await openEvil(opened, major);
    for (const [n, { before, body }] of attacks.entries()) {
      if (before !== undefined) await stage.attacker.query(before);
      await stage.attacker.query(definer(`attack_${n}`, body));
      await ask(stage.attacker, stage, `evil.attack_${n}`);
    }
    await serve(opened, stage);
    await until(async () => (await stage.admin.query('select from net.callbacks')).rowCount === 0, 'all are called');
    const lines = await log(stage);
    expect(lines.filter(({ what }) => what.startsWith('end of'))).toHaveLength(attacks.length);
    const tries = lines.filter(({ what }) => !what.startsWith('end of'));
    expect(tries.length).toBeGreaterThanOrEqual(10);
    // Some statements are allowed and change nothing (RESET ROLE where none was set).
    expect(tries.filter(({ who }) => who !== 'attacker' && who !== 'calling')).toEqual([]);
    expect(tries.filter(({ what, outcome }) => outcome === 'done' && !what.includes('session authorization'))).toEqual(
      [],
    );
    expect(lines.every(({ session }) => session === 'calling')).toBe(true);
    await stage.expectUnharmed();
  });

  test('finds nothing that the one before it has left in the session', async () => {
    const stage = await openEvil(opened, major);
    await stage.attacker.query(
      definer(
        'leave',
        `perform set_config('app.left', 'here', false); perform set_config('statement_timeout', '1', false);
         create temp table left_table (x int); create function pg_temp.left_function() returns int language sql as 'select 1';
         perform pg_advisory_lock(4711); listen left_channel; prepare left_statement as select 1;
         execute 'declare left_cursor cursor with hold for select 1'`,
      ),
    );
    await stage.attacker.query(
      definer(
        'find',
        `insert into evil.log
         select current_user, session_user, f.what, f.found::text
         from (
           values
             ('setting', nullif(current_setting('app.left', true), '') is not null),
             ('time-out', current_setting('statement_timeout') = '1ms'),
             ('table', to_regclass('pg_temp.left_table') is not null),
             ('function', to_regprocedure('pg_temp.left_function()') is not null),
             ('lock', exists (select from pg_locks where locktype = 'advisory' and pid = pg_backend_pid())),
             ('channel', exists (select from pg_listening_channels())),
             ('statement', exists (select from pg_prepared_statements)),
             ('cursor', exists (select from pg_cursors where name = 'left_cursor'))
         ) f (what, found)`,
      ),
    );
    for (const name of ['find', 'leave', 'find']) await ask(stage.attacker, stage, `evil.${name}`);
    await serve(opened, stage);
    await until(async () => (await stage.admin.query('select from net.callbacks')).rowCount === 0, 'all are called');
    const lines = await log(stage);
    expect(lines.filter(({ what }) => what.startsWith('end of'))).toHaveLength(3);
    expect(lines.filter(({ outcome }) => outcome === 'true')).toEqual([]);
    expect(lines.filter(({ outcome }) => outcome === 'false')).toHaveLength(16);
  });

  test('that changes after it was asked for is not called: another owner, SECURITY INVOKER, dropped and made anew', async () => {
    const stage = await openEvil(opened, major);
    const { admin, attacker } = stage;
    for (const name of ['given', 'invoker', 'anew', 'replaced']) {
      await attacker.query(definer(name, 'null'));
      await ask(attacker, stage, `evil.${name}`);
    }
    await attacker.query(`
      alter function evil.invoker security invoker;
      drop function evil.anew;
      grant usage, create on schema evil to victim`);
    await attacker.query(definer('anew', 'null'));
    await attacker.query(definer('replaced', 'perform 1').replace('create', 'create or replace'));
    await admin.query('alter function evil.given owner to victim');
    await serve(opened, stage);
    await until(
      async () => (await admin.query('select from net.callbacks where attempts = 0')).rowCount === 0,
      'all but one have failed',
    );
    expect((await admin.query('select distinct error_code from net.callbacks')).rows).toEqual([
      { error_code: '55000' },
    ]);
    expect((await log(stage)).map(({ who, what }) => `${who}: ${what}`)).toEqual(['attacker: end of replaced']);
  });

  test('that becomes SECURITY INVOKER between the check and the call runs as the powerless login', async () => {
    const stage = await openEvil(opened, major);
    await stage.attacker.query(
      definer('turn', `perform evil.try($$ ${look} $$); perform evil.try('set role postgres')`),
    );
    await ask(stage.attacker, stage, 'evil.turn');
    const { session, call } = await callableBy(opened, stage);
    // The check goes by the snapshot, the call by what is there: the widest gap that there can be.
    await session.query('begin isolation level repeatable read; select 1');
    await stage.attacker.query(`
      alter function evil.turn security invoker;
      grant usage on schema evil to public; grant execute on all functions in schema evil to public`);
    expect((await session.query(call)).rows).toEqual([{ called: true }]);
    await session.query('commit');
    expect(await log(stage)).toEqual([
      { who: 'calling', session: 'calling', what: ` ${look} `, outcome: '22012' },
      { who: 'calling', session: 'calling', what: 'set role postgres', outcome: '42501' },
      expect.objectContaining({ who: 'calling', what: 'end of turn' }),
    ]);
  });

  test('is called with its ticket only, and once: the login alone can neither call nor read', async () => {
    const stage = await openEvil(opened, major);
    await stage.attacker.query(definer('once', 'null'));
    await ask(stage.attacker, stage, 'evil.once');
    const { session, call } = await callableBy(opened, stage);
    const [{ request_id: id }] = (await stage.admin.query('select request_id from net.callbacks')).rows;
    for (const ticket of [`'x'`, 'null', `(select encode(ticket, 'escape') from net.callbacks)`]) {
      expect(await attempt(session, `select net._call_back(${id}, ${ticket}) as called`)).toMatch(
        /^(rows \[{"called":false}\]|42501)/,
      );
    }
    for (const table of ['net.callbacks', 'net._http_response', 'net.http_request_queue']) {
      expect(await attempt(session, `select id from (select * from ${table}) t (id)`)).toMatch(/^(rows \[\]|42501)/);
    }
    // Nor anybody else with it.
    expect(await attempt(stage.attacker, call)).toMatch(/^42501/);
    expect(await attempt(stage.victim, call)).toMatch(/^42501/);
    expect((await session.query(call)).rows).toEqual([{ called: true }]);
    expect((await session.query(call)).rows).toEqual([{ called: false }]);
    // Its requester sees that it waits; others do not.
    await ask(stage.attacker, stage, 'evil.once');
    await serve(opened, stage, 'attacker');
    const seen = 'select request_id from net.callbacks';
    await until(async () => (await stage.attacker.query(seen)).rowCount === 1, 'the call waits');
    expect((await stage.victim.query(seen)).rows).toEqual([]);
    expect(await attempt(stage.attacker, 'delete from net.callbacks')).toMatch(/^42501/);
  });

  test('is made by no login that may do more: the worker says what to do', async () => {
    const stage = await openEvil(opened, major);
    await stage.attacker.query(definer('wait', 'null'));
    await ask(stage.attacker, stage, 'evil.wait');
    await stage.admin.query(`
      do $$ begin
        if not exists (select from pg_roles where rolname = 'busy') then create role busy login in role net_callback, pg_monitor; end if;
      end $$`);
    const said: string[] = [];
    for (const login of ['postgres', 'serving', 'busy', 'victim']) {
      const worker = await serve(opened, stage, login, said);
      await worker.stop();
      await stage.admin.query('update net.callbacks set due_at = clock_timestamp()');
    }
    expect(said.filter((line) => line.startsWith('callbacks wait'))).toEqual([
      expect.stringContaining('the role "postgres" is a superuser'),
      expect.stringContaining('the role "serving" is a member of net_worker'),
      expect.stringContaining('the role "busy" is a member of pg_monitor'),
      expect.stringMatching(/the role "victim" may not call callbacks\. .*GRANT net_callback TO/),
    ]);
    expect((await stage.admin.query('select attempts, error_code from net.callbacks')).rows).toEqual([
      { attempts: 0, error_code: null },
    ]);
    expect(await log(stage)).toEqual([]);
  });
});
