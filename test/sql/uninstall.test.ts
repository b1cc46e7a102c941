import { describe, expect, test } from 'vitest';
import { install } from '../../src/schema/install.ts';
import { sqlFile } from '../../src/schema/scripts.ts';
import { uninstall } from '../../src/schema/uninstall.ts';
import { availableMajors } from '../support/servers.ts';
import { catalog, openDatabase, openSite } from './databases.ts';

describe.each(availableMajors())('uninstall on PostgreSQL %i', (major) => {
  test('leaves nothing behind', async () => {
    const site = await openSite(major);
    await site.sql(`alter role postgres set pg_net.ttl = '1 hour'`);
    const before = await catalog(site);
    const db = await site.open();
    await install(db, { showSettings: true });
    await site.sql(`select net.http_get('http://127.0.0.1/')`);
    expect(await uninstall(db)).toEqual({
      kind: 'uninstalled',
      database: site.name,
      lines: [
        `Dropped the schema "net" from database "${site.name}".`,
        'With it went 1 request still in the queue.',
        'Put the rule of pg_settings back as PostgreSQL made it.',
        'Dropped the role "net_admin".',
        'Dropped the role "net_callback".',
        'Dropped the role "net_worker".',
      ],
    });
    expect(await catalog(site)).toEqual(before);
    expect(await uninstall(db)).toEqual({
      kind: 'not_installed',
      database: site.name,
      lines: [`There is nothing of pgfetch's in database "${site.name}".`],
    });
    await site.sql('alter role postgres reset all');
  });

  test('removes the extension, and what DROP EXTENSION had to leave', async () => {
    const site = await openSite(major);
    const before = await catalog(site);
    const db = await site.open();
    await site.sql('create extension pg_net');
    const removal = await uninstall(db);
    expect(removal.lines[0]).toBe(`Dropped the extension pg_net and its schema "net" from database "${site.name}".`);
    expect(await catalog(site)).toEqual(before);

    await site.sql('create extension pg_net; drop extension pg_net cascade');
    const leftover = await uninstall(db);
    expect(leftover).toMatchObject({
      kind: 'not_installed',
      lines: [
        'Put the rule of pg_settings back as PostgreSQL made it.',
        'Dropped the role "net_admin".',
        'Dropped the role "net_callback".',
        'Dropped the role "net_worker".',
      ],
    });
    expect(await catalog(site)).toEqual(before);
  });

  test("refuses a schema net that is somebody else's", async () => {
    const site = await openSite(major);
    await site.sql('create schema net; create table net.things (x int)');
    await expect(uninstall(await site.open())).rejects.toMatchObject({ name: 'SchemaError', code: 'foreign_schema' });
    expect(await site.sql(`select to_regclass('net.things') is not null as is_there`)).toEqual([{ is_there: true }]);
  });

  test.each(['plain SQL', 'the extension'])(
    "refuses to take along what is the user's, and lists it (%s)",
    async (way) => {
      const site = await openSite(major);
      const db = await site.open();
      if (way === 'plain SQL') await install(db);
      else await site.sql('create extension pg_net');
      await site.sql(`
      create view failures as select * from net._http_response where error_msg is not null;
      create view answers as select (net._http_collect_response(1)).status;
      create table calls (id int, method net.http_method, request bigint default net.http_get('http://127.0.0.1/'));
      create function last_status() returns net.request_status language sql as $$ select 'ERROR'::net.request_status $$;
      create function on_response() returns trigger language plpgsql as 'begin return null; end';
      create trigger notify_me after insert on net._http_response for each row execute function on_response();
      create function net.my_own() returns int language sql as 'select 1';
      create table net.my_table (x int);
      -- PostgreSQL does not know what a function's text calls, so this one stays.
      create function my_hook() returns bigint language sql as $$ select net.http_get('http://127.0.0.1/') $$`);
      const refusal = await uninstall(db).catch((error: unknown) => error);
      expect(refusal).toMatchObject({
        name: 'SchemaError',
        code: 'dependent_objects',
        hint: expect.stringContaining('--cascade'),
      });
      const detail = String((refusal as { detail?: unknown }).detail);
      for (const object of [
        'view public.failures',
        'view public.answers',
        'column method of table public.calls',
        'default value for column request of table public.calls',
        'function public.last_status()',
        'trigger notify_me on table net._http_response',
        'function net.my_own()',
        'table net.my_table',
      ]) {
        expect(detail).toContain(object);
      }
      expect(detail.split('; ')).toHaveLength(8);
      expect(await site.sql(`select net.http_get('http://127.0.0.1/') as id`)).toEqual([{ id: 1 }]);

      const removal = await uninstall(db, { cascade: true });
      expect(removal.lines.filter((line) => line.startsWith('Dropped along with it:'))).toHaveLength(8);
      expect(
        await site.sql(`select to_regclass('failures') as view, to_regclass('calls') is not null as calls`),
      ).toEqual([{ view: null, calls: true }]);
    },
  );

  test("indexes of the user's on our tables go without a question", async () => {
    const site = await openSite(major);
    const db = await site.open();
    await install(db);
    await site.sql('create index my_index on net._http_response (status_code)');
    expect(await uninstall(db)).toMatchObject({ kind: 'uninstalled' });
  });

  test('keeps a role that another database uses, until that is uninstalled too', async () => {
    const site = await openSite(major);
    const other = await openDatabase(site.server);
    const [db, otherDb] = await Promise.all([site.open(), other.open()]);
    await install(db);
    await install(otherDb);
    const removal = await uninstall(db);
    expect(removal.lines.slice(1)).toEqual([
      `Kept the role "net_admin": it has rights in database "${other.name}".`,
      `Kept the role "net_callback": it has rights in database "${other.name}".`,
      `Kept the role "net_worker": it has rights in database "${other.name}".`,
    ]);
    expect((await uninstall(otherDb)).lines.slice(1)).toEqual([
      'Dropped the role "net_admin".',
      'Dropped the role "net_callback".',
      'Dropped the role "net_worker".',
    ]);
  });

  test('keeps a role that was given rights on something else', async () => {
    const site = await openSite(major);
    const db = await site.open();
    await install(db);
    await site.sql('create table reports (x int); grant select on reports to net_admin');
    expect((await uninstall(db)).lines).toContain('Kept the role "net_admin": it has rights in table public.reports.');
    await site.sql('drop table reports');
    expect((await uninstall(db)).lines).toEqual(['Dropped the role "net_admin".']);
  });

  test.each(['', 'createrole'])('works for an ordinary owner (%s)', async (attributes) => {
    const site = await openSite(major);
    await site.sql(`create role test_owner login ${attributes}; grant create on database "${site.name}" to test_owner`);
    const before = await catalog(site);
    const db = await site.open('test_owner');
    await install(db);
    expect(await uninstall(db)).toMatchObject({ kind: 'uninstalled' });
    expect(await catalog(site)).toEqual(before);
  });

  test('an owner who cannot put pg_settings back says who can; it shows nothing of ours', async () => {
    const site = await openSite(major);
    await site.sql(`create role test_owner login; grant create on database "${site.name}" to test_owner`);
    const owner = await site.open('test_owner');
    await install(owner);
    await site.sql(await sqlFile('optional/show_settings.sql'));
    expect((await uninstall(owner)).lines.join('\n')).toMatch(/Left the rule of pg_settings as it is/);
    expect(await site.sql(`select name from pg_settings where name like 'pg_net%'`)).toEqual([]);
  });

  test('somebody else may not', async () => {
    const site = await openSite(major);
    await install(await site.open());
    await site.sql('create role test_nobody login');
    await expect(uninstall(await site.open('test_nobody'))).rejects.toMatchObject({ code: 'insufficient_privilege' });
    expect(await site.sql(`select net.http_get('http://127.0.0.1/') as id`)).toEqual([{ id: 1 }]);
  });
});
