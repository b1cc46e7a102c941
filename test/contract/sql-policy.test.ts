import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { canonicalHost, isHostPattern } from '../../src/core/hosts.ts';
import { type HostRule, hostRulesDenial } from '../../src/core/policy.ts';
import { connectPg } from '../../src/postgres/pg.ts';
import { readStandings } from '../../src/store/standing.ts';
import { installedDatabase } from '../support/installed.ts';
import { closedAfterEach, openSession } from '../support/opened.ts';
import { availableMajors, startTestPostgres, until } from '../support/servers.ts';
import { backends, type Sql } from './backends.ts';

// net.policy at the door: where requests of which roles may go, and that the worker says the same.

type SqlError = { code?: string; message: string; detail?: string; hint?: string; where?: string };

const literal = (value: string): string => `'${value.replaceAll("'", "''")}'`;

/** A stage with three ordinary roles; `test_carol` has the rights of `test_alice`. */
async function open(backend: (typeof backends)[number]): Promise<Sql> {
  const { sql } = await backend.open({ worker: false });
  for (const role of ['test_carol', 'test_bob', 'test_alice']) await sql.query(`drop role if exists ${role}`);
  await sql.query(
    'create role test_alice; create role test_bob; create role test_carol; grant test_alice to test_carol',
  );
  return sql;
}

/** Runs it as a login of that role; the error, or null where it was accepted. */
async function as(sql: Sql, role: string, statement: string): Promise<SqlError | null> {
  await sql.query(`set session authorization ${role}`);
  try {
    await sql.query(statement);
    return null;
  } catch (error) {
    return error as SqlError;
  } finally {
    // PGlite does not know how to RESET it.
    await sql.query('set session authorization postgres');
  }
}

const isOpen = async (sql: Sql): Promise<unknown> =>
  (await sql.query<{ o: boolean }>('select net._is_open() as o'))[0]?.o;

