import { describe, expect, test } from 'vitest';
import { can, newestBackends } from './backends.ts';

// keep: how much of a response is kept.

describe.each(newestBackends)('$name', (backend) => {
  test('full, status or none', async () => {
    const stage = await backend.open();
    const { sql, echoUrl } = stage;
    const request = (path: string, keep: string): string =>
      `net.request('GET', '${echoUrl}${path}', timeout_milliseconds := 10000, keep := ${keep}, label := 'kept')`;
    await sql.query(`
      select ${request('/bytes/20', 'null')}, ${request('/bytes/20', `'full'`)}, ${request('/bytes/20', `'status'`)},
        ${request('/bytes/20', `'none'`)}, ${request('/status/503', `'status'`)}, ${request('/status/503', `'none'`)},
        net.request('GET', 'http://10.0.0.1', keep := 'status'), net.request('GET', 'http://10.0.0.1', keep := 'none')`);
    await stage.until(async () => (await stage.count('net.http_request_queue')) === 0, 'all are done');
    expect(
      await sql.query(`
        select id, status_code, content_type, headers is not null as headers, coalesce(content, content_bytes::text) is not null as body,
          timed_out, truncated, error_code, host, label
        from net._http_response order by id`),
    ).toEqual(
      [1, 2, 3, 5, 7].map((id) => ({
        id,
        status_code: id === 7 ? null : id === 5 ? 503 : 200,
        content_type: id === 7 ? null : expect.any(String),
        headers: id < 3,
        body: id < 3,
        timed_out: false,
        truncated: id === 7 ? null : false,
        error_code: id === 7 ? 'denied' : null,
        host: id === 7 ? '10.0.0.1' : new URL(echoUrl).host,
        label: id === 7 ? null : 'kept',
      })),
    );
    // What failed is kept for redelivery all the same.
    expect(await sql.query('select id, label from net.kept_requests order by id')).toEqual([
      { id: 5, label: 'kept' },
      { id: 6, label: 'kept' },
      { id: 7, label: null },
      { id: 8, label: null },
    ]);
  });

  test('a request of which nothing is kept, and which a user deleted meanwhile, is done', async () => {
    const stage = await backend.open();
    const slow = `net.request('GET', '${stage.echoUrl}/delay/0.5', timeout_milliseconds := 10000, keep := 'none')`;
    await stage.sql.query(`select ${slow}, ${slow}`);
    await stage.until(() => stage.received.length === 2, 'both were sent');
    await stage.sql.query('delete from net.http_request_queue where id = 1');
    await stage.until(async () => (await stage.count('net.http_request_queue')) === 0, 'both are done');
    // The worker goes on.
    expect((await stage.response(await stage.get('/get'))).status_code).toBe(200);
    expect(await stage.count('net._http_response')).toBe(1);
  });

  test.runIf(can(backend, 'severalSessions'))('one that a user has locked waits, and holds up no other', async () => {
    const stage = await backend.open();
    const locker = await stage.session();
    const slow = `net.request('GET', '${stage.echoUrl}/delay/0.5', timeout_milliseconds := 10000, keep := 'none')`;
    await stage.sql.query(`select ${slow}, ${slow}`);
    await stage.until(() => stage.received.length === 2, 'both were sent');
    await locker.query('begin; select from net.http_request_queue where id = 1 for update');
    await stage.until(async () => (await stage.count('net.http_request_queue')) === 1, 'the other is done');
    expect((await stage.response(await stage.get('/get'))).status_code).toBe(200);
    expect(await stage.sql.query('select id from net.http_request_queue')).toEqual([{ id: 1 }]);
    await locker.query('commit');
    await stage.until(async () => (await stage.count('net.http_request_queue')) === 0, 'it is done, too');
    expect(stage.received.filter(({ path }) => path.startsWith('/delay'))).toHaveLength(2);
  });
});
