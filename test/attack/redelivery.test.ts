import { describe, expect, test } from 'vitest';
import { closedAfterEach } from '../support/opened.ts';
import { availableMajors } from '../support/servers.ts';
import { attempt, openStage, type Stage, secret } from './stage.ts';

// Requests that are kept: an ordinary login tries to see and to send again what is not its own.

/** What a value of net._caller for the victim looks like in this transaction. */
const forged = `(pg_current_xact_id()::text || ' ' || to_regrole('victim')::oid::text)`;
const rest = `null, null, '-infinity', null, null, null, false, 1, 10`;

/** Each tries to have the victim's kept request (`ID`) sent again, or to learn of it. */
const attempts: Readonly<Record<string, string>> = {
  'by its id': 'select net.redeliver(ID)',
  'a forged caller': `select net._redeliver(${forged}, ID)`,
  'a forged caller, cast': `select net._redeliver(${forged}::net._caller, ID)`,
  'no caller': 'select net._redeliver(null, ID)',
  'a forged caller with criteria': `select * from net._redeliver_where(${forged}, ${rest})`,
  'no caller with criteria': `select * from net._redeliver_where(null, ${rest})`,
  'the setting role': `select set_config('role', 'victim', true), net.redeliver(ID)`,
  'a definer function of its own': 'select evil.as_definer(ID)',
  'what does the work': 'select net._send_again(ID, null)',
  'another function of that name': `set local search_path = evil, pg_catalog; select net.redeliver(ID)`,
  'as its owner': 'alter function net.redeliver(bigint) security definer',
  'its headers': 'select headers from net.kept_requests',
  'its body': 'select body from net.kept_requests',
  'its key': 'select idempotency_key from net.kept_requests',
  'a copy of its own': `insert into net.kept_requests (id, method, url, headers, timeout_milliseconds, attempts, state, set_role)
    values (99, 'GET', 'http://127.0.0.1:1/', '{}', 1, 1, 'failed', 'victim'::regrole)`,
  'another requester': `update net.kept_requests set set_role = 'attacker'::regrole`,
  'a lock': 'lock net.kept_requests',
  'a trigger': `create trigger t before update on net.kept_requests for each row execute function suppress_redundant_updates_trigger()`,
};

const objects = `
  create function evil.as_definer(id bigint) returns bigint language sql security definer
    as 'select net.redeliver($1)';
  create function evil.to_regrole(text) returns oid language sql as 'select pg_catalog.to_regrole(''victim'')::oid';
  create function evil.pg_has_role(oid, oid, text) returns boolean language sql as 'select true'`;

/** The victim's request has failed, and is kept. */
async function keepVictims(stage: Stage): Promise<number> {
  const { rows } = await stage.admin.query(`
    insert into net.kept_requests (id, method, url, headers, body, timeout_milliseconds, attempts, state, status_code, login_role, host)
    select id, method, url, headers, body, timeout_milliseconds, 1, 'failed', 503, login_role, '127.0.0.1'
    from net.http_request_queue
    returning id::int`);
  await stage.admin.query('create schema evil authorization attacker');
  await stage.attacker.query(objects);
  return rows[0].id;
}

describe.each(availableMajors())('PostgreSQL %i', (major) => {
  const opened = closedAfterEach();

  test('what another role requested can be neither sent again nor seen', async () => {
    const stage = await openStage(opened, major);
    const id = await keepVictims(stage);
    for (const [name, statement] of Object.entries(attempts)) {
      const outcome = await attempt(stage.attacker, statement.replaceAll('ID', String(id)));
      expect(outcome, name).toMatch(/^(42501|23514|P0002|22023|42704):/);
      expect(outcome, name).not.toContain(secret);
    }
    const nothing = [
      `select * from net.redeliver_where(since := '-infinity')`,
      `select * from net.redeliver_where(since := '-infinity', dry_run := false)`,
      'select id from net.kept_requests',
    ];
    for (const statement of nothing) expect(await attempt(stage.attacker, statement), statement).toBe('rows []');
    const { rows } = await stage.admin.query('select redelivered_as from net.kept_requests');
    expect(rows).toEqual([{ redelivered_as: null }]);
    // The victim may, and does it with nobody's help.
    expect(await attempt(stage.victim, `select id::int from net.redeliver_where(since := '-infinity')`)).toBe(
      `rows [{"id":${id}}]`,
    );
    expect(await attempt(stage.victim, `select net.redeliver(${id}) > 0 as sent`)).toBe('rows [{"sent":true}]');
    await stage.expectUnharmed();
  });

  test('a membership without INHERIT gives nothing; one that ended gives nothing any more', async () => {
    const stage = await openStage(opened, major);
    const id = await keepVictims(stage);
    await stage.admin.query('alter role attacker noinherit; grant victim to attacker');
    try {
      expect(await attempt(stage.attacker, `select net.redeliver(${id})`)).toMatch(/^P0002:/);
    } finally {
      await stage.admin.query('revoke victim from attacker; alter role attacker inherit');
    }
    await stage.admin.query('grant victim to attacker');
    expect(await attempt(stage.attacker, `select net.redeliver(${id}) > 0 as sent`)).toMatch(/^rows/);
    await stage.admin.query('revoke victim from attacker');
    expect(await attempt(stage.attacker, `select net.redeliver(${id})`)).toMatch(/^P0002:/);
  });

  test('a role that has come to the name of net_admin has none of its rights', async () => {
    const stage = await openStage(opened, major);
    const id = await keepVictims(stage);
    for (const statement of [`net.cancel(${stage.victimsId})`, `net.redeliver(${id})`]) {
      const outcome = await attempt(
        stage.admin,
        `alter role net_admin rename to net_admin_before; create role net_admin; grant net_admin to attacker;
         set local role attacker; select ${statement}`,
      );
      expect(outcome, statement).toMatch(/^P0002:/);
    }
    await stage.expectUnharmed();
  });
});