describe.each(backends)('$name', (backend) => {
  test('a role that a row concerns reaches what its rows let it, by every function; the others everything', async () => {
    const sql = await open(backend);
    await sql.query(`
      insert into net.policy (role, host, methods) values
        ('test_alice', 'api.example.com', '{GET,PROPFIND}'), ('test_alice', '*.example.org', null)`);
    const allowed = [
      `select net.http_get('http://u:p@API.example.com.:8080/x?y')`,
      `select net.http_get('http://api.example.com', '{"a": 1}')`,
      `select net.request('propfind', 'http://api.example.com')`,
      `select net.http_post('https://a.b.example.org/')`,
      `select net.http_delete('https://a.example.org')`,
      `select net.request('PUT', 'https://a.example.org')`,
    ];
    const refused = [
      `select net.http_get('http://example.com/')`,
      `select net.http_get('http://example.org/')`,
      `select net.http_get('http://badexample.org/')`,
      `select net.http_get('http://api.example.com@evil/')`,
      `select net.http_post('http://api.example.com/')`,
      `select net.http_delete('http://api.example.com/')`,
      `select net.request('HEAD', 'http://api.example.com')`,
      `select net.request('GET', 'http://api.example.com.evil')`,
      `select net.http_get('http://127.0.0.1/')`,
      `select net.http_get('http://api.example.com\\@evil/')`,
    ];
    for (const statement of allowed) {
      for (const role of ['test_alice', 'test_carol', 'test_bob'])
        expect(await as(sql, role, statement), statement).toBeNull();
    }
    for (const statement of refused) {
      for (const role of ['test_alice', 'test_carol']) {
        const error = await as(sql, role, statement);
        expect(error?.code, statement).toBe(statement.includes('\\') ? '22023' : '42501');
      }
      if (!statement.includes('\\')) expect(await as(sql, 'test_bob', statement), statement).toBeNull();
    }
    // The role that was SET asks, not the login.
    await sql.query('set role test_alice');
    await expect(sql.query(`select net.http_get('http://example.com/')`)).rejects.toMatchObject({ code: '42501' });
    await sql.query(`reset role; select net.http_get('http://example.com/')`);
  });

  test('says which role, which host and who may change it, and nothing else of the URL', async () => {
    const sql = await open(backend);
    await sql.query(`insert into net.policy values ('test_alice', 'api.example.com', '{GET}')`);
    const said = async (statement: string): Promise<SqlError> => {
      const error = await as(sql, 'test_carol', statement);
      if (error === null) throw new Error(`this was accepted: ${statement}`);
      expect([error.message, error.detail, error.hint, error.where].join('\n')).not.toMatch(/secret/);
      return error;
    };
    const body = `headers := '{"A": "secret"}'`;
    expect(
      await said(`select net.http_get('http://secret:secret@Other.example/secret?secret#secret', ${body})`),
    ).toMatchObject({
      code: '42501',
      message: 'role "test_carol" may not send requests to other.example',
      hint: expect.stringMatching(/"postgres".*net\.policy/),
    });
    expect(await said(`select net.http_post('http://secret@api.example.com/secret', ${body})`)).toMatchObject({
      message: 'role "test_carol" may not send POST to api.example.com',
      hint: expect.stringMatching(/net\.policy/),
    });
    expect(await said(`select net.http_get('http://secret@exämple.com/secret')`)).toMatchObject({
      message: 'role "test_carol" may not send requests to this URL',
      hint: expect.stringMatching(/Punycode/),
    });
  });

  test('a row for nobody in particular concerns everybody, superusers too; others’ rows no superuser', async () => {
    const sql = await open(backend);
    await sql.query(`insert into net.policy values ('test_alice', 'a.example', null)`);
    await sql.query(`select net.http_get('http://b.example/')`);
    await sql.query(`insert into net.policy values (null, 'b.example', null)`);
    await sql.query(`select net.http_get('http://b.example/')`);
    await expect(sql.query(`select net.http_get('http://a.example/')`)).rejects.toMatchObject({ code: '42501' });
    for (const host of ['a.example', 'b.example']) {
      expect(await as(sql, 'test_alice', `select net.http_get('http://${host}/')`)).toBeNull();
    }
    expect(await as(sql, 'test_bob', `select net.http_get('http://a.example/')`)).toMatchObject({ code: '42501' });
    await sql.query(`insert into net.policy values ('postgres', '*', null)`);
    await sql.query(`select net.http_get('http://a.example/')`);
  });

  test('hosts and methods are kept in one spelling, one row for a role and a host', async () => {
    const sql = await open(backend);
    const fine = [
      '*',
      'h',
      'a.example',
      '*.example',
      '_x.y-z.example',
      '10.1.2.3',
      '::1',
      '2001:db8::1',
      'xn--exmple-cua.com',
    ];
    const wrong = [
      '',
      ' ',
      'A.example',
      'a.example.',
      '.example',
      '*example',
      '*.',
      '**.example',
      'a.*.example',
      'exämple.com',
      'a b',
      'a/b',
      'a:80',
      '[::1]',
      '0:0::1',
      '::FFFF:1',
      '1.2.3',
      '1.2.3.04',
      '256.1.1.1',
      '*.1.2.3.4',
      '*.::1',
      '0x7f.1',
      'h.0x1',
      '10.0.0.0/8',
      '::1/128',
      'fe80::1%eth0',
      '::ffff:1.2.3.4',
      '-a.example',
      'a-.example',
      'a..example',
      `${'a.'.repeat(126)}aa`,
      'http://h',
    ];
    for (const host of fine) await sql.query(`insert into net.policy values ('test_bob', ${literal(host)}, null)`);
    for (const host of wrong) {
      await expect(
        sql.query(`insert into net.policy values ('test_bob', ${literal(host)}, null)`),
        host,
      ).rejects.toMatchObject({
        code: '23514',
        message: `invalid host in net.policy: "${host}"`,
        hint: expect.stringContaining('without scheme, port and path'),
      });
    }
    for (const methods of ['{}', '{get}', '{"GET,POST"}', '{"GET POST"}', '{NULL}', '{GET,NULL}', '{""}', '{{GET}}']) {
      await expect(sql.query(`insert into net.policy values (null, 'm', '${methods}')`), methods).rejects.toMatchObject(
        {
          code: '23514',
          message: `invalid methods in net.policy: ${methods}`,
          hint: expect.stringContaining('in upper case'),
        },
      );
    }
    await sql.query(`insert into net.policy values (null, 'm', '{GET,M-SEARCH}'), ('test_bob', 'm', null)`);
    await expect(sql.query(`insert into net.policy values (null, 'm', null)`)).rejects.toMatchObject({ code: '23505' });
    await expect(sql.query(`insert into net.policy values ('nobody', 'm', null)`)).rejects.toMatchObject({
      code: '42704',
    });
    // What the worker calls canonical is.
    const named = await sql.query<{ host: string }>('select host from net.policy');
    for (const { host } of named)
      expect(host === '*' || (isHostPattern(host) && canonicalHost(host) === host), host).toBe(true);
  });

  test('agrees with the worker on every host that it can read, and lets nothing else through', async () => {
    const sql = await open(backend);
    await sql.query(`
      create function pg_temp.verdict(rules jsonb, method text, url text) returns text language plpgsql as $$
      begin
        if net._is_url(url) is not true then
          return 'invalid';
        end if;
        delete from net.policy;
        insert into net.policy (role, host, methods)
        select null, r ->> 'host', case when r -> 'methods' <> 'null' then array(select jsonb_array_elements_text(r -> 'methods')) end
        from jsonb_array_elements(rules) r;
        perform net._check_policy(10, method, url);
        return coalesce(net._host_of(url), 'unreadable') || ' lets';
      exception
        when insufficient_privilege then
          return coalesce(net._host_of(url), 'unreadable') || ' refuses';
      end $$`);
    let read = 0;
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.record({ rules, method, url: anyUrl }), { minLength: 20, maxLength: 60 }),
        async (cases) => {
          const rows = await sql.query<{ verdict: string }>(`
          select pg_temp.verdict(c -> 'rules', c ->> 'method', c ->> 'url') as verdict
          from jsonb_array_elements(${literal(JSON.stringify(cases))}::jsonb) with ordinality a (c, n) order by n`);
          for (const [index, asked] of cases.entries()) {
            const verdict = rows[index]?.verdict ?? '';
            const host = URL.canParse(asked.url) ? new URL(asked.url).hostname : undefined;
            if (verdict === 'invalid' || host === undefined) continue;
            const isLet = hostRulesDenial(asked.rules, asked.method, host) === undefined;
            if (verdict.startsWith('unreadable')) {
              // Let by * alone, which lets every host.
              if (verdict.endsWith('lets')) expect(isLet, JSON.stringify(asked)).toBe(true);
              continue;
            }
            read += 1;
            expect(verdict, JSON.stringify(asked)).toBe(`${canonicalHost(host)} ${isLet ? 'lets' : 'refuses'}`);
          }
        },
      ),
      { numRuns: 200 },
    );
    expect(read).toBeGreaterThan(200);
  });

  test('the gate is closed by whatever writes, and opened when nothing is left and a worker looks', async () => {
    const sql = await open(backend);
    const look = async (): Promise<unknown> =>
      (await sql.query<{ h: boolean }>('select net._has_policies() as h'))[0]?.h;
    expect(await isOpen(sql)).toBe(true);
    for (const table of ['net.policy (role, host)', 'net.queue_limit (role, requests)']) {
      const name = table.slice(0, table.indexOf(' '));
      const value = name === 'net.policy' ? `'h'` : '5';
      const insert = `insert into ${table} values (null, ${value})`;
      await sql.query(`begin; ${insert}; rollback`);
      expect(await isOpen(sql)).toBe(false);
      expect(await look()).toBe(false);
      expect(await isOpen(sql)).toBe(true);
      await sql.query(insert);
      expect(await look()).toBe(name === 'net.policy');
      expect(await isOpen(sql)).toBe(false);
      // Who deletes may still think better of it.
      await sql.query(`begin; delete from ${name}`);
      await look();
      await sql.query('rollback');
      expect(await isOpen(sql)).toBe(false);
      await sql.query(`begin; truncate ${name}; select net._has_policies(); rollback`);
      expect(await isOpen(sql)).toBe(false);
      await sql.query(`begin isolation level repeatable read; select net._has_policies(); commit; delete from ${name}`);
      await sql.query('begin isolation level repeatable read; select net._has_policies(); commit');
      expect(await isOpen(sql)).toBe(false);
      await look();
      expect(await isOpen(sql)).toBe(true);
    }
  });

  test('rows that came past the triggers count, too, as soon as a worker looks', async () => {
    const sql = await open(backend);
    await sql.query(`
      alter table net.policy disable trigger all;
      insert into net.policy values (null, 'h', null);
      alter table net.policy enable trigger all`);
    expect(await isOpen(sql)).toBe(true);
    await sql.query('select net._has_policies()');
    await expect(sql.query(`select net.http_get('http://elsewhere/')`)).rejects.toMatchObject({ code: '42501' });
  });

  test('a role sees the rows that bind it, and writes none', async () => {
    const sql = await open(backend);
    await sql.query(`
      insert into net.policy values ('test_alice', 'a', null), ('test_bob', 'b', null), (null, '*', null);
      insert into net.queue_limit values ('test_alice', 1), ('test_bob', 2), (null, 3)`);
    const seen = async (role: string): Promise<unknown[]> => {
      await sql.query(`set session authorization ${role}`);
      const rows = await sql.query<{ x: string }>(
        'select host as x from net.policy union all select requests::text from net.queue_limit order by 1',
      );
      await sql.query('set session authorization postgres');
      return rows.map(({ x }) => x);
    };
    expect(await seen('test_alice')).toEqual(['*', '1', '3', 'a']);
    expect(await seen('test_carol')).toEqual(['*', '1', '3', 'a']);
    expect(await seen('test_bob')).toEqual(['*', '2', '3', 'b']);
    for (const statement of [
      'delete from net.policy',
      `insert into net.policy values (null, 'x', null)`,
      'delete from net.queue_limit',
    ]) {
      expect(await as(sql, 'test_alice', statement), statement).toMatchObject({ code: '42501' });
    }
  });
});

