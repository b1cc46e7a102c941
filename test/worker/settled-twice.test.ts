import pg from 'pg';
import { describe, expect, test } from 'vitest';
import type { Aftermath } from '../../src/core/aftermath.ts';
import { noTimings, type Outcome } from '../../src/core/outcome.ts';
import type { QueueRow } from '../../src/core/request.ts';
import { type Settlement, settlementOf } from '../../src/core/settlement.ts';
import type { Database } from '../../src/postgres/database.ts';
import { connectPg } from '../../src/postgres/pg.ts';
import { claim, dueStart } from '../../src/store/claim.ts';
import { register } from '../../src/store/register.ts';
import { sessionSettings } from '../../src/store/session.ts';
import { settle } from '../../src/store/settle.ts';
import { installedDatabase } from '../support/installed.ts';
import { closedAfterEach } from '../support/opened.ts';
import { startTestPostgres } from '../support/servers.ts';

// A connection may be lost after the commit of a group and before its answer: the worker then settles the group once more.

const failed: Outcome = { kind: 'failure', code: 'timed_out', message: 'Timeout', timings: noTimings };

describe('what is settled once more, because the answer was lost', () => {
  const opened = closedAfterEach();

  /** A session of a worker that is registered, and one of somebody else. */
  async function open(): Promise<{ sql: pg.Client; db: Database; workerId: bigint }> {
    const { url } = await installedDatabase(await startTestPostgres({ major: 18 }));
    const sql = new pg.Client(url);
    await sql.connect();
    opened.push(() => sql.end());
    const db = await connectPg({
      connectionString: url,
      applicationName: 'test',
      connectTimeoutMs: 5_000,
      sessionSettings,
    });
    opened.push(() => db.close());
    const registration = await register(db, {
      workerId: null,
      name: 'w',
      version: '0',
      ownsSession: true,
      leaseMs: 60_000,
    });
    return { sql, db, workerId: registration?.workerId ?? 0n };
  }

  async function claimAll(db: Database, workerId: bigint): Promise<readonly QueueRow[]> {
    const claimed = await claim(db, workerId, 10, { afterId: 0n, urgentAfterId: 0n, dueAfter: dueStart });
    return (claimed?.rows ?? []) as readonly QueueRow[];
  }

  function failedOf(row: QueueRow, more: Partial<Aftermath>): Settlement {
    return settlementOf(row, failed, {
      state: 'failed',
      retryInMs: undefined,
      attempt: 1,
      startedAtMs: Date.now(),
      timings: noTimings,
      isKept: false,
      keep: 'full',
      label: undefined,
      callback: undefined,
      idempotencyKey: undefined,
      blocksKey: false,
      ...more,
    });
  }

  test('holds no slot for good where the retry has been finished by others meanwhile', async () => {
    const { sql, db, workerId } = await open();
    await sql.query(`select net.request('GET', 'http://h/' || n) from generate_series(1, 2) n`);
    const group = (await claimAll(db, workerId)).map((row) => failedOf(row, { retryInMs: 60_000 }));
    expect((await settle(db, workerId, group)).returned).toHaveLength(2);
    await sql.query('select net.cancel(1)');
    const again = await settle(db, workerId, group);
    expect(again).toMatchObject({ recorded: [1n], returned: [], refused: [] });
    const responses = await sql.query('select id, error_code from net._http_response');
    expect(responses.rows).toEqual([{ id: '1', error_code: 'cancelled' }]);
  });

  test.each(['', `, ordering_key := 'k', if_failed := 'block'`])('has its function called once%s', async (options) => {
    const { sql, db, workerId } = await open();
    await sql.query(`
      create function public.told(response net._http_response) returns void language sql security definer as 'select';
      select net.request('GET', 'http://h/', on_error := 'public.told'${options})`);
    const { rows } = await sql.query<{ callback: number; role: number }>(
      `update net.http_request_queue set claimed_by = $1 returning on_error::int as callback, set_role::int as role`,
      [workerId],
    );
    const { callback, role = null } = rows[0] ?? {};
    const row: QueueRow = {
      id: 1n,
      method: 'GET',
      url: 'http://h/',
      headersJson: '{}',
      body: null,
      timeoutMs: 1,
      loginRole: null,
      setRole: role,
      signWith: null,
      extras: undefined,
    };
    const group = [failedOf(row, { callback, blocksKey: options !== '' })];
    await settle(db, workerId, group);
    // It is called.
    expect((await sql.query('delete from net.callbacks')).rowCount).toBe(1);
    await settle(db, workerId, group);
    expect((await sql.query('select from net.callbacks')).rowCount).toBe(0);
    expect((await sql.query('select from net._http_response')).rowCount).toBe(1);
  });
});
