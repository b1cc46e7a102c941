import type pg from 'pg';
import { describe, expect, test } from 'vitest';
import { connectPg } from '../../src/postgres/pg.ts';
import { install } from '../../src/schema/install.ts';
import { closedAfterEach } from '../support/opened.ts';
import { availableMajors, until } from '../support/servers.ts';
import { attempt, openStage, type Stage, secret } from './stage.ts';

// What an ordinary login does to keep the worker, or the owner, from working.

/** Repeats it until stopped; what the server refuses is the attacker's own loss. */
function flood(session: pg.Client, statement: string): { readonly rounds: number; stop(): Promise<void> } {
  const state = { rounds: 0, isOver: false };
  const loop = (async () => {
    while (!state.isOver) {
      await session.query(statement).catch(() => {});
      state.rounds += 1;
    }
  })();
  return {
    get rounds() {
      return state.rounds;
    },
    stop: async () => {
      state.isOver = true;
      await loop;
    },
  };
}

/** The victim asks one after the other, each when the one before has its answer. */
async function servedInTurn({ victim, echo }: Stage, requests: number): Promise<void> {
  for (let n = 0; n < requests; n++) {
    const { rows } = await victim.query('select net.http_get($1) as id', [`${echo.url}/get?n=${n}`]);
    await until(
      async () => (await victim.query('select from net._http_response where id = $1', [rows[0].id])).rows.length === 1,
      `the answer to request ${n}`,
    );
  }
}

