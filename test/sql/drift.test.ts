import { describe, expect, test } from 'vitest';
import { findDrift } from '../../src/schema/drift.ts';
import { install } from '../../src/schema/install.ts';
import { availableMajors } from '../support/servers.ts';
import { openSite } from './databases.ts';

describe.each(availableMajors())('drift on PostgreSQL %i', (major) => {
  test.each(['plain SQL', 'the extension', 'an ordinary owner'])('there is none after installing (%s)', async (way) => {
    const site = await openSite(major);
    if (way === 'the extension') {
      await site.sql('create extension pg_net');
    } else if (way === 'plain SQL') {
      await install(await site.open());
    } else {
      await site.sql(`create role test_owner login; grant create on database "${site.name}" to test_owner`);
      await install(await site.open('test_owner'));
    }
    expect(await findDrift(await site.open())).toEqual([]);
    // doctor may run as anybody.
    await site.sql('create role test_nobody login');
    expect(await findDrift(await site.open('test_nobody'))).toEqual([]);
  });

  test('what users may change is none', async () => {
    const site = await openSite(major);
    const db = await site.open();
    await install(db);
    await site.sql(`
      select net.set_paused(true);
      alter table net._http_response set logged;
      alter table net.http_request_queue set (autovacuum_vacuum_scale_factor = 0.01);
      create index my_index on net._http_response (status_code);
      create function on_response() returns trigger language plpgsql as 'begin return null; end';
      create trigger t after insert on net._http_response for each row execute function on_response()`);
    expect(await findDrift(db)).toEqual([]);
  });

  test('every change is named, once', async () => {
    const site = await openSite(major);
    const db = await site.open();
    await install(db);
    await site.sql(`
      create or replace function net.wake() returns void language plpgsql security definer as 'begin end';
      alter function net.http_get(text, jsonb, jsonb, int) reset search_path;
      alter function net.worker_restart() security invoker;
      drop function net._unstorable(bytea[]);
      create function net.mine() returns int language sql as 'select 1';
      alter table net._http_response alter column created drop not null;
      alter table net._http_response drop column truncated;
      alter table net.http_request_queue disable row level security;
      drop index net._http_response_created_idx;
      drop policy own_requests on net.http_request_queue;
      alter policy own_responses on net._http_response using (true);
      grant insert on net._http_response to public;
      revoke execute on function net.http_post(text, jsonb, jsonb, jsonb, int) from public;
      grant execute on function net.set_paused(boolean) to public;
      alter table net.pause drop column since;
      create role test_nobody;
      alter function net._session_lives(int, timestamptz, timestamptz) owner to test_nobody`);
    const drifts = await findDrift(db);
    expect(drifts.map(({ kind, object }) => `${kind} ${object}`)).toEqual(
      [
        'missing column net._http_response.truncated',
        'changed column net._http_response.created',
        'changed function net._session_lives(integer,timestamp with time zone,timestamp with time zone)',
        'missing function net._unstorable(bytea[])',
        'changed function net.http_get(text,jsonb,jsonb,integer)',
        'added function net.mine()',
        'changed function net.wake()',
        'changed function net.worker_restart()',
        'missing column net.pause.since',
        'changed rights on function net.set_paused(boolean)',
        'missing index net._http_response_created_idx',
        'missing policy own_requests on net.http_request_queue',
        'changed policy own_responses on net._http_response',
        'changed rights on function net.http_post(text,jsonb,jsonb,jsonb,integer)',
        'changed rights on table net._http_response',
        'changed table net.http_request_queue',
      ].sort(byObject),
    );
    expect(drifts.find(({ object }) => object.startsWith('rights on function net.http_post'))?.message).toBe(
      'rights on function net.http_post(text,jsonb,jsonb,jsonb,integer): not as installed. It was (execute to public) and is (none).',
    );
  });

  test('definitions that another major version wrote are not compared', async () => {
    const site = await openSite(major);
    const db = await site.open();
    await install(db);
    const fake = (version: number): Promise<unknown> =>
      site.sql(`
        update net.installation set fingerprint =
          jsonb_set(fingerprint, '{view net.settings}', to_jsonb('view, definition 0123 (PostgreSQL ${version})'::text))`);
    await fake(major - 1);
    expect(await findDrift(db)).toEqual([]);
    await fake(major);
    expect(await findDrift(db)).toMatchObject([{ kind: 'changed', object: 'view net.settings' }]);
  });

  test('where nothing is installed it says so', async () => {
    const site = await openSite(major);
    await expect(findDrift(await site.open())).rejects.toMatchObject({ code: 'not_installed' });
  });
});

function byObject(a: string, b: string): number {
  return a.replace(/^\w+ /, '') < b.replace(/^\w+ /, '') ? -1 : 1;
}
