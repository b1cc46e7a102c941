import { describe, expect, test } from 'vitest';
import { startEchoServer } from '../../src/embedded/echo.ts';
import { findDrift } from '../../src/schema/drift.ts';
import { install } from '../../src/schema/install.ts';
import { createWorker } from '../../src/worker/create.ts';
import { availableMajors, until } from '../support/servers.ts';
import { openSite } from './databases.ts';

const persistence = `
  select string_agg(distinct relpersistence::text, '') as kinds
  from pg_class where oid in ('net.http_request_queue'::regclass, 'net._http_response'::regclass)`;

describe.each(availableMajors())('durable mode on PostgreSQL %i', (major) => {
  test('what was committed survives a crash of the server, and is sent', async () => {
    const site = await openSite(major);
    const echo = await startEchoServer();
    try {
      expect(await install(await site.open(), { durable: true })).toMatchObject({
        lines: expect.arrayContaining([expect.stringMatching(/survives a crash/)]),
      });
      expect(await site.sql(persistence)).toEqual([{ kinds: 'p' }]);
      await site.sql(`select net.http_get('${echo.url}/get') from generate_series(1, 20)`);
      await site.server.restart('immediate');
      expect(await site.sql('select count(*) as waiting from net.http_request_queue')).toEqual([{ waiting: 20 }]);
      const worker = createWorker({ connectionString: site.url, allow: ['loopback'] });
      await worker.start();
      await worker.drain();
      await worker.stop();
      // What the worker records is flushed a little later; a checkpoint makes it now.
      await site.sql('checkpoint');
      await site.server.restart('immediate');
      expect(await site.sql('select count(*) as answered from net._http_response where status_code = 200')).toEqual([
        { answered: 20 },
      ]);
    } finally {
      await echo.close();
    }
  });

  test('claims of a worker that the crash took with it are free again', async () => {
    const site = await openSite(major);
    const echo = await startEchoServer();
    try {
      await install(await site.open(), { durable: true });
      await site.sql(`select net.http_get('${echo.url}/get') from generate_series(1, 5)`);
      await site.sql('update net.http_request_queue set claimed_by = 1');
      await site.sql('checkpoint');
      await site.server.restart('immediate');
      const worker = createWorker({ connectionString: site.url, allow: ['loopback'] });
      await worker.start();
      await until(
        async () => (await site.sql('select 1 from net._http_response')).length === 5,
        'the requests of the lost worker to be sent',
      );
      await worker.stop();
    } finally {
      await echo.close();
    }
  });

  test('works where every table is published, is no drift, and can be undone', async () => {
    const site = await openSite(major);
    const db = await site.open();
    await install(db, { durable: true });
    await site.sql('create publication everything for all tables');
    await site.sql(`
      insert into net.http_request_queue (method, url, headers, timeout_milliseconds) values ('GET', 'http://x/', '{}', 1);
      update net.http_request_queue set claimed_by = 1;
      delete from net.http_request_queue;
      insert into net._http_response (id, created) values (1, now()), (null, now());
      delete from net._http_response`);
    await site.sql('drop publication everything');
    expect(await findDrift(db)).toEqual([]);
    await site.sql('select net.set_durable(false)');
    expect(await site.sql(persistence)).toEqual([{ kinds: 'u' }]);
    await expect(site.sql('select net.set_durable(null)')).resolves.toHaveLength(1);
  });

  test('is for the owner alone', async () => {
    const site = await openSite(major);
    await install(await site.open());
    await site.sql('create role test_stranger login');
    await expect(site.sql('select net.set_durable(true)', 'test_stranger')).rejects.toThrow(/permission denied/);
  });
});
