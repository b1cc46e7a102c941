import { describe, expect, test } from 'vitest';
import { httpServer } from '../http/loopback.ts';
import { can, newestBackends, type Sql, type Stage } from './backends.ts';
import { startGate } from './gate.ts';

// net.cancel: what it says, and what becomes of the request.

const noRequest = { code: 'P0002', message: expect.stringMatching(/^there is no request \d+, and no response to it$/) };

async function cancel(sql: Sql, id: number): Promise<unknown> {
  return (await sql.query<{ outcome: string }>(`select net.cancel(${id}) as outcome`))[0]?.outcome;
}

/** Enqueues a request that takes as long as the server likes. */
function request(stage: Stage, url: string, options = ''): Promise<number> {
  return stage.enqueue(`select net.request('GET', '${url}', timeout_milliseconds := 60000 ${options})`);
}

const cancelledRow = {
  status_code: null,
  timed_out: false,
  error_code: 'cancelled',
  error_msg: 'The request was cancelled',
};

describe.each(newestBackends)('$name', (backend) => {
  test('one that waits is not sent, and has a response that says so', async () => {
    const stage = await backend.open({ worker: false });
    const id = await request(stage, `${stage.echoUrl.replace('://', '://me:pw@')}/waiting`, `, label := 'mine'`);
    const later = await request(stage, `${stage.echoUrl}/later`, `, delay := '1 hour'`);
    const silent = await request(stage, `${stage.echoUrl}/silent`, `, keep := 'none'`);
    for (const each of [id, later, silent]) expect(await cancel(stage.sql, each)).toBe('cancelled');
    expect(await stage.count('net.http_request_queue')).toBe(0);
    const [row] = await stage.sql.query(
      `select *, set_role::regrole::text as by from net._http_response where id = ${id}`,
    );
    expect(row).toMatchObject({
      ...cancelledRow,
      host: stage.echoUrl.slice('http://'.length),
      label: 'mine',
      by: 'postgres',
    });
    expect(await stage.response(later)).toMatchObject(cancelledRow);
    expect(await stage.count(`net._http_response where id = ${silent}`)).toBe(0);
    // Asked again it says how it ended.
    expect(await cancel(stage.sql, id)).toBe('cancelled');
    const worker = await stage.startWorker();
    await stage.get('/sent');
    await worker.drain();
    expect(stage.receivedPaths).toEqual(['/sent']);
  });

  test('in the transaction that made it, and taken back with a rollback', async () => {
    const stage = await backend.open({ worker: false });
    await stage.sql.query(`begin; select net.cancel(net.http_get('${stage.echoUrl}/a')); commit`);
    expect(await stage.count('net.http_request_queue')).toBe(0);
    const id = await request(stage, `${stage.echoUrl}/b`);
    await stage.sql.query(`begin; select net.cancel(${id}); rollback`);
    await (await stage.startWorker()).drain();
    expect(stage.receivedPaths).toEqual(['/b']);
  });

  test('one that failed for good before it could be given up, and blocks its key, can be sent again', async () => {
    const stage = await backend.open({ worker: false });
    const id = await request(stage, `${stage.echoUrl}/again`, `, ordering_key := 'k', if_failed := 'block'`);
    await stage.sql.query(`update net.http_request_queue set due_at = 'infinity', cancel_asked = true`);
    expect(await stage.sql.query(`select net.redeliver(${id})::int as id`)).toEqual([{ id }]);
    await stage.startWorker();
    expect(await stage.response(id)).toMatchObject({ status_code: 200 });
  });

  test('one that is being sent is given up: the exchange ends', async () => {
    const stage = await backend.open();
    let left = 0;
    let arrived = 0;
    const server = await httpServer((_request, response) => {
      arrived += 1;
      response.on('close', () => {
        left += 1;
      });
    });
    const id = await request(stage, server.url);
    await stage.until(() => arrived === 1, 'it has arrived');
    expect(await cancel(stage.sql, id)).toBe('cancelling');
    expect(await stage.response(id)).toMatchObject(cancelledRow);
    await stage.until(() => left === 1, 'the server was left');
    expect(await stage.count('net.http_request_queue')).toBe(0);
    expect(await stage.count('net.kept_requests')).toBe(0);
    expect(await cancel(stage.sql, id)).toBe('cancelled');
  });

  test('one that a worker holds until there is room, too', async () => {
    const stage = await backend.open({ worker: false });
    await stage.sql.query(`alter role current_user set pg_net.concurrency_per_origin = 1`);
    const gate = await startGate();
    const first = await request(stage, `${gate.url}/first`);
    const second = await request(stage, `${gate.url}/second`);
    const worker = await stage.startWorker();
    await stage.until(() => gate.waiting() === 1 && worker.held === 2, 'the second waits for room');
    expect(await cancel(stage.sql, second)).toBe('cancelling');
    expect(await stage.response(second)).toMatchObject(cancelledRow);
    gate.open();
    expect(await stage.response(first)).toMatchObject({ status_code: 200 });
    expect(gate.waitingMost()).toBe(1);
  });

  test('one that is finished stays as it is; one that is not there is refused', async () => {
    const stage = await backend.open();
    const id = await stage.get('/get');
    await stage.response(id);
    expect(await cancel(stage.sql, id)).toBe('finished');
    expect(await stage.response(id)).toMatchObject({ status_code: 200, error_code: null });
    await expect(cancel(stage.sql, id + 1_000)).rejects.toMatchObject(noRequest);
    await expect(stage.sql.query('select net.cancel(null)')).rejects.toMatchObject({
      code: 'P0002',
      message: 'there is no request NULL, and no response to it',
    });
  });

  test('where notifications do not arrive, what was answered is recorded', async () => {
    const stage = await backend.open({ worker: false });
    const gate = await startGate();
    await stage.startWorker({}, { deafTo: 'net_cancel' });
    const id = await request(stage, gate.url);
    await stage.until(() => gate.waiting() === 1, 'it is being sent');
    expect(await cancel(stage.sql, id)).toBe('cancelling');
    gate.open();
    expect(await stage.response(id)).toMatchObject({ status_code: 200 });
  });

  test('a request of a worker that died is not sent again once it is cancelled', async () => {
    const stage = await backend.open({ worker: false });
    const id = await request(stage, `${stage.echoUrl}/again`);
    // As a worker leaves it that has no registration any more.
    await stage.sql.query(`update net.http_request_queue set claimed_by = 999999 where id = ${id}`);
    expect(await cancel(stage.sql, id)).toBe('cancelling');
    await stage.startWorker();
    expect(await stage.response(id)).toMatchObject(cancelledRow);
    expect(stage.receivedPaths).toEqual([]);
  });

  test('a notification alone cancels nothing', async () => {
    const stage = await backend.open();
    const gate = await startGate();
    const ids = [await request(stage, gate.url), await request(stage, gate.url)];
    await stage.until(() => gate.waiting() === 2, 'both are being sent');
    for (const forged of [ids[0], 'x', '', '99999999999999999999'])
      await stage.sql.query(`notify net_cancel, '${forged}'`);
    // This one is honest, and comes after the others.
    await cancel(stage.sql, ids[1] ?? 0);
    expect(await stage.response(ids[1] ?? 0)).toMatchObject(cancelledRow);
    gate.open();
    expect(await stage.response(ids[0] ?? 0)).toMatchObject({ status_code: 200 });
  });

  test('whose request it is may cancel it, who has that role’s rights, and net_admin; nobody else', async () => {
    const stage = await backend.open({ worker: false });
    const { sql } = stage;
    await sql.query(`
      create role c_owner; create role c_member in role c_owner; create role c_other; create role c_admin in role net_admin;
      create role c_nobody noinherit in role c_owner`);
    const as = async (role: string, id: number): Promise<unknown> => {
      await sql.query(`set role ${role}`);
      try {
        return await cancel(sql, id);
      } finally {
        await sql.query('reset role');
      }
    };
    const make = async (call = `net.request('GET', 'http://h/')`): Promise<number> => {
      await sql.query('set role c_owner');
      const id = await stage.enqueue(`select ${call}`);
      await sql.query('reset role');
      return id;
    };
    for (const role of ['c_owner', 'c_member', 'c_admin', 'postgres']) {
      expect(await as(role, await make()), role).toBe('cancelled');
      expect(await as(role, await make(`net.http_get('http://h/')`)), role).toBe('cancelled');
    }
    const id = await make();
    for (const role of ['c_other', 'c_nobody']) await expect(as(role, id), role).rejects.toMatchObject(noRequest);
    // Nor by hand, as whoever it is.
    const forged = `(pg_current_xact_id()::text || ' ' || 'c_owner'::regrole::oid::text)::net._caller`;
    await sql.query('set role c_other');
    await expect(sql.query(`select net._cancel(${forged}, ${id})`)).rejects.toMatchObject({ code: '23514' });
    await expect(sql.query(`select net._cancel(null, ${id})`)).rejects.toMatchObject({ code: '42501' });
    await sql.query('reset role');
    expect(await as('c_owner', id)).toBe('cancelled');
    // Of a finished one a stranger is not told either.
    await expect(as('c_other', id)).rejects.toMatchObject(noRequest);
    await sql.query('drop role c_nobody, c_member, c_other, c_admin; drop role c_owner');
  });

  if (can(backend, 'severalSessions')) {
    test('waits for nobody but who is about to finish or to take it', async () => {
      const stage = await backend.open({ worker: false });
      const other = await stage.session();
      const id = await request(stage, `${stage.echoUrl}/raced`);
      await other.query(`begin; update net.http_request_queue set claimed_by = 999999 where id = ${id}`);
      const cancelling = cancel(stage.sql, id);
      await other.query('commit');
      expect(await cancelling).toBe('cancelling');
    });
  }
});
