import { readFileSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { join } from 'node:path';
import pg from 'pg';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { connectPg } from '../../src/postgres/pg.ts';
import { readQueue } from '../../src/store/status.ts';
import { createDatabase, startTestPostgres, type TestServer } from '../support/servers.ts';
import { runCli, startCli } from './cli.ts';

let server: TestServer;
let database: Awaited<ReturnType<typeof createDatabase>>;
let client: pg.Client;

beforeAll(async () => {
  server = await startTestPostgres({ major: 18, settings: { 'pgfetch_test.name': 'cli' } });
});

beforeEach(async () => {
  database = await createDatabase(server);
  client = new pg.Client({ connectionString: database.url });
  await client.connect();
});

afterEach(async () => {
  await client.end();
  await database.drop();
});

afterAll(async () => {
  const admin = new pg.Client({ connectionString: server.connectionString });
  await admin.connect();
  await admin.query('drop role if exists cli_plain, cli_scram, cli_owner');
  await admin.end();
});

const cli = (...given: string[]): ReturnType<typeof runCli> => runCli(given, { env: { DATABASE_URL: database.url } });

async function closedPort(): Promise<number> {
  const probe = createServer();
  await new Promise<void>((resolve) => probe.listen(0, '127.0.0.1', resolve));
  const address = probe.address();
  await new Promise((resolve) => probe.close(resolve));
  return typeof address === 'object' && address !== null ? address.port : 0;
}

describe('install and uninstall', () => {
  test('say what they did, are safe to repeat, and print JSON', async () => {
    const first = await cli('install');
    expect(first).toMatchObject({ status: 0, stderr: '' });
    expect(first.stdout).toContain('Created the schema "net"');
    const again = await cli('install', '--show-settings', '--json');
    expect(JSON.parse(again.stdout)).toMatchObject({ kind: 'already_installed', showsSettings: true });
    const { rows } = await client.query("select name from pg_settings where name = 'pg_net.ttl'");
    expect(rows).toHaveLength(1);
    const removed = await cli('uninstall', '--json');
    expect(JSON.parse(removed.stdout)).toMatchObject({ kind: 'uninstalled' });
    expect((await client.query("select from pg_namespace where nspname = 'net'")).rows).toHaveLength(0);
    expect((await cli('uninstall')).stdout).toMatch(/nothing of pgfetch's/);
  });

  test('uninstall refuses while something depends on the schema, unless --cascade', async () => {
    await cli('install');
    await client.query('create view mine as select id from net.http_request_queue');
    const refused = await cli('uninstall');
    expect(refused).toMatchObject({ status: 1, stdout: '' });
    expect(refused.stderr).toMatch(/mine[\s\S]*--cascade/);
    expect((await cli('uninstall', '--cascade')).status).toBe(0);
    expect((await client.query("select from pg_class where relname = 'mine'")).rows).toHaveLength(0);
  });

  test('a schema "net" of somebody else is refused by every command, and left alone', async () => {
    await client.query('create schema net; create table net.theirs (i int)');
    for (const command of ['install', 'uninstall', 'status', 'doctor']) {
      const { status, stdout, stderr } = await cli(command);
      expect(status, command).toBe(1);
      expect(`${stdout}${stderr}`, command).toMatch(/not pgfetch's/);
    }
    expect((await client.query('select * from net.theirs')).rows).toEqual([]);
  });
});

describe('connecting', () => {
  test('goes by the PG* variables where there is no connection string', async () => {
    const env = {
      PGHOST: '127.0.0.1',
      PGPORT: String(server.port),
      PGUSER: 'postgres',
      PGDATABASE: database.name,
      PGSSLMODE: 'prefer',
    };
    const { status, stdout } = await runCli(['install'], { env });
    expect(status).toBe(0);
    expect(stdout).toContain(database.name);
  });

  test('the option wins over DATABASE_URL, before and after the command', async () => {
    const env = { DATABASE_URL: 'postgres://nobody@127.0.0.1:1/none' };
    expect((await runCli(['install', '-d', database.url], { env })).status).toBe(0);
    expect((await runCli(['-d', database.url, 'status'], { env })).status).toBe(0);
  });

  test('an unreachable server is one readable paragraph without the password', async () => {
    const port = await closedPort();
    for (const command of ['install', 'status']) {
      const { status, stdout, stderr } = await runCli([
        command,
        '-d',
        `postgres://app:tops3cret@127.0.0.1:${port}/app`,
      ]);
      expect({ status, stdout }).toEqual({ status: 1, stdout: '' });
      expect(stderr).toMatch(
        new RegExp(`^pgfetch: cannot connect to app@127\\.0\\.0\\.1:${port}/app: .*ECONNREFUSED.*DATABASE_URL.*\\n$`),
      );
      expect(stderr).not.toContain('tops3cret');
    }
    const { status, stdout } = await runCli([
      'doctor',
      '--json',
      '-d',
      `postgres://app:tops3cret@127.0.0.1:${port}/app`,
    ]);
    expect(status).toBe(1);
    expect(JSON.parse(stdout)).toMatchObject({ healthy: false, checks: [{ name: 'connection', state: 'broken' }] });
    expect(stdout).not.toContain('tops3cret');
  });

  test('a missing database and a wrong password say what to do', async () => {
    const url = new URL(database.url);
    url.pathname = '/no_such_database';
    expect((await runCli(['status', '-d', url.href])).stderr).toMatch(
      /"no_such_database" does not exist.*Create that database/,
    );

    await client.query("create role cli_scram login password 'right'");
    const rules = join(server.dataDirectory, 'pg_hba.conf');
    writeFileSync(rules, `host all cli_scram 127.0.0.1/32 scram-sha-256\n${readFileSync(rules, 'utf8')}`);
    await client.query('select pg_reload_conf()');
    const at = `127.0.0.1:${server.port}/${database.name}`;
    for (const args of [['status'], ['status', '--json'], ['doctor']]) {
      const wrong = await runCli([...args, '-d', `postgres://cli_scram:wr0ng-tops3cret@${at}`]);
      expect(wrong.status).toBe(1);
      expect(`${wrong.stdout}${wrong.stderr}`).toMatch(/password authentication failed[\s\S]*PGPASSWORD/);
      expect(`${wrong.stdout}${wrong.stderr}`).not.toContain('tops3cret');
    }
    const none = await runCli(['status', '-d', `postgres://cli_scram@${at}`]);
    expect(none.stderr).toMatch(/password/);
    expect(none.stderr).not.toMatch(/^\s+at /m);
  });

  test('a stack is shown for PGFETCH_DEBUG alone', async () => {
    const given = ['status', '-d', `postgres://app:tops3cret@127.0.0.1:${await closedPort()}/app`];
    const { stderr } = await runCli(given, { env: { PGFETCH_DEBUG: '1' } });
    expect(stderr).toMatch(/^\s+at /m);
    expect(stderr).not.toContain('tops3cret');
  });
});

describe('status', () => {
  test('says so where pgfetch is missing or of another version', async () => {
    expect(await cli('status')).toMatchObject({
      status: 1,
      stderr: expect.stringMatching(/not installed.*Run: pgfetch install/),
    });
    await cli('install');
    await client.query('update net.installation set schema_version = 99');
    expect(await cli('status')).toMatchObject({
      status: 1,
      stderr: expect.stringMatching(/version.*\(99\).*Update the worker/),
    });
  });

  test('shows depth, age, failures and errors, without secrets', async () => {
    await cli('install');
    const secret = 'https://user:tops3cret@example.com/hook?token=tops3cret';
    await client.query(`select net.http_get($1) from generate_series(1, 3)`, [secret]);
    await client.query("update net.http_request_queue set created = now() - interval '2 hours' where id = 1");
    await client.query('update net.http_request_queue set due_at = now() where id = 2');
    await client.query(`
      insert into net._http_response (id, status_code, error_code, error_msg, timed_out) values
        (-1, 200, null, null, false), (-2, 503, null, null, false),
        (-3, null, 'timed_out', 'Timeout of 800 ms reached', true),
        (-4, null, 'failed', 'cannot reach ${secret}', false)`);
    const { status, stdout } = await cli('status', '--json');
    expect(status).toBe(0);
    expect(JSON.parse(stdout)).toMatchObject({
      database: database.name,
      state: 'ready',
      queue: {
        waiting: 3,
        inFlight: 0,
        cameBack: 1,
        isEstimate: false,
        oldest: { id: 1, url: 'https://example.com/hook?token=…' },
      },
      workers: [],
      responses: { sampled: 4, isCapped: false, perMinute: { last1Minute: 4, last5Minutes: 0.8 }, httpErrors: 1 },
      failures: expect.arrayContaining([expect.objectContaining({ code: 'timed_out', count: 1 })]),
      lastErrors: expect.arrayContaining([expect.objectContaining({ id: -3, message: 'Timeout of 800 ms reached' })]),
    });
    expect(stdout).not.toContain('tops3cret');
    const text = (await cli('status')).stdout;
    expect(text).toMatch(/3 waiting, 1 of them came back or fell due, 0 in flight/);
    expect(text).toMatch(/oldest waits for 2 h: request 1, GET https:\/\/example\.com\/hook/);
    expect(text).toMatch(/Workers: none.*pgfetch worker/);
    expect(text).toMatch(/timed_out +1 +last/);
    expect(text).not.toContain('tops3cret');
  });

  test('what is due later does not wait, nor does what holds up its key', async () => {
    await cli('install');
    await client.query(`
      select net.request('GET', 'https://example.com/', delay := '1 day') from generate_series(1, 2);
      select net.request('GET', 'https://example.com/', ordering_key := 'k', if_failed := 'block');
      update net.http_request_queue set created = now() - interval '2 days';
      update net.http_request_queue set due_at = 'infinity' where ordering_key is not null;
      select net.http_get('https://example.com/')`);
    const { queue } = JSON.parse((await cli('status', '--json')).stdout);
    expect(queue).toMatchObject({ waiting: 1, inFlight: 0, cameBack: 0, later: 2, blocking: 1, oldest: { id: 4 } });
    expect((await cli('status')).stdout).toMatch(/2 due later.*\n.*1 failed and hold up their ordering key/);
    expect((await cli('doctor')).stdout).toMatch(/✓ queue: 1 waiting/);
    const db = await connectPg({ connectionString: database.url, applicationName: 'test', connectTimeoutMs: 10_000 });
    await client.query('analyze net.http_request_queue');
    expect(await readQueue(db, 2)).toMatchObject({ waiting: 0, later: expect.any(Number), isEstimate: true });
    await client.query('update net.http_request_queue set due_at = now() - interval $$2 min$$ where id = 1');
    expect((await readQueue(db, 10)).oldest).toMatchObject({ id: 1n });
    expect((await readQueue(db, 10)).oldest?.ageMs).toBeLessThan(600_000);
    await db.close();
  });

  test('counts a long queue up to a limit, and says that the rest is an estimate', async () => {
    await cli('install');
    await client.query("select net.http_get('http://example.com/') from generate_series(1, 10)");
    await client.query('analyze net.http_request_queue');
    const db = await connectPg({ connectionString: database.url, applicationName: 'test', connectTimeoutMs: 10_000 });
    expect(await readQueue(db, 10)).toMatchObject({ waiting: 10, isEstimate: false });
    expect(await readQueue(db, 3)).toMatchObject({ isEstimate: true, inFlight: 0, oldest: { id: 1n } });
    expect((await readQueue(db, 3)).waiting).toBeGreaterThan(3);
    await db.close();
  });

  test('needs rights, and says which', async () => {
    await cli('install');
    await client.query('create role cli_plain login');
    const url = new URL(database.url);
    url.username = 'cli_plain';
    const plain = await runCli(['status', '-d', url.href]);
    expect(plain).toMatchObject({ status: 1, stderr: expect.stringMatching(/permission denied.*net_admin/) });
    await client.query('grant net_admin to cli_plain');
    expect((await runCli(['status', '-d', url.href])).status).toBe(0);
    await client.query('revoke net_admin from cli_plain; drop role cli_plain');
  });

  test('--watch goes on until it is told to stop', async () => {
    await cli('install');
    const watching = await startCli(['status', '--watch', '--interval', '100', '--json', '-d', database.url]);
    await watching.output(/\n.*\n/);
    watching.signal('SIGINT');
    const { status, stdout } = await watching.ended;
    expect(status).toBe(0);
    const lines = stdout.trimEnd().split('\n');
    expect(lines.length).toBeGreaterThanOrEqual(2);
    for (const line of lines) expect(JSON.parse(line)).toMatchObject({ database: database.name });
  });
});

describe('doctor', () => {
  type Checks = { healthy: boolean; checks: { name: string; state: string; message: string; advice?: string }[] };
  const examine = async (url: string = database.url): Promise<Checks & { status: number | null }> => {
    const { status, stdout } = await runCli(['doctor', '--json', '-d', url]);
    return { status, ...(JSON.parse(stdout) as Checks) };
  };
  const named = ({ checks }: Checks, name: string): unknown => checks.find((check) => check.name === name);

  test('is content with a worker of a role that has the rights, and with nothing less', async () => {
    expect(named(await examine(), 'schema')).toMatchObject({
      state: 'broken',
      message: expect.stringMatching(/pgfetch install/),
    });
    await cli('install');
    await client.query('create role cli_plain login');
    const url = new URL(database.url);
    url.username = 'cli_plain';
    const powerless = await examine(url.href);
    expect(powerless.status).toBe(1);
    expect((await runCli(['doctor', '-d', url.href])).stdout).toMatch(/^✗ rights: .*it lacks\n {6}- .*\n {6}- /m);
    expect(named(powerless, 'rights')).toMatchObject({
      state: 'broken',
      message: expect.stringMatching(
        /it lacks\n {2}- .*\n {2}- DELETE on table net\.http_request_queue\n( {2}- .*\n){8} {2}and \d+ more$/,
      ),
      advice: expect.stringMatching(/GRANT net_worker TO "cli_plain"/),
    });
    await client.query('grant net_worker to cli_plain');
    const idle = await examine(url.href);
    expect(named(idle, 'rights')).toMatchObject({ state: 'ok' });
    expect(named(idle, 'worker')).toMatchObject({ state: 'broken', advice: expect.stringMatching(/pgfetch worker/) });
    expect(idle.status).toBe(1);

    const worker = await startCli(['worker', '-d', url.href, '--name', 'the worker']);
    await worker.output(/serving/);
    const healthy = await examine(url.href);
    expect(healthy.checks.filter(({ state }) => state !== 'ok')).toEqual([]);
    expect(named(healthy, 'worker')).toMatchObject({ message: expect.stringContaining('the worker') });
    expect(healthy).toMatchObject({ status: 0, healthy: true });
    worker.signal('SIGTERM');
    expect((await worker.ended).status).toBe(0);
    await client.query('revoke net_worker from cli_plain; drop role cli_plain');
  });

  test('says which profile is in force, and how to set one; net_admin may look, too', async () => {
    await cli('install', '--grants', 'members');
    await client.query(`update net.installation set fingerprint = fingerprint || '{"profile": "public"}'`);
    await client.query('create role cli_plain login; grant net_admin to cli_plain');
    const url = new URL(database.url);
    url.username = 'cli_plain';
    const found = await examine(url.href);
    expect(named(found, 'grants')).toMatchObject({ message: expect.stringMatching(/\(members\)/) });
    expect(named(found, 'drift')).toMatchObject({ advice: expect.stringMatching(/install --grants/) });
    expect(named(found, 'settings')).toMatchObject({ state: 'ok' });
    await client.query('revoke net_admin from cli_plain; drop role cli_plain');
  });

  test('lets the owner be the worker where there is no role for it', async () => {
    await client.query('drop role if exists net_admin, net_callback, net_worker, net_user');
    await client.query(`create role cli_owner login; alter database ${database.name} owner to cli_owner`);
    const url = new URL(database.url);
    url.username = 'cli_owner';
    expect((await runCli(['install', '-d', url.href])).status).toBe(0);
    await client.query('grant pg_monitor to cli_owner');
    expect(named(await examine(url.href), 'rights')).toMatchObject({ state: 'ok' });
    await client.query('alter role cli_owner createdb bypassrls');
    expect(named(await examine(url.href), 'rights')).toMatchObject({
      state: 'warning',
      message: expect.stringMatching(/but has BYPASSRLS$/),
      advice: expect.not.stringMatching(/GRANT net_worker/),
    });
  });

  test('finds drift, a wrong setting, a copy and another version', async () => {
    await cli('install');
    await client.query(`alter database ${database.name} set pg_net.batch_size = 'many'`);
    await client.query('drop function net.wake()');
    const drifted = await examine();
    expect(named(drifted, 'drift')).toMatchObject({ state: 'broken', message: expect.stringMatching(/net\.wake/) });
    expect(named(drifted, 'settings')).toMatchObject({
      state: 'warning',
      message: expect.stringMatching(/batch_size is "many"/),
    });
    expect(named(drifted, 'rights')).toMatchObject({ state: 'warning', message: expect.stringMatching(/superuser/) });

    await client.query('update net.installation set database_oid = 1');
    expect(named(await examine(), 'copy')).toMatchObject({
      state: 'broken',
      message: expect.stringMatching(/pgfetch adopt/),
    });
    await client.query('update net.installation set schema_version = 99');
    expect(named(await examine(), 'schema')).toMatchObject({ state: 'broken', message: expect.stringMatching(/99/) });
  });

  test('prints marks and advice for people', async () => {
    const { status, stdout } = await cli('doctor');
    expect(status).toBe(1);
    expect(stdout).toMatch(/^✓ connection: PostgreSQL 18/m);
    expect(stdout).toMatch(/^✗ schema: .*pgfetch install/m);
  });
});

test('adopt lets a copy be served, with the queue discarded or kept', async () => {
  await cli('install');
  await client.query("select net.http_get('http://example.com/')");
  await client.query('update net.installation set database_oid = 1');
  const status = await cli('status');
  expect(status).toMatchObject({ status: 0, stdout: expect.stringMatching(/is a copy/) });
  const adopted = await cli('adopt', '--queue', 'discard', '--json');
  expect(JSON.parse(adopted.stdout)).toMatchObject({ kind: 'adopted', discarded: 1 });
  expect((await cli('adopt', '--queue', 'keep')).status).toBe(0);
  expect((await cli('status')).stdout).not.toMatch(/copy/);
});

describe('pause and resume', () => {
  test('the worker leaves, status and doctor say so, and it comes back', async () => {
    await cli('install');
    const worker = await startCli(['worker', '--allow', 'loopback', '--log-format', 'json'], {
      env: { DATABASE_URL: database.url },
    });
    await worker.output(/"msg":"serving"/);
    const paused = await cli('pause');
    expect(paused).toMatchObject({ status: 0, stdout: expect.stringMatching(/is paused since .* by postgres/) });
    expect(paused.stdout).toMatch(/DROP DATABASE[\s\S]*pgfetch resume/);
    const { rows } = await client.query(
      'select application_name from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()',
    );
    expect(rows).toEqual([]);
    await client.query(`select net.http_get('http://127.0.0.1:1/')`);
    expect((await cli('status')).stdout).toMatch(/! The workers are paused since .* by postgres.*pgfetch resume/);
    expect(JSON.parse((await cli('status', '--json')).stdout)).toMatchObject({ paused: { by: 'postgres' } });
    const doctor = await cli('doctor');
    expect(doctor).toMatchObject({ status: 1, stdout: expect.stringMatching(/✗ pause: the workers are paused since/) });
    expect(doctor.stdout).toMatch(/✓ worker: none is connected, because of the pause/);
    // Once more is no failure, and changes nothing.
    expect(JSON.parse((await cli('pause', '--json')).stdout)).toMatchObject({
      paused: { by: 'postgres' },
      sessions: [],
    });
    const resumed = await cli('resume');
    expect(resumed).toMatchObject({ status: 0, stdout: expect.stringMatching(/was paused since .* go on/) });
    await worker.output(/the pause has ended/);
    expect((await cli('resume')).stdout).toMatch(/was not paused/);
    worker.signal('SIGTERM');
    expect((await worker.ended).status).toBe(0);
  });

  test('pause shows whom it waits for, and gives up after --timeout', async () => {
    await cli('install');
    const busy = new pg.Client({ connectionString: database.url, application_name: 'pg_net 9.9.9' });
    await busy.connect();
    const { status, stderr } = await cli('pause', '--timeout', '1');
    expect(status).toBe(1);
    expect(stderr).toMatch(/^Waiting for pg_net 9\.9\.9 \(server process \d+\)\n/);
    expect(stderr).toMatch(/is paused, but not every worker has left.*pgfetch resume/);
    await busy.end();
  });

  test('without the rights it says who may', async () => {
    await cli('install');
    await client.query('create role cli_plain login');
    const url = database.url.replace('postgres@', 'cli_plain@');
    for (const command of ['pause', 'resume']) {
      const { status, stderr } = await runCli([command, '-d', url]);
      expect({ status, stderr }).toEqual({ status: 1, stderr: expect.stringMatching(/may not .*net_admin/) });
    }
    await client.query('drop role cli_plain');
  });
});

test('cancel says what became of the request, or that there is none', async () => {
  await cli('install');
  const { rows } = await client.query("select net.request('GET', 'http://h/', delay := '1 day') as id");
  const id = rows[0].id;
  expect(JSON.parse((await cli('cancel', id, '--json')).stdout)).toEqual({ id: Number(id), outcome: 'cancelled' });
  expect((await cli('cancel', id)).stdout).toBe(`Request ${id} is cancelled: it will not be sent (again).\n`);
  expect(await cli('cancel', '4711')).toMatchObject({
    status: 1,
    stderr: expect.stringMatching(/there is no request 4711.*\(SQLSTATE P0002\).*somebody else's/),
  });
  expect(await cli('cancel', 'x')).toMatchObject({ status: 2, stderr: expect.stringMatching(/whole number/) });
});
