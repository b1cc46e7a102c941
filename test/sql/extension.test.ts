import { describe, expect, test } from 'vitest';
import { findDrift } from '../../src/schema/drift.ts';
import { install } from '../../src/schema/install.ts';
import { availableMajors } from '../support/servers.ts';
import { openSite, type Site } from './databases.ts';

const settingsShown = `select name, setting from pg_settings where name like 'pg_net%' order by name`;

async function login(site: Site): Promise<string> {
  await site.sql(`create role test_owner login; grant create on database "${site.name}" to test_owner`);
  return 'test_owner';
}

describe.each(availableMajors())('the extension on PostgreSQL %i', (major) => {
  test('is created, dropped and created again', async () => {
    const site = await openSite(major);
    await site.sql('create extension pg_net');
    expect(await site.sql(settingsShown)).toHaveLength(16);
    expect(await site.sql(`select net.http_get('http://127.0.0.1/') as id`)).toEqual([{ id: 1 }]);
    await site.sql('drop extension pg_net');
    expect(await site.sql(settingsShown)).toEqual([]);
    expect(await site.sql(`select from pg_namespace where nspname = 'net'`)).toEqual([]);
    await site.sql('create extension pg_net');
    expect(await site.sql(`select net.http_get('http://127.0.0.1/') as id`)).toEqual([{ id: 1 }]);
  });

  test('everything in the schema is its member, so that a dump says CREATE EXTENSION', async () => {
    const site = await openSite(major);
    await site.sql('create extension pg_net');
    expect(
      await site.sql(`
        select o.object
        from (
          select 'pg_proc'::regclass, p.oid, p.oid::regprocedure::text from pg_proc p where p.pronamespace = 'net'::regnamespace
          union all
          select 'pg_class'::regclass, c.oid, c.oid::regclass::text
          from pg_class c
          where c.relnamespace = 'net'::regnamespace and c.relkind not in ('i', 'c')
          union all
          select 'pg_type'::regclass, t.oid, t.oid::regtype::text
          from pg_type t
          where t.typnamespace = 'net'::regnamespace and t.typelem = 0 and t.typtype in ('d', 'e')
          union all
          select 'pg_namespace'::regclass, n.oid, n.nspname from pg_namespace n where n.nspname = 'net'
        ) o (class, oid, object)
        where not exists (
          select
          from pg_depend d
          join pg_extension e on e.oid = d.refobjid and d.refclassid = 'pg_extension'::regclass
          where d.classid = o.class and d.objid = o.oid and d.deptype = 'e' and e.extname = 'pg_net'
        )`),
    ).toEqual([]);
  });

  test('what the owner put into its tables is dumped with the database', async () => {
    const site = await openSite(major);
    await site.sql('create extension pg_net');
    expect(
      await site.sql(
        `select c.oid::regclass::text as dumped from pg_extension e cross join unnest(e.extconfig) c (oid) where e.extname = 'pg_net' order by 1`,
      ),
    ).toEqual([
      { dumped: 'net.gate' },
      { dumped: 'net.limits' },
      { dumped: 'net.policy' },
      { dumped: 'net.queue_limit' },
      { dumped: 'net.retry_policy' },
    ]);
  });

  test('install finds it', async () => {
    const site = await openSite(major);
    await site.sql('create extension pg_net');
    const report = await install(await site.open());
    expect(report).toMatchObject({ kind: 'already_installed', isExtension: true, showsSettings: true });
    expect(report.lines[0]).toMatch(/already installed in database "\w+" as the extension pg_net; nothing was changed/);
  });

  test('who may enqueue is said afterwards, as for a plain installation', async () => {
    const site = await openSite(major);
    await site.sql(`create extension pg_net; select net.set_grants('members'); create role test_user login`);
    await expect(site.sql(`select net.http_get('http://127.0.0.1/')`, 'test_user')).rejects.toMatchObject({
      code: '42501',
    });
    await site.sql('grant net_user to test_user');
    expect(await site.sql(`select net.http_get('http://127.0.0.1/') as id`, 'test_user')).toEqual([{ id: 1 }]);
    const db = await site.open();
    expect(await findDrift(db)).toEqual([]);
    expect(await install(db)).toMatchObject({ isExtension: true, grants: 'members' });
    expect(await install(db, { grants: 'public' })).toMatchObject({ grants: 'public' });
    expect(await findDrift(db)).toEqual([]);
  });

  test('it does not take over a plain installation', async () => {
    const site = await openSite(major);
    await install(await site.open());
    await expect(site.sql('create extension pg_net')).rejects.toMatchObject({ code: '42P06' });
  });

  test('an ordinary login with CREATE on the database creates it, and owns what is in it', async () => {
    const site = await openSite(major, false);
    const owner = await login(site);
    await site.sql('create extension pg_net', owner);
    expect(await site.sql(`select nspowner::regrole::text as owner from pg_namespace where nspname = 'net'`)).toEqual([
      { owner },
    ]);
    expect(await site.sql(`select net.http_get('http://127.0.0.1/') as id`, owner)).toEqual([{ id: 1 }]);
    expect(await site.sql('select setting from net.settings', owner)).toHaveLength(16);
    await site.sql('drop extension pg_net', owner);
    await site.sql('create extension pg_net', owner);
  });

  test('where it is to change pg_settings, it takes a superuser, and says so', async () => {
    const site = await openSite(major);
    const owner = await login(site);
    await expect(site.sql('create extension pg_net', owner)).rejects.toMatchObject({
      code: '42501',
      hint: expect.stringContaining('net.settings'),
    });
    expect(await site.sql(`select from pg_namespace where nspname = 'net'`)).toEqual([]);
  });
});
