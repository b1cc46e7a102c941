import { describe, expect, test, vi } from 'vitest';
import { can, newestBackends } from './backends.ts';
import { startGate } from './gate.ts';

// What users may do to the tables, the extension and the settings while the worker works.

vi.setConfig({ testTimeout: 60_000 });

describe.each(newestBackends)('$name', (backend) => {
  test.each([
    ['DELETE', 'DELETE FROM net.http_request_queue'],
    ['TRUNCATE', 'TRUNCATE net.http_request_queue'],
    ['TRUNCATE ... RESTART IDENTITY', 'TRUNCATE net.http_request_queue, net._http_response RESTART IDENTITY'],
  ])(
    '%s of the queue while requests are in flight: their responses are recorded all the same',
    async (_name, statement) => {
      const stage = await backend.open();
      const gate = await startGate();
      const ids = [await stage.get(gate.url, 60_000), await stage.get(gate.url, 60_000)];
      await stage.until(() => gate.waiting() === 2, 'both are in flight');
      await stage.sql.query(statement);
      expect(await stage.count('net.http_request_queue')).toBe(0);
      gate.open();
      for (const id of ids) expect(await stage.response(id)).toMatchObject({ status_code: 200, content: 'opened' });
      const next = await stage.get('/get');
      expect(next).toBeGreaterThan(Math.max(...ids));
      expect(await stage.response(next)).toMatchObject({ status_code: 200 });
    },
  );

  test('TRUNCATE net._http_response while requests are in flight: what comes later is recorded', async () => {
    const stage = await backend.open();
    const gate = await startGate();
    const before = await stage.get('/get');
    await stage.response(before);
    const id = await stage.get(gate.url, 60_000);
    await stage.until(() => gate.waiting() === 1, 'it is in flight');
    await stage.sql.query('TRUNCATE net._http_response');
    gate.open();
    await stage.response(id);
    await stage.responses(1);
    expect(await stage.count('net.http_request_queue')).toBe(0);
  });

  test('DROP EXTENSION while requests are in flight neither waits for them nor kills the worker', async () => {
    const stage = await backend.open();
    const gate = await startGate();
    await stage.get(gate.url, 60_000);
    await stage.until(() => gate.waiting() === 1, 'it is in flight');
    await stage.sql.query('DROP EXTENSION pg_net');
    gate.open();
    expect(await stage.sql.query(`select to_regnamespace('net') as net`)).toEqual([{ net: null }]);
    await stage.sql.query('CREATE EXTENSION pg_net');
    expect(await stage.response(await stage.get('/get'))).toMatchObject({ status_code: 200 });
    // What was in flight belonged to the extension that is gone.
    expect(await stage.count('net._http_response')).toBe(1);
  });

  test('DROP EXTENSION and CREATE EXTENSION beside an idle worker: it serves the new one', async () => {
    const stage = await backend.open();
    await stage.response(await stage.get('/get'));
    await stage.sql.query('DROP EXTENSION pg_net; CREATE EXTENSION pg_net');
    for (let round = 0; round < 3; round += 1) {
      expect(await stage.response(await stage.get('/get'))).toMatchObject({ status_code: 200 });
    }
  });

  test.runIf(can(backend, 'severalSessions'))('workers that outlive DROP EXTENSION stay apart', async () => {
    const stage = await backend.open({ worker: false });
    for (const name of ['a', 'b', 'c']) await stage.startWorker({ name });
    for (let round = 0; round < 3; round += 1) {
      await stage.sql.query('DROP EXTENSION pg_net; CREATE EXTENSION pg_net');
      await stage.sql.query('select net.wake()');
      await stage.until(async () => (await stage.count('net.worker')) === 3, 'all three have registered again');
    }
  });

  test('a worker without the extension says so once, and serves as soon as it is there', async () => {
    const stage = await backend.open({ worker: false });
    await stage.sql.query('DROP EXTENSION pg_net');
    await stage.startWorker({ reconnect: { firstMs: 5, lastMs: 20 } }, { wait: false });
    await stage.until(() => stage.log.length > 0, 'the worker has looked');
    expect(stage.log).toEqual([expect.stringMatching(/^pgfetch is not installed in database .*pgfetch install/)]);
    await stage.sql.query('CREATE EXTENSION pg_net');
    expect(await stage.response(await stage.get('/get'))).toMatchObject({ status_code: 200 });
    expect(stage.log).toHaveLength(2);
  });

  test('a schema net that is not ours is left alone', async () => {
    const stage = await backend.open({ worker: false });
    await stage.sql.query('DROP EXTENSION pg_net; create schema net; create table net.http_request_queue (id int)');
    await expect(stage.sql.query('CREATE EXTENSION pg_net')).rejects.toThrow('schema "net" already exists');
    const worker = await stage.startWorker({ reconnect: { firstMs: 5, lastMs: 20 } }, { wait: false });
    await stage.until(() => stage.log.length > 0, 'the worker has looked');
    expect(stage.log).toEqual([expect.stringContaining('the schema "net"')]);
    await worker.stop();
    expect(await stage.sql.query('select id from net.http_request_queue')).toEqual([]);
  });

  test('any role may call net.worker_restart(), and requests survive it', async () => {
    const stage = await backend.open({ worker: false });
    const gate = await startGate();
    const worker = await stage.startWorker();
    const inFlight = await stage.get(gate.url, 60_000);
    await stage.until(() => gate.waiting() === 1, 'it is in flight');
    const restarted = new Promise((resolve) => worker.once('ready', resolve));
    await stage.sql.query(`
      do $$ begin if to_regrole('contract_nobody') is null then create role contract_nobody; end if; end $$;
      set role contract_nobody`);
    expect(await stage.sql.query('select net.worker_restart()')).toEqual([{ worker_restart: true }]);
    await stage.sql.query('reset role');
    await restarted;
    gate.open();
    expect(await stage.response(inFlight)).toMatchObject({ status_code: 200, content: 'opened' });
    expect(await stage.response(await stage.get('/get'))).toMatchObject({ status_code: 200 });
    expect(gate.waitingMost()).toBe(1);
  });

  test('net.set_paused(true) lets what is in flight finish and holds the rest back, until net.set_paused(false)', async () => {
    const stage = await backend.open({ worker: false });
    const gate = await startGate();
    const worker = await stage.startWorker({ timing: { pausedEveryMs: 10 }, stopTimeoutMs: 30_000 });
    const inFlight = await stage.get(gate.url, 60_000);
    await stage.until(() => gate.waiting() === 1, 'it is in flight');
    const paused = new Promise((resolve) => worker.once('paused', resolve));
    await stage.sql.query('select net.set_paused(true)');
    await paused;
    const later = await stage.get('/get');
    gate.open();
    expect(await stage.response(inFlight)).toMatchObject({ status_code: 200, content: 'opened' });
    await stage.until(async () => (await stage.count('net.worker')) === 0, 'the worker has left');
    expect(stage.receivedPaths).toEqual([]);
    await stage.sql.query('select net.set_paused(false)');
    expect(await stage.response(later)).toMatchObject({ status_code: 200 });
    expect(gate.waitingMost()).toBe(1);
  });

  test('net.check_worker_is_up() tells whether a worker is', async () => {
    const stage = await backend.open({ worker: false });
    const down = 'the pg_net background worker is not up';
    await expect(stage.sql.query('select net.check_worker_is_up()')).rejects.toThrow(down);
    const worker = await stage.startWorker();
    await stage.sql.query('select net.check_worker_is_up()');
    await worker.stop();
    await expect(stage.sql.query('select net.check_worker_is_up()')).rejects.toMatchObject({
      message: down,
      detail: expect.stringContaining('no pgfetch worker is connected'),
      hint: expect.stringContaining('pgfetch worker'),
    });
  });

  test.runIf(can(backend, 'waitingInsideAStatement'))('net.wait_until_running() waits for the restart', async () => {
    const stage = await backend.open();
    await stage.sql.query('select net.worker_restart()');
    await stage.sql.query('select net.wait_until_running()');
    await stage.sql.query('select net.check_worker_is_up()');
    await expect(
      stage.sql.query('begin isolation level repeatable read; select net.wait_until_running()'),
    ).rejects.toThrow('could only last for ever');
    await stage.sql.query('rollback');
  });

  test('responses expire after pg_net.ttl, and only those', async () => {
    const stage = await backend.open();
    const old = await stage.get('/get?old');
    await stage.response(old);
    await stage.sql.query(`update net._http_response set created = now() - interval '361 minutes' where id = ${old}`);
    const young = await stage.get('/get?young');
    await stage.response(young);
    await stage.sql.query(`update net._http_response set created = now() - interval '359 minutes' where id = ${young}`);
    await stage.until(
      async () => (await stage.count(`net._http_response where id = ${old}`)) === 0,
      'the old one is gone',
    );
    expect(await stage.count(`net._http_response where id = ${young}`)).toBe(1);
  });

  test.runIf(can(backend, 'alterSystem') && can(backend, 'reload'))('ALTER SYSTEM SET pg_net...', async () => {
    const stage = await backend.open();
    await stage.response(await stage.get('/get'));
    await stage.sql.query(`ALTER SYSTEM SET pg_net.ttl TO '10 milliseconds'`);
    await stage.sql.query(`ALTER SYSTEM SET pg_net.batch_size TO '0'`);
    await stage.sql.query('SELECT net.worker_restart()');
    await stage.responses(0);
    expect(stage.log).toContainEqual(expect.stringMatching(/^pg_net\.batch_size is "0".*from 1 to/));
    expect(await stage.sql.query(`select setting, source from net.settings where name = 'pg_net.ttl'`)).toEqual([
      { setting: '10 milliseconds', source: 'server' },
    ]);
  });

  test('settings: the role in the database wins over the role, and that over the database', async () => {
    const stage = await backend.open({ worker: false });
    const [here] = await stage.sql.query<{ name: string }>('select current_database() as name');
    const database = here?.name ?? '';
    const ttl = async (): Promise<unknown> =>
      (await stage.sql.query(`select setting, source from net.settings where name = 'pg_net.ttl'`))[0];
    expect(await ttl()).toEqual({ setting: '6 hours', source: 'default' });
    await stage.sql.query(`alter database ${database} set pg_net.ttl = '1 hour'`);
    expect(await ttl()).toEqual({ setting: '1 hour', source: 'database' });
    await stage.sql.query(`alter role current_user set pg_net.ttl = '2 hours'`);
    expect(await ttl()).toEqual({ setting: '2 hours', source: 'role' });
    await stage.sql.query(`alter role current_user in database ${database} set pg_net.ttl = '3 hours'`);
    expect(await ttl()).toEqual({ setting: '3 hours', source: 'role in database' });
  });
});
