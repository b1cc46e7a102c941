import { describe, expect, test } from 'vitest';
import { backends, type Sql, type Stage } from './backends.ts';

// Who may do what, seen from one session that takes on one role after another (so that PGlite can do it too).

const roles = ['test_alice', 'test_bob', 'test_auditor'];

/** A stage with three ordinary roles, of which the auditor is in net_admin. */
async function open(openStage: () => Promise<Stage>): Promise<Sql> {
  const { sql } = await openStage();
  for (const role of roles) await sql.query(`drop role if exists ${role}; create role ${role}`);
  await sql.query('grant net_admin to test_auditor');
  return sql;
}

/** Runs it as a login of that role, with no other rights. */
async function as(sql: Sql, role: string, statement: string): Promise<Record<string, unknown>[]> {
  await sql.query(`set session authorization ${role}`);
  try {
    return await sql.query(statement);
  } finally {
    // PGlite does not know how to RESET it.
    await sql.query('set session authorization postgres');
  }
}

const denied = { code: '42501' };

describe.each(backends)('$name', (backend) => {
  const openRoles = (): Promise<Sql> => open(() => backend.open({ worker: false }));

  test('anybody may use the functions, and sees what they asked for without headers and body', async () => {
    const sql = await openRoles();
    await as(
      sql,
      'test_alice',
      `select net.http_post('http://h/alice', '{"secret": 1}', headers := '{"Authorization": "secret"}')`,
    );
    await as(sql, 'test_bob', `select net.http_get('http://h/bob'), net.http_delete('http://h/bob')`);
    expect(
      await as(sql, 'test_alice', 'select id, method, url, timeout_milliseconds from net.http_request_queue'),
    ).toEqual([{ id: 1, method: 'POST', url: 'http://h/alice', timeout_milliseconds: 2000 }]);
    expect(await as(sql, 'test_bob', 'select id from net.http_request_queue order by id')).toEqual([
      { id: 2 },
      { id: 3 },
    ]);
    for (const column of ['headers', 'body', '*']) {
      await expect(as(sql, 'test_alice', `select ${column} from net.http_request_queue`), column).rejects.toMatchObject(
        denied,
      );
    }
    for (const settings of ['net.settings', 'net.installation'])
      await as(sql, 'test_alice', `select * from ${settings}`);
    await as(sql, 'test_alice', 'select net.wake(), net.worker_restart()');
  });

  test('a response is seen by who asked for it, and by nobody else', async () => {
    const sql = await openRoles();
    await sql.query(`
      insert into net._http_response (id, status_code, content, login_role, set_role) values
        (1, 200, 'alice', 'test_alice'::regrole, null), (2, 200, 'bob', 'test_bob'::regrole, null),
        (3, 200, 'set', 10, 'test_alice'::regrole), (4, 200, 'by hand', null, null)`);
    const seen = 'select id, content from net._http_response order by id';
    expect(await as(sql, 'test_alice', seen)).toEqual([
      { id: 1, content: 'alice' },
      { id: 3, content: 'set' },
    ]);
    expect(await as(sql, 'test_bob', seen)).toEqual([{ id: 2, content: 'bob' }]);
    expect(await as(sql, 'test_auditor', seen)).toHaveLength(4);
    expect(await sql.query(seen)).toHaveLength(4);
    expect(await as(sql, 'test_bob', 'select (net._http_collect_response(1)).message')).toEqual([
      { message: 'request matching request_id not found' },
    ]);
  });

  test('net_admin sees every request, headers and bodies included, and changes none', async () => {
    const sql = await openRoles();
    await as(sql, 'test_alice', `select net.http_post('http://h', '{"a": 1}', headers := '{"X": "y"}')`);
    const rows = await as(
      sql,
      'test_auditor',
      `select headers, convert_from(body, 'UTF8') as body from net.http_request_queue`,
    );
    expect(rows).toEqual([{ headers: { X: 'y', 'Content-Type': 'application/json' }, body: '{"a": 1}' }]);
    for (const statement of ['delete from net.http_request_queue', 'delete from net._http_response']) {
      await expect(as(sql, 'test_auditor', statement), statement).rejects.toMatchObject(denied);
    }
  });

  test('a role that was SET counts as well as the login', async () => {
    const sql = await openRoles();
    await sql.query(`grant test_bob to test_alice; set session authorization test_alice; set role test_bob`);
    await sql.query(`select net.http_get('http://h/1')`);
    await sql.query('reset role; set session authorization postgres');
    for (const role of ['test_alice', 'test_bob']) {
      expect(await as(sql, role, 'select id from net.http_request_queue'), role).toEqual([{ id: 1 }]);
    }
    expect(
      await sql.query('select login_role::regrole::text, set_role::regrole::text from net.http_request_queue'),
    ).toEqual([{ login_role: 'test_alice', set_role: 'test_bob' }]);
  });

  test('nobody else writes to the tables, nor runs what is not for them', async () => {
    const sql = await openRoles();
    await as(sql, 'test_alice', `select net.http_get('http://h')`);
    const statements = [
      `insert into net.http_request_queue (method, url, headers, timeout_milliseconds) values ('GET', 'http://h', '{}', 1)`,
      `update net.http_request_queue set url = 'http://evil'`,
      'update net.http_request_queue set claimed_by = null',
      'delete from net.http_request_queue',
      'truncate net.http_request_queue',
      `insert into net._http_response (id, content) values (1, 'forged')`,
      `update net._http_response set content = 'forged'`,
      'delete from net._http_response',
      'truncate net._http_response',
      'select * from net.worker',
      'delete from net.worker',
      `update net.installation set version = 'x'`,
      `select nextval('net.http_request_queue_id_seq')`,
      `select setval('net.wake_promise', 9999999999999)`,
      `select nextval('net.worker_restart_seq')`,
      `select net._checked_request('http://h', '{}', '{}', 1)`,
      `select net._wake()`,
      'create table net.mine (x int)',
      `create function net.mine() returns int language sql as 'select 1'`,
      'create trigger t before insert on net.http_request_queue for each row execute function pg_catalog.suppress_redundant_updates_trigger()',
      'alter table net.http_request_queue disable row level security',
      'drop schema net cascade',
    ];
    for (const statement of statements) {
      await expect(as(sql, 'test_alice', statement), statement).rejects.toMatchObject(denied);
    }
    expect(await sql.query('select count(*) as requests from net.http_request_queue')).toEqual([{ requests: 1 }]);
  });

  test("a hostile search_path and objects of a caller's own change nothing", async () => {
    const sql = await openRoles();
    await sql.query(`
      create schema evil;
      grant all on schema evil to test_alice`);
    await as(
      sql,
      'test_alice',
      `create function evil.pg_notify(text, text) returns void language plpgsql as 'begin raise exception ''hijacked''; end';
       create function evil.lower(text) returns text language plpgsql as 'begin raise exception ''hijacked''; end';
       create function evil.imatch(text, text) returns boolean language plpgsql as 'begin raise exception ''hijacked''; end';
       create operator evil.!~* (leftarg = text, rightarg = text, function = evil.imatch);
       create temp table http_request_queue (x int);
       set search_path = evil, pg_temp, pg_catalog;
       select net.http_get('http://h', '{"a": "b c"}'), net.http_post('http://h'), net.wake();
       reset search_path`,
    );
    expect(await sql.query('select url from net.http_request_queue order by id')).toEqual([
      { url: 'http://h?a=b%20c' },
      { url: 'http://h' },
    ]);
  });
});