describe.each(availableMajors())('PostgreSQL %i', (major) => {
  const opened = closedAfterEach();

  test('an uncommitted row keeps the gate closed, and nobody who enqueues waits for who writes it', async () => {
    const { url } = await installedDatabase(await startTestPostgres({ major }));
    const [writer, other] = [await openSession(opened, url), await openSession(opened, url)];
    await writer.query(`begin; insert into net.policy values (null, 'h', null)`);
    await other.query(`set statement_timeout = '20s'; select net._has_policies()`);
    await other.query(`select net.http_get('http://elsewhere/')`);
    await writer.query('commit');
    await expect(other.query(`select net.http_get('http://elsewhere/')`)).rejects.toMatchObject({ code: '42501' });
    await writer.query('begin; delete from net.policy');
    await other.query('select net._has_policies()');
    await expect(other.query(`select net.http_get('http://elsewhere/')`)).rejects.toMatchObject({ code: '42501' });
    await writer.query('rollback');
    await other.query('select net._has_policies()');
    await expect(other.query(`select net.http_get('http://elsewhere/')`)).rejects.toMatchObject({ code: '42501' });
    const { rows } = await other.query('select last_value::int from net.worker_restart_seq');
    expect(rows).toEqual([{ last_value: 2 }]);
  });

  test('the same rows concern a role here and in the worker', async () => {
    const { url } = await installedDatabase(await startTestPostgres({ major }));
    const client = await openSession(opened, url);
    const roles = ['who_plain', 'who_member', 'who_noinherit', 'who_nested', 'who_super'];
    await client.query(`
      create role who_group; ${roles.map((role) => `create role ${role} login;`).join('')}
      alter role who_noinherit noinherit; alter role who_super superuser;
      grant who_group to who_member, who_noinherit; grant who_member to who_nested;
      insert into net.policy values ('who_group', 'group', null), ('who_member', 'member', null), ('who_super', 'super', null),
        (null, 'all', null)`);
    opened.push(() => client.query(`drop role ${roles.join(', ')}, who_group`));
    const db = await connectPg({ connectionString: url, applicationName: 'policy', connectTimeoutMs: 10_000 });
    opened.push(() => db.close());
    const { rows } = await client.query<{ oid: number; name: string; hosts: string[] }>(`
      select r.oid::int as oid, r.rolname as name,
        array(select p.host from net.policy p where net._concerns(p.role, r.oid) order by 1) as hosts
      from pg_roles r where r.rolname like 'who%'`);
    const standings = await readStandings(
      db,
      rows.map(({ oid }) => oid),
      [],
    );
    for (const { oid, name, hosts } of rows) {
      expect((standings.get(oid)?.hostRules ?? []).map(({ host }) => host).sort(), name).toEqual(hosts);
    }
    const hostsOf = Object.fromEntries(rows.map(({ name, hosts }) => [name, hosts.join()]));
    expect(hostsOf).toEqual({
      who_group: 'all,group',
      who_plain: 'all',
      who_member: 'all,group,member',
      who_noinherit: 'all',
      who_nested: 'all,group,member',
      who_super: 'all,super',
    });
  });
});

