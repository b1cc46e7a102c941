import pg from 'pg';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { connectPg, redeliver, redeliverWhere } from '../../src/index.ts';
import { installedDatabase } from '../support/installed.ts';
import { startTestPostgres } from '../support/servers.ts';
import { runCli } from './cli.ts';

// pgfetch redeliver, and the same in the library. What it does to the queue is in test/contract/redelivery.test.ts.

let database: Awaited<ReturnType<typeof installedDatabase>>;
let client: pg.Client;

beforeAll(async () => {
  const server = await startTestPostgres({ major: 18, settings: { 'pgfetch_test.name': 'cli' } });
  database = await installedDatabase(server);
  client = new pg.Client({ connectionString: database.url });
  await client.connect();
});

/** Requests 1 to 30: the even ones got a 503 from api.example.com, the odd ones no answer from other.example:81. */
beforeEach(async () => {
  await client.query(`
    truncate net.http_request_queue, net.kept_requests;
    insert into net.kept_requests (id, method, url, headers, timeout_milliseconds, attempts, state, status_code, error_code, host, label, finished)
    select n, 'POST', 'http://h/?key=s3cret', '{"Authorization": "s3cret"}', 2000, 1, 'failed',
      case when n % 2 = 0 then 503 end, case when n % 2 = 1 then 'timed_out' end,
      case when n % 2 = 0 then 'api.example.com' else 'other.example:81' end, E'a\\033[31mb',
      now() - interval '2 hours' + n * interval '1 minute'
    from generate_series(1, 30) n`);
});

afterAll(async () => {
  await client.end();
  await database.drop();
});

const cli = (...given: string[]): ReturnType<typeof runCli> =>
  runCli(['redeliver', ...given], { env: { DATABASE_URL: database.url } });

const queued = async (): Promise<unknown[]> =>
  (await client.query('select redelivery_of::int as of from net.http_request_queue order by id')).rows.map(
    ({ of }) => of,
  );

