import { describe, expect, test } from 'vitest';
import { awaitResponses } from '../../src/store/await-responses.ts';
import { backends, can } from './backends.ts';

// awaitResponses: net.await for programs, which holds no session and works on PGlite.

const requests = (count: number, options: string = ''): string =>
  `select net.request('GET', 'http://h'${options}) from generate_series(1, ${count})`;

describe.each(backends)('$name', (backend) => {
  test('returns the responses in the order of the ids, as the worker records them', async () => {
    const stage = await backend.open();
    const db = await stage.connect();
    const ids = [
      await stage.enqueue(
        `select net.request('GET', '${stage.echoUrl}/delay/0.2', label := 'slow', timeout_milliseconds := 10000)`,
      ),
      await stage.get('/status/404'),
      await stage.get('http://10.0.0.1'),
    ];
    const [denied, missing, slow, again, ...rest] = await awaitResponses(db, [...ids].reverse().concat(ids[0] ?? 0));
    expect(rest).toEqual([]);
    expect(denied).toMatchObject({ id: BigInt(ids[2] ?? 0), statusCode: null, errorCode: 'denied', headers: null });
    expect(missing).toMatchObject({ statusCode: 404, timedOut: false, errorMessage: null, content: null });
    expect(slow).toMatchObject({
      statusCode: 200,
      label: 'slow',
      host: new URL(stage.echoUrl).host,
      headers: { 'content-type': 'application/json' },
      content: expect.stringContaining('/delay/0.2'),
      created: expect.any(Date),
    });
    expect(again).toEqual(slow);
    expect(await awaitResponses(db, [])).toEqual([]);
  });

  test('says what net.await says where there is nothing to wait for', async () => {
    const stage = await backend.open({ worker: false });
    const db = await stage.connect();
    await stage.sql.query(`${requests(2)}; ${requests(1, `, keep := 'none'`)}; ${requests(1, `, delay := '1 week'`)}`);
    const cases: readonly [id: number, code: string][] = [
      [4711, 'P0002'],
      [3, '55000'],
      [4, 'NET01'],
    ];
    for (const [id, code] of cases) {
      await expect(awaitResponses(db, [1, id]), String(id)).rejects.toMatchObject({ name: 'PostgresError', code });
    }
    for (const timeoutMs of [0, 30]) {
      await expect(awaitResponses(db, [2, 1], { timeoutMs })).rejects.toMatchObject({
        code: 'NET01',
        message: 'the time-out ended before every request had its response',
        detail: expect.stringMatching(/^No response yet to 2: 1, 2\. .* down/),
        hint: expect.stringContaining('pgfetch worker'),
      });
    }
    await expect(awaitResponses(db, [1], { timeoutMs: -1 })).rejects.toThrow('timeoutMs must not be negative: -1');
  });

  test('a signal ends the wait', async () => {
    const stage = await backend.open({ worker: false });
    const db = await stage.connect();
    await stage.sql.query(requests(1));
    const reason = new Error('enough');
    const stop = new AbortController();
    const waiting = awaitResponses(db, [1], { signal: stop.signal });
    stop.abort(reason);
    await expect(waiting).rejects.toBe(reason);
    await expect(awaitResponses(db, [1], { signal: AbortSignal.abort(reason) })).rejects.toBe(reason);
  });

  test.runIf(can(backend, 'severalSessions'))('one that may still be committed is waited for', async () => {
    const stage = await backend.open({ worker: false });
    const db = await stage.connect();
    await stage.sql.query('begin');
    const id = await stage.enqueue(`select net.http_get('http://h')`);
    const waiting = awaitResponses(db, [id]);
    const observer = await stage.session();
    await stage.until(
      async () =>
        (
          await observer.query(
            `select from pg_stat_activity where datname = current_database() and query like '%_check_awaited%' and pid <> pg_backend_pid()`,
          )
        ).length === 1,
      'it has looked for it in vain',
    );
    await stage.sql.query(`commit; insert into net._http_response (id, status_code) values (${id}, 201)`);
    expect(await waiting).toMatchObject([{ statusCode: 201 }]);
  });
});
