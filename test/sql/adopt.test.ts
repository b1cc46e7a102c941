import { describe, expect, test } from 'vitest';
import { adopt } from '../../src/schema/adopt.ts';
import { install } from '../../src/schema/install.ts';
import { inspectInstallation } from '../../src/store/installation.ts';
import { availableMajors } from '../support/servers.ts';
import { openSite, type Site, siteOf } from './databases.ts';

/** A database with two requests waiting, one of which a worker had claimed, and a copy of it on the same server. */
async function copyOf(original: Site): Promise<Site> {
  await install(await original.open());
  await original.sql(`
    select net.http_get('http://127.0.0.1/1'), net.http_get('http://127.0.0.1/2');
    insert into net.worker (name, version, role, lease_until, restart_seen) values ('w', '0', 10, now() + interval '1 day', 0);
    update net.http_request_queue set claimed_by = 1 where id = 2;
    insert into net.callbacks (request_id, function, requester) values (0, 10, 10);
    insert into net._http_response (id, login_role) values (0, 10);
    select setval('net.wake_promise', 99999999999999)`);
  return await duplicate(original);
}

async function duplicate(original: Site): Promise<Site> {
  const name = `${original.name}_copy`;
  const admin = siteOf(original.server, original.server.connectionString, 'postgres');
  const url = new URL(original.url);
  url.pathname = `/${name}`;
  await admin.sql(`select pg_terminate_backend(pid) from pg_stat_activity where datname = '${original.name}'`);
  await admin.sql(`create database ${name} template ${original.name}`);
  return siteOf(original.server, url.href, name);
}

describe.each(availableMajors())('adopt on PostgreSQL %i', (major) => {
  test('a copy is known as one, and keeps the queue if told to', async () => {
    const copy = await copyOf(await openSite(major));
    const db = await copy.open();
    expect(await inspectInstallation(db)).toMatchObject({ kind: 'copy' });
    expect((await install(db)).lines[0]).toMatch(/which is a copy .* pgfetch adopt/);
    expect(await adopt(db, { queue: 'keep' })).toEqual({
      kind: 'adopted',
      database: copy.name,
      kept: 2,
      discarded: 0,
      lines: [
        `Database "${copy.name}" is an installation of its own now: workers send from it.`,
        'Kept in the queue, to be sent from here: 2 requests of the original.',
      ],
    });
    expect(await inspectInstallation(db)).toMatchObject({ kind: 'ready' });
    // What the original's worker had claimed is free here, and nobody's promise keeps requests from waking ours.
    expect(
      await copy.sql(`
        select q.id, q.claimed_by, q.due_at <= now() as is_due, q.login_role, p.last_value as promise
        from net.http_request_queue q, net.wake_promise p order by q.id`),
    ).toEqual([
      { id: 1, claimed_by: null, is_due: null, login_role: 10, promise: 1 },
      { id: 2, claimed_by: null, is_due: true, login_role: 10, promise: 1 },
    ]);
    expect(await copy.sql('select from net.worker')).toEqual([]);
    expect(await adopt(db, { queue: 'discard' })).toMatchObject({ kind: 'already_own', kept: 0, discarded: 0 });
    expect(await copy.sql('select count(*) as queued from net.http_request_queue')).toEqual([{ queued: 2 }]);
    await db.close();
    await dropCopy(copy);
  });

  test('or discards it', async () => {
    const copy = await copyOf(await openSite(major));
    const db = await copy.open();
    const report = await adopt(db, { queue: 'discard' });
    expect(report).toMatchObject({ kind: 'adopted', kept: 0, discarded: 2 });
    expect(report.lines).toContain('Deleted, not to be called from here: 1 callback of the original.');
    expect(await copy.sql('select from net.http_request_queue')).toEqual([]);
    expect(await copy.sql('select from net.callbacks')).toEqual([]);
    await db.close();
    await dropCopy(copy);
  });

  test("on another server the roles' numbers mean other roles, so they are forgotten", async () => {
    const site = await openSite(major);
    await install(await site.open());
    await site.sql(`
      select net.http_get('http://127.0.0.1/1');
      update net.http_request_queue set on_success = 4713;
      insert into net._http_response (id, login_role, set_role) values (0, 4711, 4712);
      insert into net.attempts (request_id, attempt, started, login_role, set_role) values (0, 1, now(), 4711, 4712);
      insert into net.callbacks (request_id, function, requester) values (0, 4713, 4711);
      insert into net.idempotency_keys (requester, key, request_id, expires_at) values (4711, 'k', 0, 'infinity');
      insert into net.kept_requests (id, method, url, headers, timeout_milliseconds, attempts, state, login_role, set_role)
      values (0, 'GET', 'http://h', '{}', 1, 1, 'failed', 4711, 4712);
      insert into net.ordering_keys (requester, ordering_key, request_id, after_id, seen_xid) values (4711, 'k', 0, 0, 0);
      update net.installation set system_identifier = '1'`);
    const db = await site.open();
    expect(await inspectInstallation(db)).toMatchObject({ kind: 'copy' });
    const report = await adopt(db, { queue: 'keep' });
    expect(report.lines.at(-1)).toMatch(/only the owner and net_admin see it here/);
    expect(await site.sql('select login_role, set_role, on_success from net.http_request_queue')).toEqual([
      { login_role: null, set_role: null, on_success: null },
    ]);
    expect(await site.sql('select login_role, set_role from net._http_response')).toEqual([
      { login_role: null, set_role: null },
    ]);
    expect(await site.sql('select login_role, set_role from net.kept_requests')).toEqual([
      { login_role: null, set_role: null },
    ]);
    expect(await site.sql('select login_role, set_role from net.attempts')).toEqual([
      { login_role: null, set_role: null },
    ]);
    for (const table of ['callbacks', 'idempotency_keys', 'ordering_keys']) {
      expect(await site.sql(`select from net.${table}`), table).toEqual([]);
    }
    expect(await inspectInstallation(db)).toMatchObject({ kind: 'ready' });
  });

  test('needs an installation, and its owner', async () => {
    const site = await openSite(major);
    const db = await site.open();
    await expect(adopt(db, { queue: 'keep' })).rejects.toMatchObject({ code: 'not_installed' });
    await install(db);
    await site.sql(`update net.installation set database_oid = 1; create role test_nobody login`);
    await expect(adopt(await site.open('test_nobody'), { queue: 'keep' })).rejects.toMatchObject({
      code: 'insufficient_privilege',
    });
    expect(await site.sql('select database_oid from net.installation')).toEqual([{ database_oid: 1 }]);
  });
});

async function dropCopy(copy: Site): Promise<void> {
  await siteOf(copy.server, copy.server.connectionString, 'postgres').sql(`drop database ${copy.name} with (force)`);
}
