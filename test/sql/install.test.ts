import { readFileSync } from 'node:fs';
import { describe, expect, test } from 'vitest';
import { SchemaError } from '../../src/schema/errors.ts';
import { install } from '../../src/schema/install.ts';
import { sqlForMigration } from '../../src/schema/scripts.ts';
import { availableMajors } from '../support/servers.ts';
import { catalog, openDatabase, openSite, type Site } from './databases.ts';

const settingsShown = `select name from pg_settings where name like 'pg_net%' order by name`;

/** A login that may create in the database, and roles only if asked. */
async function login(site: Site, name: string, attributes = ''): Promise<string> {
  await site.sql(`create role ${name} login ${attributes}; grant create on database "${site.name}" to ${name}`);
  return name;
}

describe.each(availableMajors())('install on PostgreSQL %i', (major) => {
  test('says what it did', async () => {
    const site = await openSite(major);
    const report = await install(await site.open(), { showSettings: true });
    const { version } = JSON.parse(readFileSync(new URL('../../package.json', import.meta.url), 'utf8'));
    expect(report).toEqual({
      kind: 'installed',
      version,
      database: site.name,
      isExtension: false,
      showsSettings: true,
      grants: 'public',
      lines: [
        `Created the schema "net" (version ${version}) in database "${site.name}".`,
        'Created the role "net_admin": its members read every request and response.',
        'Created the role "net_worker": grant it to the login that the worker connects as.',
        'Created the role "net_callback": grant it to the login that callbacks are called by.',
        'Every role may enqueue, and sees its own requests and responses (--grants public).',
        "Made pg_settings show pg_net's settings (this changed the rule of a system view; pgfetch uninstall puts it back).",
      ],
    });
    expect(await site.sql(settingsShown)).toHaveLength(16);
    expect(await site.sql(`select net.http_get('http://127.0.0.1/') as id`)).toEqual([{ id: 1 }]);
  });

  test('a second run changes nothing', async () => {
    const site = await openSite(major);
    const db = await site.open();
    await install(db);
    const before = await catalog(site);
    const report = await install(db);
    expect(report).toMatchObject({ kind: 'already_installed', isExtension: false, showsSettings: false });
    expect(report.lines[0]).toMatch(/is already installed in database "\w+"; nothing was changed\.$/);
    expect(await catalog(site)).toEqual(before);
  });

  test('a second run makes pg_settings show the settings if that is new', async () => {
    const site = await openSite(major);
    const db = await site.open();
    expect(await install(db)).toMatchObject({ showsSettings: false });
    expect(await site.sql(settingsShown)).toEqual([]);
    expect(await install(db, { showSettings: true })).toMatchObject({ kind: 'already_installed', showsSettings: true });
    expect(await site.sql(settingsShown)).toHaveLength(16);
    const shown = await catalog(site);
    expect(await install(db, { showSettings: true })).toMatchObject({ showsSettings: true });
    expect(await catalog(site)).toEqual(shown);
  });

  test('two at once: one installs, the other finds it installed', async () => {
    const site = await openSite(major);
    const sessions = await Promise.all([site.open(), site.open(), site.open()]);
    const reports = await Promise.all(sessions.map((db) => install(db)));
    expect(reports.map((report) => report.kind).sort()).toEqual([
      'already_installed',
      'already_installed',
      'installed',
    ]);
  });

  test('two databases of one server at once share the roles', async () => {
    const site = await openSite(major);
    const other = await openDatabase(site.server);
    const sessions = await Promise.all([site.open(), other.open()]);
    const reports = await Promise.all(sessions.map((db) => install(db)));
    expect(reports.map((report) => report.kind)).toEqual(['installed', 'installed']);
    const said = reports.map((report) => report.lines.join('\n')).join('\n');
    expect(said.match(/Created the role "net_worker"/g)).toHaveLength(1);
    expect(said.match(/Used the role "net_worker"/g)).toHaveLength(1);
  });

  test('a schema net of somebody else is refused and left alone', async () => {
    const site = await openSite(major);
    await site.sql('create schema net; create table net.things (x int)');
    const before = await catalog(site);
    await expect(install(await site.open())).rejects.toMatchObject({
      code: '42P06',
      message: 'schema "net" already exists and is not pgfetch\'s',
      detail: expect.stringContaining('takes over no object'),
      hint: expect.stringContaining('ALTER SCHEMA net RENAME'),
    });
    expect(await catalog(site)).toEqual(before);
  });

  test('a foreign table net.installation does not pass for ours', async () => {
    const site = await openSite(major);
    await site.sql('create schema net; create table net.installation (x int)');
    await expect(install(await site.open())).rejects.toMatchObject({ name: 'SchemaError', code: 'foreign_schema' });
  });

  test('a role of ours by name only is refused', async () => {
    const site = await openSite(major);
    await site.sql('create role net_worker superuser');
    await expect(install(await site.open())).rejects.toMatchObject({
      code: '42710',
      hint: expect.stringContaining('ALTER ROLE net_worker RENAME'),
    });
    expect(await site.sql(`select from pg_namespace where nspname = 'net'`)).toEqual([]);
  });

  test('a newer schema is refused', async () => {
    const site = await openSite(major);
    const db = await site.open();
    await install(db);
    await site.sql(`update net.installation set schema_version = 99, version = '9.9.9'`);
    const refusal = await install(db).catch((error: unknown) => error);
    expect(refusal).toBeInstanceOf(SchemaError);
    expect(refusal).toMatchObject({ code: 'other_version', hint: 'Use pgfetch 9.9.9 or newer.' });
  });

  test('an ordinary login with CREATE on the database installs without the roles', async () => {
    const site = await openSite(major);
    const db = await site.open(await login(site, 'test_owner'));
    const report = await install(db);
    expect(report.kind).toBe('installed');
    expect(report.lines).toContain(
      'Did not create the role "net_worker", because this login may not create roles: the worker must connect as the owner of the schema.',
    );
    expect(await site.sql(`select nspowner::regrole::text as owner from pg_namespace where nspname = 'net'`)).toEqual([
      { owner: 'test_owner' },
    ]);
    expect(await site.sql(`select net.http_get('http://127.0.0.1/') as id`, 'test_owner')).toEqual([{ id: 1 }]);
    await login(site, 'test_user');
    expect(await site.sql(`select net.http_get('http://127.0.0.1/') as id`, 'test_user')).toEqual([{ id: 2 }]);
    expect(await site.sql('select id from net.http_request_queue', 'test_user')).toEqual([{ id: 2 }]);
  });

  test('with CREATEROLE it installs the roles too', async () => {
    const site = await openSite(major);
    const db = await site.open(await login(site, 'test_owner', 'createrole'));
    const report = await install(db);
    expect(report.lines).toContain('Created the role "net_worker": grant it to the login that the worker connects as.');
    await site.sql('create role test_worker login; grant net_worker to test_worker', 'test_owner');
    expect(await site.sql('select count(*) as queued from net.http_request_queue', 'test_worker')).toEqual([
      { queued: 0 },
    ]);
  });

  test('an ordinary login cannot have pg_settings show the settings, and then nothing is installed', async () => {
    const site = await openSite(major);
    const db = await site.open(await login(site, 'test_owner'));
    await expect(install(db, { showSettings: true })).rejects.toMatchObject({
      code: '42501',
      hint: 'Install without --show-settings; the view net.settings shows them to everybody.',
    });
    expect(await site.sql(`select from pg_namespace where nspname = 'net'`)).toEqual([]);
  });

  test('a login that may not create in the database is refused', async () => {
    const site = await openSite(major);
    await site.sql('create role test_nobody login');
    await expect(install(await site.open('test_nobody'))).rejects.toMatchObject({ code: '42501' });
  });

  test('the script for a migration installs the same, whoever brings the transaction', async () => {
    const site = await openSite(major);
    await install(await site.open());
    const [expected] = await site.sql('select net._fingerprint()');

    const pasted = await openDatabase(site.server);
    await pasted.sql(await sqlForMigration());
    expect(await pasted.sql('select net._fingerprint()')).toEqual([expected]);

    const migrated = await openDatabase(site.server);
    const script = await sqlForMigration({ transaction: false });
    const rows = await migrated.sql(`set search_path = public; begin; ${script} commit; show search_path`);
    expect(rows).toEqual([{ search_path: 'public' }]);
    expect(await migrated.sql('select net._fingerprint()')).toEqual([expected]);
  });
});
