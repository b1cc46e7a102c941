import { describe, expect, test } from 'vitest';
import { connectPg } from '../../src/postgres/pg.ts';
import { adopt } from '../../src/schema/adopt.ts';
import { install } from '../../src/schema/install.ts';
import { sqlForMigration } from '../../src/schema/scripts.ts';
import { uninstall } from '../../src/schema/uninstall.ts';
import { createWorker } from '../../src/worker/create.ts';
import { openSite, type Site } from '../sql/databases.ts';
import { availableMajors } from '../support/servers.ts';

// Who comes before the installer: with CREATE on the database, with CREATEROLE, with default privileges.

const isSuperuser = `select rolsuper from pg_roles where rolname = 'test_attacker'`;

async function openWithAttacker(major: Parameters<typeof openSite>[0], attributes = ''): Promise<Site> {
  const site = await openSite(major, false);
  await site.sql(`
    create role test_attacker login ${attributes};
    grant create on database "${site.name}" to test_attacker`);
  return site;
}

/** All that a superuser might run against a database. */
async function administer(site: Site): Promise<string[]> {
  const outcomes: string[] = [];
  const outcome = async (work: Promise<unknown>): Promise<void> => {
    outcomes.push(
      await work.then(
        () => 'done',
        ({ message }) => String(message),
      ),
    );
  };
  const db = await site.open();
  await outcome(install(db));
  await outcome(adopt(db, { queue: 'keep' }));
  await outcome(uninstall(db));
  const worker = createWorker({ connectionString: site.url, stopTimeoutMs: 500 });
  const problem = new Promise<Error>((resolve) => worker.once('problem', resolve));
  const served = worker.start().then(() => new Error('it serves'));
  outcomes.push((await Promise.race([problem, served])).message);
  await worker.stop();
  return outcomes;
}

async function expectRefused(site: Site): Promise<void> {
  const outcomes = await administer(site);
  expect(await site.sql(isSuperuser), outcomes.join('; ')).toEqual([{ rolsuper: false }]);
  for (const outcome of outcomes) expect(outcome).toMatch(/property of "test_attacker"/);
}

