import type pg from 'pg';
import { describe, expect, test } from 'vitest';
import { connectPg } from '../../src/postgres/pg.ts';
import { findDrift } from '../../src/schema/drift.ts';
import { install } from '../../src/schema/install.ts';
import { type Grants, grantsProfiles, sqlForMigration } from '../../src/schema/scripts.ts';
import { closedAfterEach, type Opened } from '../support/opened.ts';
import { availableMajors } from '../support/servers.ts';
import { attempt, openStage, type Stage } from './stage.ts';

/**
 * Every right that anybody but the owner has, every policy, and every function that runs as its owner. The same on every major;
 * the files in rights/ are what it was when somebody last looked: a difference is to be read, not only to be updated (-u).
 */
const everyRight = `
  select format('%s: %s: %s', o.object, grantee.name, string_agg(lower(a.privilege_type) || case when a.is_grantable then ' with grant option' else '' end, ', ' order by a.privilege_type)) as line
  from pg_namespace n
  cross join lateral (
    select 'schema net', n.nspowner, n.nspacl
    union all
    select 'function ' || p.oid::regprocedure, p.proowner, coalesce(p.proacl, acldefault('f', p.proowner))
    from pg_proc p
    where p.pronamespace = n.oid
    union all
    select case c.relkind when 'S' then 'sequence ' when 'v' then 'view ' else 'table ' end || c.oid::regclass, c.relowner, c.relacl
    from pg_class c
    where c.relnamespace = n.oid
    union all
    select 'column ' || c.oid::regclass || '.' || t.attname, c.relowner, t.attacl
    from pg_class c
    join pg_attribute t on t.attrelid = c.oid
    where c.relnamespace = n.oid
    union all
    select 'type ' || t.oid::regtype, t.typowner, coalesce(t.typacl, acldefault('T', t.typowner))
    from pg_type t
    where t.typnamespace = n.oid and t.typelem = 0 and (t.typacl is not null or t.typtype in ('d', 'e'))
  ) o (object, owner, acl)
  cross join lateral aclexplode(o.acl) a
  cross join lateral (select case when a.grantee = 0 then 'PUBLIC' else pg_get_userbyid(a.grantee)::text end) grantee (name)
  where n.nspname = 'net' and a.grantee <> o.owner
  group by o.object, grantee.name
  union all
  select format(
    'policy %s on %s: %s: %s%s%s',
    p.polname, p.polrelid::regclass,
    (select string_agg(case when r = 0 then 'PUBLIC' else pg_get_userbyid(r)::text end, ', ') from unnest(p.polroles) r),
    case p.polcmd when 'r' then 'select' when '*' then 'all' else p.polcmd::text end,
    ' using ' || pg_get_expr(p.polqual, p.polrelid),
    ' with check ' || pg_get_expr(p.polwithcheck, p.polrelid)
  )
  from pg_policy p
  join pg_class c on c.oid = p.polrelid
  where c.relnamespace = 'net'::regnamespace
  union all
  select format('runs as its owner: %s, %s', p.oid::regprocedure, array_to_string(p.proconfig, ', '))
  from pg_proc p
  where p.pronamespace = 'net'::regnamespace and p.prosecdef
  union all
  select format('row security: %s%s', c.oid::regclass, case when c.relforcerowsecurity then ', forced' end)
  from pg_class c
  where c.relnamespace = 'net'::regnamespace and c.relrowsecurity
  union all
  select format('no pinned search_path: %s', p.oid::regprocedure)
  from pg_proc p
  where p.pronamespace = 'net'::regnamespace and p.proconfig is null`;

async function rightsOf(client: pg.Client): Promise<string> {
  const { rows } = await client.query<{ line: string }>(everyRight);
  return `${rows
    .map(({ line }) => line)
    .sort()
    .join('\n')}\n`;
}

async function openDatabase(opened: Opened, { url }: Stage): ReturnType<typeof connectPg> {
  const db = await connectPg({ connectionString: url, applicationName: 'pgfetch attack', connectTimeoutMs: 10_000 });
  opened.push(() => db.close());
  return db;
}

const uses = [
  `select net.http_get('http://127.0.0.1:1/')`,
  `select net.http_post('http://127.0.0.1:1/')`,
  `select net.http_delete('http://127.0.0.1:1/')`,
  `select net.http_put('http://127.0.0.1:1/'), net.http_patch('http://127.0.0.1:1/'), net.http_head('http://127.0.0.1:1/')`,
  `select net.request('PATCH', 'http://127.0.0.1:1/', text := 'x')`,
  'select net.wake()',
  'select net.worker_restart()',
  'select id from net._http_response',
  'select id, url from net.http_request_queue',
  'select * from net.settings',
  'select * from net.policy',
  'select * from net.queue_limit',
  'select net._http_collect_response(1)',
  `select net.await('{}')`,
  'select * from net.requests',
];

async function outcomes(client: pg.Client): Promise<string[]> {
  const codes: string[] = [];
  for (const statement of uses) codes.push((await attempt(client, statement)).slice(0, 5));
  return [...new Set(codes)];
}