describe('by criteria', () => {
  test('without --yes it shows what it would send, counted and the first one by one, and changes nothing', async () => {
    const { status, stdout, stderr } = await cli('--since', '1d', '--per-second', '0.5');
    expect({ status, stderr }).toEqual({ status: 0, stderr: '' });
    expect(stdout).toMatch(
      /^requests {2}host +ended with\n15 +other\.example:81 +timed_out\n15 +api\.example\.com +503\n/,
    );
    expect(stdout).toMatch(/\n20 +POST +api\.example\.com +503 +\d{4}-\d\d-\d\d \d\d:\d\d:\d\d +a \[31mb\n\.\.\.\n/);
    expect(stdout).toMatch(/Nothing was changed\. To send 30 requests again, over 58 s: the same with --yes\n$/);
    expect(stdout).not.toMatch(/s3cret|\n21 /);
    expect(await queued()).toEqual([]);
  });

  test('with --yes it sends them, and says until when', async () => {
    const { status, stdout } = await cli('--host', 'api.example.com', '--status', '5xx', '--max', '10', '--yes');
    expect(status).toBe(0);
    expect(stdout).toMatch(/^Sending 10 requests again, the last one at \d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC\.\n/);
    expect(stdout).toContain('There may be more: 10 are chosen at a time (--max)');
    expect(await queued()).toEqual([2, 4, 6, 8, 10, 12, 14, 16, 18, 20]);
    const rest = await cli('--host', 'api.example.com', '--yes', '--json');
    const report = JSON.parse(rest.stdout) as {
      dryRun: boolean;
      requests: { id: number; newId: number; runAt: string }[];
    };
    expect(report.dryRun).toBe(false);
    expect(report.requests.map(({ id }) => id)).toEqual([22, 24, 26, 28, 30]);
    expect(report.requests[0]).toMatchObject({ newId: expect.any(Number), statusCode: 503, errorCode: null });
    expect((await cli('--host', 'api.example.com')).stdout).toMatch(
      /^No request that is kept.* fits\. Nothing was changed\.\n$/,
    );
  });

  test('times: ago, in UTC, with a zone', async () => {
    await client.query(
      `update net.kept_requests set finished = '2026-03-01 12:00Z'::timestamptz + id * interval '1 hour'`,
    );
    const count = async (...given: string[]): Promise<number> =>
      (JSON.parse((await cli('--json', ...given)).stdout) as { requests: unknown[] }).requests.length;
    expect(await count('--since', '2026-03-02')).toBe(19);
    expect(await count('--since', '2026-03-02T01:00', '--until', '2026-03-02 02:00:00')).toBe(1);
    expect(await count('--since', '2026-03-02T02:00+01:00', '--until', '2026-03-02T04:00:00.000+02:00')).toBe(1);
    await client.query("update net.kept_requests set finished = now() - id * interval '1 minute'");
    expect(await count('--since', '630s')).toBe(10);
  });
});

describe('by ids', () => {
  test('it sends them again at once: all of them or none', async () => {
    const refused = await cli('3', '4711');
    expect(refused).toMatchObject({ status: 1, stdout: '' });
    expect(refused.stderr).toMatch(
      /request 4711 is not kept for redelivery \(SQLSTATE P0002\)\. There is no such request/,
    );
    expect(await queued()).toEqual([]);
    const { status, stdout } = await cli('3', '5');
    expect(status).toBe(0);
    expect(stdout).toMatch(/^Request 3 is sent again as request \d+\.\nRequest 5 is sent again as request \d+\.\n$/);
    expect(JSON.parse((await cli('7', '--json')).stdout)).toEqual({
      dryRun: false,
      requests: [{ id: 7, newId: expect.any(Number) }],
    });
    expect(await queued()).toEqual([3, 5, 7]);
  });
});

test('an ordinary login sends its own again, and sees nobody else’s', async () => {
  await client.query(`drop role if exists cli_redeliver; create role cli_redeliver login;
    update net.kept_requests set set_role = 'cli_redeliver'::regrole where id < 3`);
  const url = new URL(database.url);
  url.username = 'cli_redeliver';
  const own = await runCli(['redeliver', '--state', 'failed', '--yes', '--json', '-d', url.href]);
  expect(JSON.parse(own.stdout)).toMatchObject({ requests: [{ id: 1 }, { id: 2 }] });
  expect((await runCli(['redeliver', '3', '-d', url.href])).stderr).toMatch(
    /request 3 is not kept .*made by another role/,
  );
  await client.query('drop role cli_redeliver');
});

test.each([
  [[], /Say which requests: ids, or at least one of --host/],
  [['1', '--host', 'h'], /Give ids, .* or what to choose by; not both/],
  [['--since', 'yesterday'], /It must be like 30m, 2h or 3d/],
  [['--host', 'h', '--per-second', '0'], /number from 0\.001 to 10000/],
])('usage errors: %j', async (given, message) => {
  const { status, stderr } = await cli(...given);
  expect(stderr).toMatch(message);
  expect(status).toBe(2);
});

test('what the server refuses is said with what to do', async () => {
  const { status, stderr } = await cli('--status', '5x');
  expect(status).toBe(1);
  expect(stderr).toMatch(
    /^pgfetch: status is "5x": .*\(SQLSTATE 22023\)\. .*For example status := '429, 5xx, error'\.\n$/,
  );
});

test('the library does the same, also within a transaction of the program', async () => {
  const db = await connectPg({ connectionString: database.url, applicationName: 'test', connectTimeoutMs: 10_000 });
  try {
    const [shown, ...more] = await redeliverWhere(
      db,
      { host: 'other.example:81', since: new Date(0) },
      { requestsMax: 1 },
    );
    expect(shown).toEqual({
      id: 1n,
      newId: null,
      method: 'POST',
      host: 'other.example:81',
      statusCode: null,
      errorCode: 'timed_out',
      label: 'a\u001b[31mb',
      finished: expect.any(Date),
      runAt: expect.any(Date),
    });
    expect(more).toEqual([]);
    expect(await redeliver(db, [])).toEqual([]);
    const ids = await db.transaction(async (session) => [
      ...(await redeliver(session, [2n, 1n])),
      ...(await redeliverWhere(session, { state: 'failed' }, { dryRun: false, perSecond: 100, requestsMax: 1 })).map(
        (r) => r.newId,
      ),
    ]);
    expect(new Set(ids).size).toBe(3);
    expect(await queued()).toEqual([2, 1, 3]);
  } finally {
    await db.close();
  }
});