describe.each(availableMajors())('on PostgreSQL %i', (major) => {
  test('a schema net of an attacker’s own runs nothing as the superuser who installs, adopts, uninstalls or serves', async () => {
    const site = await openWithAttacker(major);
    await site.sql(
      `
      create schema net;
      create function net.seize() returns text language plpgsql volatile as
        $$ begin alter role test_attacker superuser; return null; end $$;
      create function net._system_identifier() returns text language sql as 'select net.seize()';
      create function net._fingerprint() returns jsonb language sql as 'select to_jsonb(net.seize())';
      create table net.installation (schema_version integer, version text, system_identifier text, database_oid oid, fingerprint jsonb);
      insert into net.installation select 1, '0.1.0', null, oid, '{}' from pg_database where datname = current_database()`,
      'test_attacker',
    );
    await expectRefused(site);
  });

  test('so does our own schema, where an attacker was the first to install it', async () => {
    const site = await openWithAttacker(major);
    await site.sql(await sqlForMigration(), 'test_attacker');
    await site.sql(
      `
      create function public_seize() returns trigger language plpgsql as
        $$ begin alter role test_attacker superuser; return new; end $$;
      create trigger seize before insert on net.worker for each row execute function public_seize();
      create or replace function net._system_identifier() returns text language plpgsql as
        $$ begin alter role test_attacker superuser; return null; end $$`.replaceAll('public_seize', 'net.seize'),
      'test_attacker',
    );
    await expectRefused(site);
    // Neither where the schema has been taken over and what is in it has not.
    await site.sql('alter schema net owner to postgres');
    await expectRefused(site);
  });

  test('who installs where it is installed already is told whose it is', async () => {
    const site = await openWithAttacker(major);
    await site.sql(await sqlForMigration(), 'test_attacker');
    await site.sql(`create role test_owner login; grant create on database "${site.name}" to test_owner`);
    const report = await install(await site.open('test_owner'));
    expect(report.kind).toBe('already_installed');
    expect(report.lines[0]).toMatch(/It belongs to the role "test_attacker", who sees every request\.$/);
  });

  test('a role of ours that an attacker made, comment included, and may grant, is not used', async () => {
    const site = await openWithAttacker(major, 'createrole');
    await site.sql(
      `create role net_worker; comment on role net_worker is 'pgfetch: forged';
       create role net_admin; comment on role net_admin is 'pgfetch: forged'`,
      'test_attacker',
    );
    // Before PostgreSQL 16 CREATEROLE may grant any role at any time, and nothing of it is to be seen.
    if (major < 16) await site.sql('grant net_worker to test_attacker with admin option');
    await expect(install(await site.open())).rejects.toMatchObject({
      code: '42501',
      message: expect.stringMatching(/role "net_\w+" is not to be trusted: "test_attacker" may grant it/),
      hint: expect.stringMatching(/REVOKE ADMIN OPTION FOR net_\w+ FROM test_attacker CASCADE/),
    });
    expect(await site.sql(`select from pg_namespace where nspname = 'net'`)).toEqual([]);
    await site.sql(
      'revoke admin option for net_worker from test_attacker cascade; revoke admin option for net_admin from test_attacker cascade',
    );
    expect(await install(await site.open())).toMatchObject({ kind: 'installed' });
  });

  test('neither is a net_user of an attacker’s, where its members may enqueue; members of one that is are named', async () => {
    const site = await openWithAttacker(major, 'createrole');
    await site.sql(`create role net_user; comment on role net_user is 'pgfetch: forged'`, 'test_attacker');
    if (major < 16) await site.sql('grant net_user to test_attacker with admin option');
    const db = await site.open();
    await install(db);
    await expect(install(db, { grants: 'members' })).rejects.toMatchObject({
      code: '42501',
      message: 'role "net_user" is not to be trusted: "test_attacker" may grant it to anybody',
    });
    expect((await install(db)).grants).toBe('public');
    await site.sql('revoke admin option for net_user from test_attacker cascade');
    const { lines } = await install(db, { grants: 'members' });
    expect(lines).toContain('Members of "net_user", who have its rights here too: test_attacker.');
  });

  test('the owner of the schema, who made net_user, does not keep a superuser from setting the profile', async () => {
    const site = await openWithAttacker(major);
    await site.sql(`create role test_owner login createrole; grant create on database "${site.name}" to test_owner`);
    await install(await site.open('test_owner'), { grants: 'members' });
    await site.sql(`select net.set_grants('public'); select net.set_grants('members')`);
  });

  test('a lock that the owner of such a schema holds does not keep the superuser waiting', async () => {
    const site = await openWithAttacker(major);
    await site.sql(await sqlForMigration(), 'test_attacker');
    const [db, owner] = [await site.open(), await site.open('test_attacker')];
    await owner.transaction(async (session) => {
      await session.execute('lock table net.installation');
      await expect(install(db)).rejects.toThrow(/property of "test_attacker"/);
    });
  });

  test('whoever is in such a role beforehand is named', async () => {
    const site = await openWithAttacker(major);
    await site.sql(
      `create role net_worker; comment on role net_worker is 'pgfetch: made before'; grant net_worker to test_attacker`,
    );
    const report = await install(await site.open());
    expect(report.lines).toContain('Members of "net_worker", who have its rights here too: test_attacker.');
  });

  test('default privileges of the installer’s give nobody a right on anything of ours', async () => {
    const site = await openWithAttacker(major);
    await site.sql(`
      alter default privileges grant all on tables to test_attacker;
      alter default privileges grant all on sequences to test_attacker, public;
      alter default privileges grant all on functions to test_attacker;
      alter default privileges grant all on types to test_attacker;
      alter default privileges grant all on schemas to test_attacker with grant option`);
    const db = await site.open();
    await install(db);
    for (const statement of [
      'truncate net._http_response',
      `select nextval('net.http_request_queue_id_seq')`,
      'select net.set_paused(true)',
      'select headers from net.http_request_queue',
      'create table net.mine (x int)',
      'create trigger t before insert on net._http_response for each row execute function suppress_redundant_updates_trigger()',
    ]) {
      await expect(site.sql(statement, 'test_attacker'), statement).rejects.toMatchObject({ code: '42501' });
    }
    expect(
      await site.sql(`
        select a.object
        from (
          select c.oid::regclass::text, c.relacl from pg_class c where c.relnamespace = 'net'::regnamespace
          union all
          select p.oid::regprocedure::text, p.proacl from pg_proc p where p.pronamespace = 'net'::regnamespace
          union all
          select t.oid::regtype::text, t.typacl from pg_type t where t.typnamespace = 'net'::regnamespace
          union all
          select 'net', n.nspacl from pg_namespace n where n.nspname = 'net'
        ) a (object, acl)
        cross join lateral aclexplode(a.acl) x
        where x.grantee = 'test_attacker'::regrole`),
    ).toEqual([]);
    await site.sql(`
      alter default privileges revoke all on tables from test_attacker;
      alter default privileges revoke all on sequences from test_attacker, public;
      alter default privileges revoke all on functions from test_attacker;
      alter default privileges revoke all on types from test_attacker;
      alter default privileges revoke all on schemas from test_attacker`);
  });

  test('who owns the schema is refused nothing by that: the owner and lesser logins go on as before', async () => {
    const site = await openWithAttacker(major);
    await site.sql(`create role test_owner login; grant create on database "${site.name}" to test_owner`);
    const owner = await site.open('test_owner');
    await install(owner);
    const db = await connectPg({
      connectionString: site.url.replace('postgres@', 'test_attacker@'),
      applicationName: 'pgfetch attack',
      connectTimeoutMs: 10_000,
    });
    expect(await install(db)).toMatchObject({ kind: 'already_installed' });
    await db.close();
    const worker = createWorker({ connectionString: site.url.replace('postgres@', 'test_owner@') });
    await worker.start();
    await worker.stop();
    expect(await uninstall(owner)).toMatchObject({ kind: 'uninstalled' });
  });
});
