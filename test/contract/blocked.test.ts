import { describe, expect, test } from 'vitest';
import { httpServer } from '../http/loopback.ts';
import { can, newestBackends, type Stage } from './backends.ts';

// What failed and holds up its ordering key stays under its own id: what else goes by that id, when it is cancelled or sent again.

const functions = `
  create table told (id bigint, by text, status int);
  create function paid(response net._http_response) returns void language sql security definer
    set search_path = public, pg_temp as $$ insert into told values (response.id, 'paid', response.status_code) $$;
  create function unpaid(response net._http_response) returns void language plpgsql security definer
    set search_path = public, pg_temp as $$
    begin
      if response.status_code >= 400 then raise exception 'not now'; end if;
      insert into told values (response.id, 'unpaid', response.status_code);
    end $$`;

/** Answers with these statuses one after the other, the last one for good. */
async function answering(...statuses: readonly number[]): Promise<string> {
  let asked = 0;
  const { url } = await httpServer((_request, response) => {
    response.writeHead(statuses[Math.min(asked, statuses.length - 1)] ?? 200).end();
    asked += 1;
  });
  return url;
}

const block = (stage: Stage, url: string, options = ''): Promise<number> =>
  stage.enqueue(
    `select net.request('GET', '${url}', timeout_milliseconds := 60000, ordering_key := 'k', if_failed := 'block' ${options})`,
  );

describe.each(newestBackends)('$name', (backend) => {
  test('sent again, it calls the function for its new response and not the one for the old', async () => {
    const stage = await backend.open();
    await stage.sql.query(functions);
    const id = await block(stage, await answering(500, 200), `, on_success := 'paid', on_error := 'unpaid'`);
    await stage.until(async () => (await stage.count('net.callbacks where attempts = 1')) === 1, 'one has failed');
    await stage.sql.query(`select net.redeliver(${id})`);
    await stage.until(async () => (await stage.count('told')) === 1, 'a function is called');
    expect(await stage.sql.query('select * from told')).toEqual([{ id, by: 'paid', status: 200 }]);
    expect(await stage.count('net.callbacks')).toBe(0);
  });

  test('sent again, its attempts are those of now', async () => {
    const stage = await backend.open();
    await stage.sql.query(`insert into net.retry_policy (name, first_delay, max_attempts) values ('soon', '1 ms', 2)`);
    const id = await block(stage, await answering(500, 501, 502, 200), `, retry_policy := 'soon'`);
    expect(await stage.response(id)).toMatchObject({ status_code: 501 });
    await stage.sql.query(`select net.redeliver(${id})`);
    await stage.response(id);
    expect(
      await stage.sql.query(`select attempt, status_code from net.attempts where request_id = ${id} order by 1`),
    ).toEqual([
      { attempt: 1, status_code: 502 },
      { attempt: 2, status_code: 200 },
    ]);
  });

  test.runIf(can(backend, 'severalSessions'))(
    'cancelled while it is sent, it holds up nobody if it fails',
    async () => {
      const stage = await backend.open({ worker: false });
      const held: (() => void)[] = [];
      const { url } = await httpServer((_request, response) => {
        held.push(() => response.writeHead(500).end());
      });
      await stage.startWorker({}, { deafTo: 'net_cancel' });
      const id = await block(stage, url);
      await stage.until(() => held.length === 1, 'it is being sent');
      const next = await block(stage, await answering(200));
      expect(await stage.sql.query(`select net.cancel(${id}) as outcome`)).toEqual([{ outcome: 'cancelling' }]);
      for (const answer of held) answer();
      expect(await stage.response(id)).toMatchObject({ status_code: 500 });
      expect(await stage.response(next)).toMatchObject({ status_code: 200 });
      expect(await stage.count('net.http_request_queue')).toBe(0);
    },
  );
});
