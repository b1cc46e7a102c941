import type pg from 'pg';
import { describe, expect, test } from 'vitest';
import { installedDatabase } from '../support/installed.ts';
import { closedAfterEach, type Opened, openSession } from '../support/opened.ts';
import { availableMajors, startTestPostgres, type TestMajor } from '../support/servers.ts';
import { backends, type Sql } from './backends.ts';

// net.queue_limit: how many requests a role may have in the queue.

const ask = `select net.http_get('http://h/')`;
const refused = { code: '53400' };

async function as<R extends object>(sql: Sql, role: string, statement: string): Promise<R[]> {
  await sql.query(`set session authorization ${role}`);
  try {
    return await sql.query<R>(statement);
  } finally {
    // PGlite does not know how to RESET it.
    await sql.query('set session authorization postgres');
  }
}

async function open(backend: (typeof backends)[number]): Promise<Sql> {
  const { sql } = await backend.open({ worker: false });
  for (const role of ['test_carol', 'test_bob', 'test_alice']) await sql.query(`drop role if exists ${role}`);
  await sql.query(
    'create role test_alice; create role test_bob; create role test_carol; grant test_alice to test_carol',
  );
  return sql;
}

const queued = async (sql: Sql, role: string): Promise<number> => {
  const [row] = await sql.query<{ n: number }>(
    `select count(*) as n from net.http_request_queue where coalesce(set_role, login_role) = '${role}'::regrole`,
  );
  return row?.n ?? -1;
};

/** Enqueues in transactions of one request each until one is refused; how many were not. */
async function fill(client: Sql, most: number): Promise<number> {
  for (let n = 0; n < most; n++) {
    try {
      await client.query(ask);
    } catch (error) {
      expect(error).toMatchObject(refused);
      return n;
    }
  }
  return most;
}

describe.each(backends)('$name', (backend) => {
  test('transactions of one request each are refused within a few percent of the limit; when some are done, no more', async () => {
    const sql = await open(backend);
    await sql.query(`insert into net.queue_limit values ('test_bob', 1000)`);
    await sql.query('set session authorization test_bob');
    const accepted = await fill(sql, 3000);
    await sql.query('set session authorization postgres');
    expect(accepted).toBeGreaterThanOrEqual(1000);
    expect(accepted).toBeLessThan(1100);
    expect(await queued(sql, 'test_bob')).toBe(accepted);
    await as(sql, 'test_alice', ask);
    await expect(as(sql, 'test_bob', ask)).rejects.toMatchObject(refused);
    await sql.query('delete from net.http_request_queue where id <= 500');
    await as(sql, 'test_bob', `select net.http_get('http://h/') from generate_series(1, 100)`);
    await sql.query(`update net.queue_limit set requests = 5000`);
    await as(sql, 'test_bob', `select net.http_get('http://h/') from generate_series(1, 2000)`);
  });

  test('one huge statement is refused and leaves nothing; another role is unaffected', async () => {
    const sql = await open(backend);
    await sql.query(`insert into net.queue_limit values ('test_bob', 1000)`);
    await as(sql, 'test_bob', `select net.http_get('http://h/') from generate_series(1, 10)`);
    const flood = `select count(net.http_get('http://h/')) from generate_series(1, 20000)`;
    await expect(as(sql, 'test_bob', flood)).rejects.toMatchObject({
      ...refused,
      message: 'role "test_bob" has too many requests in the queue',
      detail: expect.stringContaining('1000'),
      hint: expect.stringMatching(/"postgres"/),
    });
    expect(await queued(sql, 'test_bob')).toBe(10);
    expect(await sql.query('select from net.queue_count')).toHaveLength(1);
    await as(sql, 'test_alice', `select net.http_get('http://h/') from generate_series(1, 2000)`);
    expect(await queued(sql, 'test_alice')).toBe(2000);
    // Nor are another's requests its own.
    await as(sql, 'test_bob', `select net.http_get('http://h/') from generate_series(1, 500)`);
  });

  test('a role’s own row counts, else the largest of those whose rights it has, else that for every role', async () => {
    const sql = await open(backend);
    const most = async (role: string): Promise<number> => {
      await sql.query(`truncate net.http_request_queue; set session authorization ${role}`);
      const accepted = await fill(sql, 60);
      await sql.query('set session authorization postgres');
      return accepted;
    };
    await sql.query(`grant test_bob to test_carol; insert into net.queue_limit values (null, 5)`);
    expect(await most('test_carol')).toBe(5);
    expect(await most('postgres')).toBe(5);
    await sql.query(`insert into net.queue_limit values ('test_alice', 10), ('test_bob', 20)`);
    expect(await most('test_carol')).toBe(20);
    expect(await most('test_alice')).toBe(10);
    await sql.query(`insert into net.queue_limit values ('test_carol', 2)`);
    expect(await most('test_carol')).toBe(2);
    await sql.query(`update net.queue_limit set requests = 0 where role = 'test_carol'::regrole`);
    expect(await most('test_carol')).toBe(0);
    await sql.query(`delete from net.queue_limit`);
    expect(await most('test_carol')).toBe(60);
    await expect(sql.query(`insert into net.queue_limit values (null, -1)`)).rejects.toMatchObject({ code: '23514' });
    await sql.query(`insert into net.queue_limit values (null, 1)`);
    await expect(sql.query(`insert into net.queue_limit values (null, 2)`)).rejects.toMatchObject({ code: '23505' });
  });

  test('holds for every function, and whoever is SET', async () => {
    const sql = await open(backend);
    await sql.query(`insert into net.queue_limit values ('test_alice', 1)`);
    await as(sql, 'test_alice', `select net.request('PUT', 'http://h/')`);
    for (const call of [
      `http_get('http://h/')`,
      `http_post('http://h/')`,
      `http_delete('http://h/')`,
      `request('GET', 'http://h/')`,
    ]) {
      await expect(as(sql, 'test_alice', `select net.${call}`), call).rejects.toMatchObject(refused);
    }
    await sql.query('set role test_alice');
    await expect(sql.query(ask)).rejects.toMatchObject(refused);
    await sql.query(`reset role; ${ask}`);
  });
});