describe.each(availableMajors())('on PostgreSQL %i', (major) => {
  const opened = closedAfterEach();

  test.each(grantsProfiles)('the rights are those of the profile: %s', async (grants) => {
    const stage = await openStage(opened, major, { grants });
    await expect(await rightsOf(stage.admin)).toMatchFileSnapshot(`rights/${grants}.txt`);
    expect(await findDrift(await openDatabase(opened, stage))).toEqual([]);
  });

  test('public: every role may enqueue', async () => {
    const { attacker, victim } = await openStage(opened, major);
    expect(await outcomes(attacker)).toEqual(['rows ']);
    expect(await outcomes(victim)).toEqual(['rows ']);
  });

  test('members: only members of net_user may, and they are served', async () => {
    const stage = await openStage(opened, major, { grants: 'members' });
    expect(await outcomes(stage.attacker)).toEqual(['42501']);
    expect(await outcomes(stage.victim)).toEqual(['rows ']);
    await stage.admin.query('grant net_user to attacker');
    await stage.expectUnharmed();
    await stage.admin.query('revoke net_user from attacker');
  });

  test('none: nobody may until the owner grants it, which is no drift as long as nobody may write', async () => {
    const stage = await openStage(opened, major, { grants: 'none' });
    const { admin, attacker, victim, echo } = stage;
    expect(await outcomes(attacker)).toEqual(['42501']);
    expect(await outcomes(victim)).toEqual(['42501']);
    await admin.query(`
      grant usage on schema net to victim;
      grant execute on function net.http_get(text, jsonb, jsonb, integer) to victim;
      grant execute on function
        net.request(text, text, jsonb, jsonb, jsonb, jsonb, text, bytea, integer, text, integer, text, timestamptz, interval, text, text, text, integer, text, regproc, regproc, text, text),
        net._enqueue(net._caller, text, text, jsonb, jsonb, jsonb, jsonb, text, bytea, integer, text, net._options) to victim;
      grant select on net._http_response to victim`);
    const { rows } = await victim.query('select net.http_get($1) as id', [`${echo.url}/get`]);
    await victim.query(`begin; select net.request('PUT', 'http://127.0.0.1:1/'); rollback`);
    await stage.startWorker();
    await expect
      .poll(async () => (await victim.query('select id, status_code from net._http_response')).rows)
      .toEqual([{ id: rows[0].id, status_code: 200 }]);
    expect(await outcomes(attacker)).toEqual(['42501']);
    const db = await openDatabase(opened, stage);
    expect(await findDrift(db)).toEqual([]);
    expect(await install(db, { grants: 'none' })).toMatchObject({ kind: 'already_installed', grants: 'none' });
    expect((await outcomes(victim)).includes('rows ')).toBe(true);
    await admin.query('grant trigger on net._http_response to victim');
    expect(await findDrift(db)).toMatchObject([{ object: 'rights on table net._http_response' }]);
  });

  test('a second install keeps the profile unless it is told otherwise; then it is exactly the other', async () => {
    const stage = await openStage(opened, major);
    const { admin, attacker } = stage;
    const db = await openDatabase(opened, stage);
    expect(await install(db)).toMatchObject({ kind: 'already_installed', grants: 'public' });
    const asInstalled = await rightsOf(admin);
    await admin.query('grant insert on net._http_response to attacker');
    const narrowed = await install(db, { grants: 'members' });
    expect(narrowed).toMatchObject({ kind: 'already_installed', grants: 'members' });
    expect(narrowed.lines.join('\n')).toMatch(/Members of the role "net_user" may enqueue.*\(Until now: public\.\)/);
    await expect(await rightsOf(admin)).toMatchFileSnapshot('rights/members.txt');
    expect(await outcomes(attacker)).toEqual(['42501']);
    expect(await install(db)).toMatchObject({ grants: 'members' });
    expect(await findDrift(db)).toEqual([]);
    await install(db, { grants: 'none' });
    await expect(await rightsOf(admin)).toMatchFileSnapshot('rights/none.txt');
    await install(db, { grants: 'public' });
    expect(await rightsOf(admin)).toBe(asInstalled);
    expect(await findDrift(db)).toEqual([]);
  });

  test('a profile is set where it is only recorded, and what was granted besides taken away', async () => {
    const stage = await openStage(opened, major, { grants: 'members' });
    const { admin, attacker } = stage;
    const db = await openDatabase(opened, stage);
    // As pg_dump has it: the extension made anew, which records `public`, and then the rights.
    await admin.query(`
      update net.installation set fingerprint = fingerprint || '{"profile": "public"}';
      grant usage on type net.request_status to attacker`);
    expect(await install(db)).toMatchObject({ grants: 'members' });
    expect(await findDrift(db)).toMatchObject([{ object: 'profile' }, { object: 'rights on type net.request_status' }]);
    const { lines } = await install(db, { grants: 'public' });
    expect(lines.join('\n')).toMatch(/Every role may enqueue.*\(Until now: members\.\)/);
    await expect(await rightsOf(admin)).toMatchFileSnapshot('rights/public.txt');
    expect(await outcomes(attacker)).toEqual(['rows ']);
    await admin.query('grant insert on net._http_response to attacker');
    await install(db, { grants: 'public' });
    await expect(await rightsOf(admin)).toMatchFileSnapshot('rights/public.txt');
    expect(await findDrift(db)).toEqual([]);
  });

  test('what else has changed stays a drift when the profile changes', async () => {
    const stage = await openStage(opened, major);
    const db = await openDatabase(opened, stage);
    await stage.admin.query('alter policy own_responses on net._http_response using (true)');
    await install(db, { grants: 'members' });
    expect(await findDrift(db)).toMatchObject([{ object: 'policy own_responses on net._http_response' }]);
  });

  test.each<Grants>(['members', 'none'])('the script for a migration has the profile, too: %s', async (grants) => {
    const { admin } = await openStage(opened, major);
    await admin.query('drop schema net cascade');
    await admin.query(await sqlForMigration({ grants }));
    await expect(await rightsOf(admin)).toMatchFileSnapshot(`rights/${grants}.txt`);
  });

  test('only the owner changes the profile, and only to one that there is', async () => {
    const { admin, attacker } = await openStage(opened, major);
    await expect(attacker.query(`select net.set_grants('none')`)).rejects.toMatchObject({ code: '42501' });
    await expect(admin.query(`select net.set_grants('all')`)).rejects.toMatchObject({ code: '22023' });
  });
});
