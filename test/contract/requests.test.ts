import { describe, expect, test } from 'vitest';
import { newestBackends, type Sql, type Stage } from './backends.ts';

// net.requests: one row for each request that is still known, in whatever state, for whom it concerns. What a worker would write is
// written by hand, but for the last test.

/** One request of each kind that there is, made by test_alice; the even ones with the label `even`. */
const everyKind = `
  insert into net.http_request_queue
    (id, method, url, headers, timeout_milliseconds, set_role, claimed_by, due_at, attempts, label, ordering_key, blocks_key)
  select q.id, 'GET', 'https://user@h' || q.id || '.example.com:8443/p@th?a=b', '{}', 1, 'test_alice'::regrole, q.claimed_by, q.due_at,
    q.attempts, case when q.id % 2 = 0 then 'even' end, q.ordering_key, q.blocks_key
  from (
    values
      (1, null::bigint, null::timestamptz, null::integer, null, null::boolean),
      (2, null, now() - interval '1 minute', null, null, null),
      (3, null, now() + interval '1 minute', null, null, null),
      (4, 7, null, null, null, null),
      (5, 7, now() - interval '1 minute', 2, null, null),
      (6, null, now() - interval '1 minute', 1, null, null),
      (7, null, now() + interval '1 minute', 3, null, null),
      -- Holds up its key: it has failed, with a response, with a copy alone, and while it is sent again.
      (8, null, 'infinity', null, 'k', true),
      (9, null, 'infinity', 2, 'l', true),
      (10, 7, now(), null, 'm', true)
  ) q (id, claimed_by, due_at, attempts, ordering_key, blocks_key);
  insert into net._http_response (id, status_code, error_code, set_role, attempts, is_dead, host, label)
  select r.id, r.status_code, r.error_code, 'test_alice'::regrole, r.attempts, r.is_dead, 'h' || r.id || '.example.com:8443',
    case when r.id % 2 = 0 then 'even' end
  from (
    values
      (8, 500, null, null::integer, null::boolean),
      (10, 500, null, 4, true),
      (11, 204, null, null, null),
      (12, 404, null, null, null),
      (13, null, 'timed_out', null, null),
      (14, 503, null, 5, true),
      (15, null, 'cancelled', null, null),
      (16, 200, null, 2, null)
  ) r (id, status_code, error_code, attempts, is_dead);
  insert into net.kept_requests
    (id, method, url, headers, timeout_milliseconds, set_role, attempts, state, status_code, error_code, host, label, created, redelivery_of)
  select k.id, 'PUT', 'https://h' || k.id || '.example.com:8443/', '{}', 1, 'test_alice'::regrole, k.attempts, k.state, k.status_code,
    k.error_code, 'h' || k.id || '.example.com:8443', case when k.id % 2 = 0 then 'even' end, now() - interval '1 day', k.redelivery_of
  from (
    values
      (9, 3, 'dead', 503, null, null::bigint),
      (12, 1, 'failed', 404, null, 1),
      (14, 5, 'dead', 503, null, null),
      (17, 5, 'dead', null, 'timed_out', null)
  ) k (id, attempts, state, status_code, error_code, redelivery_of)`;

async function openWithEveryKind(openStage: () => Promise<Stage>): Promise<Sql> {
  const { sql } = await openStage();
  for (const role of ['test_alice', 'test_bob', 'test_auditor']) {
    await sql.query(`drop role if exists ${role}; create role ${role}`);
  }
  await sql.query('grant net_admin to test_auditor');
  await sql.query(everyKind);
  return sql;
}

/** Runs it as a login of that role, with no other rights. */
async function as(sql: Sql, role: string, statement: string): Promise<Record<string, unknown>[]> {
  await sql.query(`set session authorization ${role}`);
  try {
    return await sql.query(statement);
  } finally {
    await sql.query('set session authorization postgres');
  }
}