describe.each(availableMajors())('PostgreSQL %i', (major) => {
  const opened = closedAfterEach();

  test('who enqueues waits for nobody who has enqueued and goes on, and nobody’s count is lost', async () => {
    const { admin, sessions } = await openLogins(opened, major, 3);
    const [one, two, three] = sessions;
    if (one === undefined || two === undefined || three === undefined) throw new Error('there are three');
    await admin.query(`insert into net.queue_limit values ('limited', 200)`);
    const many = `select net.http_get('http://h/') from generate_series(1, 150)`;
    await one.query(`begin; ${many}`);
    await two.query(`begin isolation level repeatable read; ${many}`);
    await three.query(many);
    const { rows } = await admin.query(
      `select l.pid from pg_locks l where not l.granted or (l.locktype = 'advisory') or
         (l.locktype = 'relation' and l.relation::regclass::text like 'net.queue%' and l.mode not in ('AccessShareLock', 'RowExclusiveLock', 'RowShareLock'))`,
    );
    expect(rows).toEqual([]);
    await one.query('commit');
    await two.query('commit');
    // Together they are beyond it; what was counted before does not let more through.
    await expect(three.query(many)).rejects.toMatchObject(refused);
    await expect(one.query(ask)).rejects.toMatchObject(refused);
  });

  test('counts are not kept for ever, and none is taken for another limit or another role', async () => {
    const { admin, sessions } = await openLogins(opened, major, 1);
    const [session] = sessions;
    if (session === undefined) throw new Error('there is one');
    await admin.query(`insert into net.queue_limit values ('limited', 50)`);
    for (let n = 0; n < 30; n++) {
      await session.query(`select net.http_get('http://h/') from generate_series(1, 49)`);
      await admin.query('delete from net.http_request_queue');
    }
    const { rows } = await admin.query('select count(*)::int as n from net.queue_count');
    expect(rows[0].n).toBeLessThan(5);
    await session.query(`select net.http_get('http://h/') from generate_series(1, 20)`);
    await admin.query('update net.queue_limit set requests = 10');
    await expect(session.query(ask)).rejects.toMatchObject(refused);
  });
});

/** A superuser's session, and sessions of a role `limited`; nothing waits longer than 20 s for a lock. */
async function openLogins(
  opened: Opened,
  major: TestMajor,
  count: number,
): Promise<{ admin: pg.Client; sessions: readonly pg.Client[] }> {
  const { url } = await installedDatabase(await startTestPostgres({ major }));
  const admin = await openSession(opened, url);
  await admin.query(`
    do $$ begin if not exists (select from pg_roles where rolname = 'limited') then create role limited login; end if; end $$`);
  const login = new URL(url);
  login.username = 'limited';
  const sessions: pg.Client[] = [];
  for (let n = 0; n < count; n++) {
    const session = await openSession(opened, login.href);
    await session.query(`set lock_timeout = '20s'`);
    sessions.push(session);
  }
  return { admin, sessions };
}