describe.each(availableMajors())('on PostgreSQL %i', (major) => {
  const opened = closedAfterEach();

  test.each([
    ['restarts', 'select net.worker_restart()'],
    ['restarts that are rolled back', 'begin; select net.worker_restart(); rollback'],
    ['wakes', 'select net.wake()'],
    ['forged notifications of a restart', 'notify net_restart'],
    ['forged notifications of a promise', 'notify net_promise'],
    [
      'notifications with content',
      `select pg_notify(c, repeat('x', 7000)) from unnest(array['net_wake', 'net_restart', 'net_promise']) c`,
    ],
    ['waiting', `set statement_timeout = '20ms'; select net._await_response(1)`],
  ])('a flood of %s does not keep the worker from serving', async (_what, statement) => {
    const stage = await openStage(opened, major);
    await stage.startWorker();
    const floods = [flood(stage.attacker, statement), flood(await stage.session('attacker'), statement)];
    await until(() => floods.every(({ rounds }) => rounds > 3), 'the flood to have begun');
    await servedInTurn(stage, 10);
    for (const each of floods) await each.stop();
    const { rows } = await stage.victim.query(
      'select count(*)::int as n from net._http_response where status_code = 200',
    );
    expect(rows).toEqual([{ n: 11 }]);
    expect(new Set(stage.received.map(({ path }) => path)).size).toBe(stage.received.length);
  });

  test('who listens on the channels hears nothing but that something happened', async () => {
    const stage = await openStage(opened, major);
    const heard: (string | undefined)[] = [];
    stage.attacker.on('notification', ({ payload }) => heard.push(payload));
    await stage.attacker.query('listen net_wake; listen net_restart; listen net_promise');
    await stage.startWorker();
    await stage.victim.query('select net.http_post($1, $2)', [`${stage.echo.url}/post`, { pin: secret }]);
    await stage.victim.query('select net.worker_restart()');
    await until(() => heard.length > 1, 'notifications');
    await stage.expectUnharmed();
    await stage.attacker.query('select 1');
    expect(new Set(heard)).toEqual(new Set(['']));
  });

  test('advisory locks are nothing to the worker, nor to who installs', async () => {
    const stage = await openStage(opened, major);
    const { attacker, admin } = stage;
    // Whatever anybody of ours has locked, and the numbers that might come to mind.
    await attacker.query('select pg_advisory_lock(7021934850216649235)');
    await attacker.query('select pg_advisory_lock(n), pg_advisory_lock(n, n) from generate_series(0, 1000) n');
    const db = await connectPg({
      connectionString: stage.url,
      applicationName: 'pgfetch attack',
      connectTimeoutMs: 10_000,
    });
    opened.push(() => db.close());
    expect(await install(db)).toMatchObject({ kind: 'already_installed' });
    await stage.expectUnharmed();
    await servedInTurn(stage, 3);
    const { rows } = await admin.query(
      `select from pg_locks l join pg_stat_activity a using (pid) where l.locktype = 'advisory' and a.usename = 'serving'`,
    );
    expect(rows).toEqual([]);
  });

  test('a transaction that has read everything and stays open holds no one up', async () => {
    const stage = await openStage(opened, major);
    const { attacker } = stage;
    await attacker.query(`
      begin isolation level serializable;
      select id from net.http_request_queue;
      select id from net._http_response;
      select * from net.settings;
      select * from net.installation;
      select net.http_get('http://127.0.0.1:1/')`);
    await stage.expectUnharmed();
    await servedInTurn(stage, 3);
    await attacker.query('rollback');
  });

  test('the sessions of others cannot be ended, nor their settings changed', async () => {
    const stage = await openStage(opened, major);
    const { attacker } = stage;
    await stage.startWorker();
    for (const statement of [
      `select pg_terminate_backend(pid) from pg_stat_activity where usename in ('serving', 'victim')`,
      `select pg_cancel_backend(pid) from pg_stat_activity where usename = 'serving'`,
      'select pg_reload_conf()',
      `alter role serving set search_path = evil`,
      'alter role serving nologin',
      'drop role serving',
      `alter database "${stage.name}" set pg_net.username = 'attacker'`,
      `create event trigger e on ddl_command_end execute function event_trigger()`,
      'create publication p for table net._http_response',
      'create publication p for all tables',
      `select pg_create_logical_replication_slot('s', 'test_decoding')`,
      'create extension pg_net',
      `set session_replication_role = replica`,
      `load 'auto_explain'`,
    ]) {
      const outcome = await attempt(attacker, statement);
      expect(outcome, statement).toMatch(/^(42501|42883|42704|55000|58P01|0A000|25001)/);
    }
    await stage.expectUnharmed();
  });

  test('a queue full of somebody’s requests, and of responses, is served past', async () => {
    const stage = await openStage(opened, major);
    await stage.attacker.query(`select net.http_get('http://127.0.0.1:1/' || n) from generate_series(1, 5000) n`);
    await stage.expectUnharmed();
    await servedInTurn(stage, 3);
  });

  test('a limit stops whoever floods the queue, in one statement or in many, and nobody else', async () => {
    const stage = await openStage(opened, major);
    const { admin, attacker, victim } = stage;
    await admin.query(`insert into net.queue_limit values ('attacker', 100)`);
    const flooding = `select count(net.http_get('http://127.0.0.1:1/')) from generate_series(1, 5000)`;
    expect(await attempt(attacker, flooding)).toMatch(/^53400/);
    const ask = `select net.http_get('http://127.0.0.1:1/')`;
    const outcomes: string[] = [];
    for (let n = 0; n < 300; n++) {
      outcomes.push(
        await attacker.query(ask).then(
          () => 'queued',
          ({ code }) => code,
        ),
      );
    }
    expect(outcomes.filter((outcome) => outcome === 'queued').length).toBeLessThan(120);
    expect(new Set(outcomes)).toEqual(new Set(['queued', '53400']));
    // A transaction that has asked and goes on makes nobody wait.
    await attacker.query('begin; select id from net.http_request_queue').catch(() => {});
    await victim.query(
      `set statement_timeout = '20s'; select net.http_get('http://127.0.0.1:1/') from generate_series(1, 1000)`,
    );
    await attacker.query('rollback');
    await stage.expectUnharmed();
  });

  test('a role that is dropped takes nothing along: its requests are sent, and seen by the owner', async () => {
    const stage = await openStage(opened, major);
    const { admin, echo } = stage;
    await admin.query('create role leaving login');
    const leaving = await stage.session('leaving');
    await leaving.query('select net.http_get($1)', [`${echo.url}/get?of=leaving`]);
    await leaving.end();
    await admin.query('drop role leaving');
    await stage.expectUnharmed();
    const { rows } = await until(async () => {
      const found = await admin.query(`select r.login_role from net._http_response r where r.id > $1`, [
        stage.victimsId,
      ]);
      return found.rows.length === 1 && found;
    }, 'the answer to who has left');
    expect(rows).toHaveLength(1);
    for (const session of [stage.attacker, stage.victim]) {
      const seen = await session.query('select id from net._http_response where id > $1', [stage.victimsId]);
      expect(seen.rows).toEqual([]);
    }
  });
});