test('a running worker obeys a row that comes, and opens the gate when the last is gone', async () => {
  const backend = backends.find(({ name }) => name === 'PostgreSQL 18') ?? backends[0];
  if (backend === undefined) throw new Error('there is no backend');
  const stage = await backend.open();
  const { sql } = stage;
  await stage.response(await stage.get('/get'));
  await sql.query(`insert into net.policy values (null, 'h', null)`);
  // The row that is inserted by hand asks nobody: the worker has the last word.
  await sql.query('select net.wait_until_running()');
  await sql.query(`
    insert into net.http_request_queue (method, url, headers, timeout_milliseconds) values ('GET', '${stage.echoUrl}/late', '{}', 9000);
    select net.wake()`);
  const [row] = await until(
    async () => {
      const rows = await sql.query<{ error_msg: string }>(
        `select error_msg from net._http_response order by id desc limit 1`,
      );
      return rows[0]?.error_msg != null && rows;
    },
    'the refusal',
    30_000,
  );
  expect(row?.error_msg).toMatch(/net\.policy/);
  expect(stage.receivedPaths).not.toContain('/late');
  await sql.query('delete from net.policy');
  await stage.until(async () => (await isOpen(sql)) === true, 'the gate to be open');
  expect((await stage.response(await stage.get('/get?again'))).status_code).toBe(200);
});

