import { describe, expect, test } from 'vitest';
import { closedAfterEach } from '../support/opened.ts';
import { availableMajors } from '../support/servers.ts';
import { attempt, openStage, secret } from './stage.ts';

// What an ordinary login tries on the tables and sequences themselves.

/** Refused by PostgreSQL for want of a right (42501), and so is whatever comes with it. */
const refused: Readonly<Record<string, readonly string[]>> = {
  'read stored headers and bodies': [
    'select headers from net.http_request_queue',
    'select body from net.http_request_queue',
    'select * from net.http_request_queue',
    'select q from net.http_request_queue q',
    'select to_jsonb(q) from net.http_request_queue q',
    'table net.http_request_queue',
    'select xmin, ctid, headers from net.http_request_queue',
    'select count(*) from net.http_request_queue where headers is not null',
    'select id from net.http_request_queue order by body',
  ],
  'read what is not for them': [
    'table net.worker',
    'select name, pid from net.worker',
    'table net.queue_count',
    'select last_value from net.gate',
  ],
  'change a request': [
    `update net.http_request_queue set url = 'http://evil'`,
    `update net.http_request_queue set timeout_milliseconds = 1`,
    'update net.http_request_queue set claimed_by = 1',
    'update net.http_request_queue set due_at = now()',
    `update net.http_request_queue set login_role = 'attacker'::regrole`,
    'select id from net.http_request_queue for update',
    'select id from net.http_request_queue for share',
  ],
  'forge a request of somebody else': [
    `insert into net.http_request_queue (method, url, headers, timeout_milliseconds, login_role)
     values ('GET', 'http://h', '{}', 1, 'victim'::regrole)`,
    `insert into net.http_request_queue (id, method, url, headers, timeout_milliseconds)
     values (1, 'GET', 'http://h', '{}', 1) on conflict (id) do update set url = excluded.url`,
  ],
  'forge, change or delete a response': [
    `insert into net._http_response (id, status_code, content, login_role) values (1, 200, 'forged', 'victim'::regrole)`,
    `update net._http_response set content = 'forged'`,
    'update net._http_response set created = now()',
    'delete from net._http_response',
    'select id from net._http_response for update',
  ],
  'delete requests': ['delete from net.http_request_queue', 'delete from net.http_request_queue where id = 1'],
  truncate: [
    'truncate net.http_request_queue',
    'truncate net._http_response',
    'truncate net.worker',
    'truncate net.http_request_queue restart identity',
  ],
  'take, set or reset numbers': [
    `select nextval('net.http_request_queue_id_seq')`,
    `select setval('net.http_request_queue_id_seq', 1)`,
    `select setval('net.wake_promise', 9999999999999)`,
    `select setval('net.worker_restart_seq', 9999999999999)`,
    `select nextval('net.worker_restart_seq')`,
    `select nextval('net.worker_id_seq')`,
    'alter sequence net.http_request_queue_id_seq restart',
    'select last_value from net.http_request_queue_id_seq',
  ],
  'plant a trigger': [
    'net.http_request_queue',
    'net._http_response',
    'net.worker',
    'net.pause',
    'net.installation',
    'net.policy',
    'net.queue_limit',
    'net.queue_count',
  ].map(
    (table) =>
      `create trigger t before insert on ${table} for each row execute function suppress_redundant_updates_trigger()`,
  ),
  'plant a rule or a policy': [
    'create rule r as on insert to net._http_response do also notify evil',
    'create rule r as on delete to net.http_request_queue do instead nothing',
    'create policy p on net.http_request_queue using (true)',
    'create policy p on net._http_response for select using (true)',
    'drop policy own_requests on net.http_request_queue',
    'alter policy own_responses on net._http_response using (true)',
  ],
  'change what binds a role, or how much it may enqueue': [
    `insert into net.policy values ('attacker', '*', null)`,
    `insert into net.policy values (null, 'nowhere', null)`,
    `update net.policy set host = '*'`,
    'delete from net.policy',
    'truncate net.policy',
    'copy net.policy from stdin',
    'select host from net.policy for update',
    `insert into net.queue_limit values ('attacker', 1000000)`,
    `insert into net.queue_limit values ('victim', 0)`,
    'update net.queue_limit set requests = 0',
    'delete from net.queue_limit',
    'truncate net.queue_limit',
    `insert into net.queue_count values ('attacker'::regrole, 1, now(), 9999999, 'infinity')`,
    `insert into net.queue_count values ('victim'::regrole, 1, now(), 0, now())`,
    'delete from net.queue_count',
    'truncate net.queue_count',
  ],
  'open the gate, or close it': [
    `select setval('net.gate', 1, false)`,
    `select setval('net.gate', 1)`,
    `select nextval('net.gate')`,
    'alter sequence net.gate restart',
    'select net._has_policies()',
    'alter table net.policy disable trigger close_gate',
    'drop trigger close_gate on net.queue_limit',
    'create trigger t after insert on net.policy execute function net._close_gate()',
    'create temp table mine (x int); create trigger t after insert on mine execute function net._close_gate()',
  ],
  'plant an event trigger': [
    `create function pg_temp.e() returns event_trigger language plpgsql as $$ begin end $$;
     create event trigger e on ddl_command_end execute function pg_temp.e()`,
    `create function pg_temp.e() returns event_trigger language plpgsql as $$ begin end $$;
     create event trigger e on sql_drop execute function pg_temp.e()`,
  ],
  'turn row security off': [
    'alter table net.policy disable row level security',
    'set local row_security = off; select host from net.policy',
    'alter table net.http_request_queue disable row level security',
    'alter table net._http_response no force row level security',
    'set local row_security = off; select id from net.http_request_queue',
    'set local row_security = off; select id from net._http_response',
  ],
  'change the tables': [
    'alter table net._http_response add column x int',
    'alter table net.http_request_queue alter column url set default 0',
    'alter table net.http_request_queue owner to attacker',
    'drop table net._http_response',
    'create index on net.http_request_queue (headers)',
    'cluster net.http_request_queue using http_request_queue_pkey',
    'create statistics net.s on id, created from net._http_response',
    `comment on table net._http_response is 'mine'`,
    'create table child () inherits (net._http_response)',
  ],
  'create in the schema': [
    'create table net.mine (x int)',
    'create view net.mine as select 1',
    `create function net.mine() returns int language sql as 'select 1'`,
    `create or replace function net.wake() returns void language sql as 'select 1'`,
    'create type net.mine as (x int)',
    'alter schema net rename to mine',
    'drop schema net cascade',
    'alter schema net owner to attacker',
  ],
  'refer to our rows by a foreign key, which would tell of ids and hold deletes up': [
    'create unlogged table mine (id bigint references net.http_request_queue (id))',
    'create unlogged table mine (id bigint references net._http_response (id))',
    'create unlogged table mine (id bigint references net.worker (id))',
  ],
  'copy in or out': [
    'copy net.http_request_queue to stdout',
    'copy (select headers from net.http_request_queue) to stdout',
    'copy net._http_response from stdin',
    'copy (select 1) to program $$true$$',
  ],
  'lock the tables against the worker': [
    'lock table net.http_request_queue',
    'lock table net._http_response in exclusive mode',
    'lock table net.http_request_queue in share mode',
    'lock table net.worker in access share mode',
    'lock table net._http_response in row exclusive mode',
    'lock table net.policy in share mode',
    'lock table net.queue_limit in exclusive mode',
    'lock table net.queue_count in access share mode',
  ],
  'grant on, or take what is theirs': [
    'grant net_admin to attacker',
    'grant net_worker to attacker',
    'set role net_worker',
    'set role victim',
    'set session authorization victim',
    `set local role to 'postgres'`,
    'reassign owned by victim to attacker',
    'alter default privileges for role postgres grant all on tables to attacker',
  ],
  'call what is private': [
    `select net._wake()`,
    `select net._is_plain('http://h/', '{}', '{}', 1)`,
    `select net._login_role()`,
    `select net._is_promised()`,
    `select net._is_open()`,
    `select net._requester()`,
    `select net._check_policy(10, 'GET', 'http://h')`,
    `select net._check_queue_limit(10)`,
    `select net._check_standing(10, 'GET', 'http://h')`,
    `select net._canonical_host('h')`,
    `select net._is_policy_host('h')`,
    `select net._are_policy_methods('{GET}')`,
    `select net._request_body(null, null, 'x', null)`,
    `select net._is_readable('GET', 'http://h', '{}', null)`,
    `select net._checked_request('http://h', '{}', '{}', 1)`,
    `select net._session_lives(1, now(), now())`,
    `select net._interval_or_null('1 day')`,
    `select net._unstorable('{}')`,
    `select net.set_paused(true)`,
    `select net.set_durable(true)`,
    `select net.set_grants('none')`,
    `select net._create_user_role()`,
  ],
};

describe.each(availableMajors())('on PostgreSQL %i an ordinary login cannot', (major) => {
  const opened = closedAfterEach();

  test('do any of these', async () => {
    const { admin, attacker, expectUnharmed } = await openStage(opened, major);
    // Nothing of this is to fail for want of a place of one's own.
    await admin.query('grant create on schema public to attacker');
    const came: Record<string, string> = {};
    for (const [aim, statements] of Object.entries(refused)) {
      for (const statement of statements) {
        const outcome = await attempt(attacker, statement);
        expect(outcome, statement).not.toContain(secret);
        if (!outcome.startsWith('42501')) came[`${aim}: ${statement}`] = outcome;
      }
    }
    // GRANT without the right to is a warning.
    await attacker.query('grant all on net.http_request_queue, net._http_response to attacker').catch(() => {});
    await attacker.query('revoke all on net._http_response from victim').catch(() => {});
    expect(came).toEqual({});
    await expectUnharmed();
  });
});