describe.each(newestBackends)('$name', (backend) => {
  const open = (): Promise<Sql> => openWithEveryKind(() => backend.open({ worker: false }));

  test('each request is one row, in its state', async () => {
    const sql = await open();
    const rows = await sql.query(`
      select id, state, method, attempts, status_code, error_code, created is not null as created, due_at is not null as due,
        finished is not null as finished, ordering_key, redelivery_of, host, label, role
      from net.requests order by id`);
    const queued = { method: 'GET', status_code: null, error_code: null, created: true, due: false, finished: false };
    const done = { method: null, error_code: null, created: false, due: false, finished: true };
    const none = { ordering_key: null, redelivery_of: null };
    const expected = [
      { ...queued, state: 'waiting', attempts: 0 },
      { ...queued, state: 'waiting', attempts: 0 },
      { ...queued, state: 'scheduled', attempts: 0, due: true },
      { ...queued, state: 'sending', attempts: 0 },
      { ...queued, state: 'sending', attempts: 2 },
      { ...queued, state: 'retrying', attempts: 1, due: true },
      { ...queued, state: 'retrying', attempts: 3, due: true },
      { ...queued, state: 'failed', attempts: 1, status_code: 500, finished: true, ordering_key: 'k' },
      { ...queued, state: 'dead', attempts: 3, status_code: 503, finished: true, ordering_key: 'l' },
      { ...queued, state: 'sending', attempts: 0, ordering_key: 'm' },
      { ...done, state: 'succeeded', attempts: 1, status_code: 204 },
      { ...done, state: 'failed', attempts: 1, status_code: 404, method: 'PUT', created: true, redelivery_of: 1 },
      { ...done, state: 'failed', attempts: 1, status_code: null, error_code: 'timed_out' },
      { ...done, state: 'dead', attempts: 5, status_code: 503, method: 'PUT', created: true },
      { ...done, state: 'cancelled', attempts: null, status_code: null, error_code: 'cancelled' },
      { ...done, state: 'succeeded', attempts: 2, status_code: 200 },
      { ...done, state: 'dead', attempts: 5, status_code: null, error_code: 'timed_out', method: 'PUT', created: true },
    ].map((row, index) => ({
      ...none,
      ...row,
      id: index + 1,
      host: `h${index + 1}.example.com:8443`,
      label: index % 2 === 1 ? 'even' : null,
      role: 'test_alice',
    }));
    expect(rows).toEqual(expected);
    const one = (id: number): string => `select id, state from net.requests where id = ${id}`;
    for (const { id, state } of expected) expect(await sql.query(one(id))).toEqual([{ id, state }]);
  });

  test('a role sees its own, net_admin and the owner everything, others nothing', async () => {
    const sql = await open();
    const count = 'select count(*) as count from net.requests';
    expect(await as(sql, 'test_alice', count)).toEqual([{ count: 17 }]);
    expect(await as(sql, 'test_bob', count)).toEqual([{ count: 0 }]);
    expect(await as(sql, 'test_auditor', count)).toEqual([{ count: 17 }]);
    await sql.query('grant test_alice to test_bob');
    expect(await as(sql, 'test_bob', count)).toEqual([{ count: 17 }]);
    // The login counts as the role that was SET does; the view shows what the policies of the tables show.
    await sql.query(`
      revoke test_alice from test_bob;
      update net.http_request_queue set login_role = 'test_bob'::regrole where id = 1;
      update net._http_response set login_role = 'test_bob'::regrole where id = 11;
      update net.kept_requests set login_role = 'test_bob'::regrole where id = 17`);
    expect(await as(sql, 'test_bob', 'select id from net.requests order by id')).toEqual(
      [1, 11, 17].map((id) => ({ id })),
    );
    await sql.query('update net._http_response set login_role = null, set_role = null where id = 11');
    expect(await as(sql, 'test_bob', 'select id from net.requests where id = 11')).toEqual([]);
    expect(await as(sql, 'test_auditor', 'select role from net.requests where id = 11')).toEqual([{ role: null }]);
  });

  test('no function of their own shows anybody the requests of others', async () => {
    const sql = await open();
    await sql.query('grant create, usage on schema public to test_bob');
    // The cheapest there is, so that the planner would like to ask it first.
    await as(
      sql,
      'test_bob',
      `create table public.leaked (seen text);
       create function public.leak(seen anyelement) returns boolean language plpgsql cost 0.0000001 as $$
       begin
         insert into public.leaked values (seen::text);
         return true;
       end $$`,
    );
    for (const column of ['id', 'url', 'host', 'label', 'state', 'role', 'created', 'finished']) {
      expect(await as(sql, 'test_bob', `select id from net.requests where public.leak(${column})`), column).toEqual([]);
    }
    expect(await sql.query('select * from public.leaked')).toEqual([]);
    for (const error of [`(1 / (id - 11)) > 0`, `label::integer = 1`]) {
      expect(await as(sql, 'test_bob', `select id from net.requests where ${error}`), error).toEqual([]);
    }
    await sql.query('drop function public.leak; drop table public.leaked; revoke all on schema public from test_bob');
  });

  test('nobody writes through it', async () => {
    const sql = await open();
    for (const statement of [
      'delete from net.requests',
      `update net.requests set label = 'x'`,
      'insert into net.requests (id) values (18)',
    ]) {
      await expect(as(sql, 'test_alice', statement), statement).rejects.toThrow();
    }
  });

  test('an id is looked up by the indexes, and a state of what is done leaves the queue out', async () => {
    const sql = await open();
    await sql.query('set enable_seqscan = off; set enable_bitmapscan = off');
    const planOf = async (condition: string): Promise<string> =>
      (await as(sql, 'test_alice', `explain (costs off) select id, state, url from net.requests where ${condition}`))
        .map((row) => Object.values(row)[0])
        .join('\n');
    const byId = await planOf('id = 11');
    expect(byId).toContain('Index Cond: (id = 11)');
    expect(byId).not.toMatch(/Seq Scan on (http_request_queue|_http_response|kept_requests)/);
    for (const condition of [`state = 'succeeded'`, `state in ('failed', 'dead')`]) {
      const plan = await planOf(condition);
      // What tells the queue's own states apart.
      expect(plan).not.toMatch(/claimed_by IS NOT NULL|attempts IS/);
      expect(plan).toContain('_http_response');
    }
  });

  test('what a worker did is there', async () => {
    const stage = await backend.open();
    const { sql, echoUrl } = stage;
    await sql.query(`
      select net.request('GET', '${echoUrl}/get', label := 'fine'),
        net.request('POST', '${echoUrl}/status/500', label := 'broken'),
        net.request('GET', '${echoUrl}/get', label := 'later', delay := '1 hour')`);
    await stage.responses(2);
    const host = new URL(echoUrl).host;
    expect(
      await sql.query('select state, label, host, method, attempts, status_code, role from net.requests order by id'),
    ).toEqual([
      { state: 'succeeded', label: 'fine', host, method: null, attempts: 1, status_code: 200, role: 'postgres' },
      { state: 'failed', label: 'broken', host, method: 'POST', attempts: 1, status_code: 500, role: 'postgres' },
      { state: 'scheduled', label: 'later', host, method: 'GET', attempts: 0, status_code: null, role: 'postgres' },
    ]);
  });
});
