import { describe, expect, test, vi } from 'vitest';
import { can, newestBackends } from './backends.ts';
import { startGate } from './gate.ts';

// When a request is sent, and how often: at commit, once.

vi.setConfig({ testTimeout: 60_000 });

describe.each(newestBackends)('$name', (backend) => {
  test.runIf(can(backend, 'severalSessions'))('nothing is sent before the transaction commits', async () => {
    const stage = await backend.open();
    const open = await stage.session();
    await open.query('begin');
    await open.query(`select net.http_get('${stage.echoUrl}/early')`);
    // Committed after it, and answered: had the worker been able to take the first, it would have come first.
    await stage.response(await stage.get('/late'));
    expect(stage.receivedPaths).toEqual(['/late']);
    await open.query('commit');
    await stage.responses(2);
    expect(stage.receivedPaths).toEqual(['/late', '/early']);
  });

  test('nothing is sent while the one transaction there is stays open', async () => {
    const stage = await backend.open({ worker: false });
    const worker = await stage.startWorker();
    await stage.sql.query('begin');
    await stage.get('/get');
    let drained = false;
    const draining = worker.drain().then(() => {
      drained = true;
    });
    // On PGlite the worker cannot even look before this transaction ends; elsewhere it looks and finds nothing.
    for (let turn = 0; turn < 20; turn += 1) await stage.sql.query('select 1');
    if (!can(backend, 'severalSessions')) expect(drained).toBe(false);
    expect(stage.received).toEqual([]);
    await stage.sql.query('commit');
    await draining;
    await stage.responses(1);
    expect(stage.receivedPaths).toEqual(['/get']);
  });

  test('a rollback sends nothing, nor does a savepoint that was rolled back', async () => {
    const stage = await backend.open();
    await stage.sql.query('begin');
    await stage.get('/rolled-back');
    await stage.sql.query('rollback');

    await stage.sql.query('begin');
    await stage.get('/kept');
    await stage.sql.query('savepoint here');
    await stage.get('/savepoint');
    await stage.sql.query('rollback to here');
    await stage.get('/also-kept');
    await stage.sql.query('commit');

    await stage.sql.query(`do $$
      begin
        perform net.http_get('${stage.echoUrl}/exception');
        raise exception 'undo';
      exception when raise_exception then
        perform net.http_get('${stage.echoUrl}/handled');
      end $$`);
    await stage.responses(3);
    await stage.response(await stage.get('/last'));
    expect([...stage.receivedPaths].sort()).toEqual(['/also-kept', '/handled', '/kept', '/last']);
    expect(await stage.count('net.http_request_queue')).toBe(0);
  });

  test.each(['REPEATABLE READ', 'SERIALIZABLE'])('a transaction in %s is served like any', async (level) => {
    const stage = await backend.open();
    for (let round = 0; round < 5; round += 1) {
      await stage.sql.query(`begin isolation level ${level}; select count(*) from net.settings`);
      const id = await stage.get('/get');
      await stage.sql.query('commit');
      expect(await stage.response(id)).toMatchObject({ status_code: 200 });
    }
  });

  test('1,000 requests of one commit are each answered once', async () => {
    const stage = await backend.open();
    await stage.sql.query(
      `select net.http_get('${stage.echoUrl}/get?n=' || n, timeout_milliseconds := 30000) from generate_series(1, 1000) n`,
    );
    await stage.responses(1000);
    expect(new Set(stage.receivedPaths).size).toBe(1000);
    expect(stage.received).toHaveLength(1000);
    expect(await stage.count('net.http_request_queue')).toBe(0);
    expect(await stage.count('net._http_response where status_code = 200')).toBe(1000);
  });

  test('a slow request holds nothing but its slot', async () => {
    const stage = await backend.open();
    const gate = await startGate();
    const slow = await stage.get(gate.url, 60_000);
    await stage.until(() => gate.waiting() === 1, 'the slow request is in flight');
    await stage.sql.query(`select net.http_get('${stage.echoUrl}/get?n=' || n) from generate_series(1, 50) n`);
    await stage.responses(50);
    expect(gate.waiting()).toBe(1);
    gate.open();
    expect(await stage.response(slow)).toMatchObject({ status_code: 200, content: 'opened' });
  });

  test('pg_net.concurrency bounds what is in flight', async () => {
    const stage = await backend.open({ worker: false });
    const gate = await startGate();
    await stage.sql.query(`alter role current_user set pg_net.concurrency = 3`);
    await stage.startWorker();
    await stage.sql.query(
      `select net.http_get('${gate.url}/' || n, timeout_milliseconds := 60000) from generate_series(1, 12) n`,
    );
    for (let answered = 0; answered < 12; answered += 1) {
      await stage.until(() => gate.waiting() === Math.min(3, 12 - answered), 'all slots are taken');
      gate.letOneThrough();
      await stage.responses(answered + 1);
    }
    expect(gate.waitingMost()).toBe(3);
  });

  test('a row inserted by the owner is served at net.wake()', async () => {
    const stage = await backend.open();
    await stage.response(await stage.get('/get'));
    const [row] = await stage.sql.query<{ id: number }>(`
      insert into net.http_request_queue (method, url, headers, body, timeout_milliseconds)
      values ('PUT', '${stage.echoUrl}/put', '{"X-By": "hand"}', 'bytes', 5000)
      returning id`);
    await stage.sql.query('select net.wake()');
    const response = await stage.response(row?.id ?? 0);
    expect(JSON.parse(response.content ?? '')).toMatchObject({
      method: 'PUT',
      data: 'bytes',
      headers: { 'X-By': 'hand' },
    });
  });

  test('requests that were deleted before a worker came are not sent', async () => {
    const stage = await backend.open({ worker: false });
    const deleted = await stage.get('/deleted');
    await stage.get('/kept');
    await stage.sql.query(`delete from net.http_request_queue where id = ${deleted}`);
    await stage.startWorker();
    await stage.responses(1);
    expect(stage.receivedPaths).toEqual(['/kept']);
  });

  test.runIf(can(backend, 'preparedTransactions'))('a prepared transaction is sent when it is committed', async () => {
    const stage = await backend.open();
    await stage.sql.query('begin; set local pg_net.wake = off');
    const id = await stage.get('/prepared');
    await stage.sql.query(`prepare transaction 'contract'`);
    await stage.response(await stage.get('/meanwhile'));
    expect(stage.receivedPaths).toEqual(['/meanwhile']);
    await stage.sql.query(`commit prepared 'contract'`);
    await stage.sql.query('select net.wake()');
    expect(await stage.response(id)).toMatchObject({ status_code: 200 });
    expect(stage.receivedPaths).toEqual(['/meanwhile', '/prepared']);
  });

  test.runIf(can(backend, 'preparedTransactions'))('PREPARE refuses a transaction that notified', async () => {
    const stage = await backend.open({ worker: false });
    await stage.sql.query('begin');
    await stage.get('/get');
    await expect(stage.sql.query(`prepare transaction 'contract'`)).rejects.toThrow(/NOTIFY/);
    expect(await stage.count('net.http_request_queue')).toBe(0);
  });

  test.runIf(can(backend, 'severalSessions'))('several workers share a queue: each request is sent once', async () => {
    const stage = await backend.open({ worker: false });
    await stage.sql.query(`select net.http_get('${stage.echoUrl}/get?before=' || n) from generate_series(1, 250) n`);
    const recorded: number[] = [];
    for (const number of [0, 1, 2]) {
      const worker = await stage.startWorker({ name: `contract ${number}` });
      worker.on('recorded', (ids) => recorded.push(...ids.map(Number)));
    }
    for (let commit = 0; commit < 25; commit += 1) {
      await stage.sql.query(
        `select net.http_get('${stage.echoUrl}/get?n=${commit}-' || n) from generate_series(1, 10) n`,
      );
    }
    await stage.responses(500);
    expect(stage.received).toHaveLength(500);
    expect(new Set(stage.receivedPaths).size).toBe(500);
    expect(new Set(recorded).size).toBe(recorded.length);
    expect(await stage.count('net.http_request_queue')).toBe(0);
  });
});