const hostText = fc.constantFrom(
  'h',
  'a.example',
  'b.a.example',
  'a.example.',
  'A.Example',
  'b.a.EXAMPLE.',
  'a..example',
  'a.example..',
  '-a.example',
  'a_b.example',
  'example',
  '10.1.2.3',
  '10.1.2.3.',
  '10.1.515',
  '0x0a010203',
  '010.1.2.3',
  '167838211',
  '1.2.3.4.5',
  '256.1.1.1',
  'a.1',
  'a.0x',
  '0x.example',
  '[::1]',
  '[0:0:0:0:0:0:0:1]',
  '[::ffff:10.1.2.3]',
  '[::FFFF:a01:203]',
  '[::10.1.2.3]',
  '[::0.0.2.3]',
  '[::0.1.2.3]',
  '[2001:DB8:0:0:1::1]',
  '[1:0:0:2:0:0:0:3]',
  '[1::0:2:3:4:5:6]',
  '[fe80::1%25eth0]',
  '[::1].',
  '[::1',
  '::1',
  '[]',
  'exämple.com',
  'xn--exmple-cua.com',
  'xn--',
  'a%2eexample',
  'a.example%00',
  'a.ex ample',
  'a.example\\',
  'ａ.example',
  'a。example',
  'a.example%',
  '*.example',
  'a!b.example',
  'a,b',
  '',
);
const part = (...texts: string[]): fc.Arbitrary<string> =>
  fc.oneof({ weight: 3, arbitrary: fc.constant('') }, fc.constantFrom(...texts));
const anyUrl = fc
  .tuple(
    fc.oneof(
      { weight: 5, arbitrary: fc.constantFrom('http://', 'https://', 'HTTP://') },
      fc.constantFrom('http:/', 'http:', 'http:///', 'http:\\\\', 'ftp://'),
    ),
    part(
      'u@',
      'u:p@',
      '@',
      ':@',
      'a.example@',
      'a.example:80@',
      'a.example%40@',
      'u@v@',
      'a.example/@',
      'a.example#@',
      'a.example?@',
      'a.example\\@',
    ),
    fc.oneof(
      { weight: 9, arbitrary: hostText },
      fc.string({ unit: fc.constantFrom(...'a.1:[]@/\\%-0xé'), maxLength: 7 }),
    ),
    part(':80', ':', ':443', ':65536', ':8080', ':x', ':0'),
    part('/', '/x', '?q', '#f', '/@a.example', '?@a.example', '\\@a.example', '/a.example', '//a.example/'),
  )
  .map((parts) => parts.join(''));
const method = fc.constantFrom('GET', 'POST', 'get', 'PROPFIND', 'purge');
const rules: fc.Arbitrary<HostRule[]> = fc.uniqueArray(
  fc.record({
    host: fc.constantFrom(
      '*',
      'h',
      'a.example',
      '*.a.example',
      '*.example',
      'example',
      '10.1.2.3',
      '10.1.2.3',
      '::1',
      '::ffff:a01:203',
      '::a01:203',
      '::203',
      '::1:203',
      '2001:db8::1:0:0:1',
      '1:0:0:2::3',
      '1:0:2:3:4:5:6:0',
      '1::2:3:4:5:6',
      'xn--exmple-cua.com',
      'a_b.example',
    ),
    methods: fc.constantFrom(null, null, ['GET'], ['POST', 'PROPFIND'], ['PURGE']),
  }),
  { selector: ({ host }) => host, minLength: 1, maxLength: 4 },
);
