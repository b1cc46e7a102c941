import { spawnSync } from 'node:child_process';
import { chownSync, closeSync, fsyncSync, openSync, rmSync, statSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import pg from 'pg';
import { describe, expect, onTestFinished, test } from 'vitest';
import { startEchoServer } from '../../src/embedded/echo.ts';
import { createWorker } from '../../src/worker/create.ts';
import type { Worker } from '../../src/worker/worker.ts';
import { installedDatabase } from '../support/installed.ts';
import { closedAfterEach, openSession } from '../support/opened.ts';
import { type Relay, startRelay } from '../support/relay.ts';
import { newestMajors, startTestPostgres, type TestServer, temporaryDirectory, until } from '../support/servers.ts';

/** A server that has run out of something: the worker waits, says once what to do, goes on by itself, and loses nothing. */
describe.each(newestMajors())('on PostgreSQL %i', (major) => {
  const closing = closedAfterEach();

  const own = (name: string, settings: Readonly<Record<string, string>> = {}): Promise<TestServer> =>
    startTestPostgres({ major, settings: { 'pgfetch_test.name': name, ...settings } });

  async function stage(server: TestServer, relay?: Relay) {
    const { url, name } = await installedDatabase(server);
    const seen: string[] = [];
    const echo = await startEchoServer({ onRequest: ({ path }) => seen.push(path) });
    closing.push(() => echo.close());
    const session = (to = url): Promise<pg.Client> => openSession(closing, to);
    const problems: string[] = [];
    const start = async (wait = true): Promise<Worker> => {
      const worker = createWorker({
        connectionString: relay?.through(url) ?? url,
        allow: ['loopback'],
        stopTimeoutMs: 5_000,
      });
      worker.on('problem', (error) => problems.push(error.message));
      closing.push(() => worker.stop());
      await worker.start({ wait });
      return worker;
    };
    return { url, name, seen, echo, session, start, problems };
  }

  const count = async (sql: pg.Client, what: string): Promise<number> =>
    (await sql.query(`select count(*)::int as n from ${what}`)).rows[0].n;

  async function takeAllConnections(url: string): Promise<{ release: () => Promise<void> }> {
    const taken: pg.Client[] = [];
    for (;;) {
      const client = new pg.Client(url);
      client.on('error', () => {});
      try {
        await client.connect();
      } catch (error) {
        if (error instanceof pg.DatabaseError && error.code === '53300') break;
        throw error;
      }
      taken.push(client);
    }
    const release = async (): Promise<void> => {
      await Promise.all(taken.splice(0).map((client) => client.end()));
    };
    closing.push(release);
    return { release };
  }

  const fewConnections = { max_connections: '12', superuser_reserved_connections: '0', max_wal_senders: '0' };
  const tooMany = /too many clients.*max_connections/;

  test('no connection is free at the start', async () => {
    const { url, seen, echo, session, start, problems } = await stage(await own('few', fewConnections));
    const sql = await session();
    const { release } = await takeAllConnections(url);
    await start(false);
    await until(() => problems.length > 0, 'the problem to be told');
    await sql.query(`select net.http_get('${echo.url}/waiting')`);
    expect(problems).toEqual([expect.stringMatching(tooMany)]);
    await release();
    await until(() => seen.includes('/waiting'), 'the request is sent', 20_000);
    expect(problems).toHaveLength(1);
  });

  test('one connection is free at the start: the worker serves, though it cannot try its notifications', async () => {
    const { url, seen, echo, session, start, problems } = await stage(await own('few', fewConnections));
    const sql = await session();
    const spare = await session();
    const { release } = await takeAllConnections(url);
    await spare.end();
    await until(
      async () => (await count(sql, `pg_stat_activity where backend_type = 'client backend'`)) === 11,
      'one is free',
    );
    await start();
    await sql.query(`select net.http_get('${echo.url}/polled')`);
    await until(() => seen.includes('/polled'), 'the request is sent');
    expect(problems).toEqual([]);
    await release();
  });

  test('no connection is free after one was lost: what was in flight is recorded when there is one', async () => {
    const server = await own('few', fewConnections);
    const relay = await startRelay(server.port);
    closing.push(() => relay.close());
    const { url, seen, echo, session, start, problems } = await stage(server, relay);
    const sql = await session();
    await start();
    const { rows } = await sql.query(`select net.http_get('${echo.url}/delay/1') as id from generate_series(1, 20)`);
    await until(() => seen.length === 20, 'they are in flight');
    relay.cut();
    await until(
      async () => (await count(sql, `pg_stat_activity where application_name like 'pg_net %'`)) === 0,
      'the server to know that the session is over',
    );
    const { release } = await takeAllConnections(url);
    relay.pointTo(server.port);
    await until(() => problems.some((problem) => tooMany.test(problem)), 'the problem to be told');
    await release();
    await until(async () => (await count(sql, 'net._http_response')) === rows.length, 'all are recorded', 20_000);
    expect(seen).toHaveLength(20);
    expect(problems.filter((problem) => tooMany.test(problem))).toHaveLength(1);
  });

  test('default_transaction_read_only, at the start and while serving', async () => {
    const server = await own('read only');
    const { seen, echo, session, start, problems } = await stage(server);
    const admin = await session(server.connectionString);
    const sql = await session();
    const readOnly = async (on: boolean): Promise<void> => {
      await admin.query(`alter system set default_transaction_read_only = ${on ? 'on' : 'off'}`);
      await admin.query('select pg_reload_conf()');
      await until(
        async () =>
          (await sql.query('show default_transaction_read_only')).rows[0].default_transaction_read_only ===
          (on ? 'on' : 'off'),
        'the setting is in force',
      );
    };
    closing.push(() => readOnly(false));
    await sql.query('select net.set_durable(true)');
    await readOnly(true);
    await start(false);
    await until(() => problems.length > 0, 'the problem to be told');
    expect(problems).toEqual([expect.stringMatching(/read-only.*default_transaction_read_only/s)]);
    await sql.query(`begin read write; select net.http_get('${echo.url}/written-all-the-same'); commit`);
    await readOnly(false);
    await until(() => seen.includes('/written-all-the-same'), 'the request is sent', 20_000);
    await until(async () => (await count(sql, 'net._http_response')) === 1, 'and recorded');

    await sql.query(`select net.http_get('${echo.url}/delay/1') from generate_series(1, 20)`);
    await until(() => seen.length === 21, 'they are in flight');
    await readOnly(true);
    await sql.query(`begin read write; select net.http_get('${echo.url}/meanwhile'); commit`);
    await readOnly(false);
    await until(async () => (await count(sql, 'net._http_response')) === 22, 'all are recorded', 20_000);
    expect(seen).toHaveLength(22);
    expect(problems.filter((problem) => problem.includes('25006'))).toHaveLength(1);
  });

  test('no space on the disk: answers wait in the worker until they can be recorded', async ({ skip }) => {
    const disk = smallDisk(skip);
    const server = await own('disk');
    const { name, seen, echo, session, start, problems } = await stage(server);
    const admin = await session(server.connectionString);
    chownSync(disk, statSync(server.dataDirectory).uid, statSync(server.dataDirectory).gid);
    await admin.query(`create tablespace small location '${disk}'`);
    const sql = await session();
    await sql.query('select net.set_durable(true)');
    // The responses alone, so that requests can still be enqueued and taken.
    await sql.query('alter table net._http_response set tablespace small');
    const worker = await start();
    await sql.query(`select net.http_get('${echo.url}/get?first')`);
    await until(async () => (await count(sql, 'net._http_response')) === 1, 'a first response');
    fillDisk(disk);
    await sql.query(`select net.http_get('${echo.url}/bytes/20000') from generate_series(1, 100)`);
    await until(
      () => problems.some((problem) => /No space left on device/.test(problem)),
      'the problem to be told',
      20_000,
    );
    expect(problems.find((problem) => /No space left/.test(problem))).toMatch(/disk of the server is full: make room/);
    rmSync(join(disk, 'filler'));
    await until(async () => (await count(sql, 'net._http_response')) === 101, 'all are recorded', 30_000);
    expect(await count(sql, 'net.http_request_queue')).toBe(0);
    expect(problems).toHaveLength(1);
    await worker.drain();
    expect(seen.length).toBe(101);
    await worker.stop();
    // The tablespace goes before its disk.
    await sql.end();
    await admin.query(`drop database ${name} with (force)`);
    await admin.query('drop tablespace small');
  });
});

/** A file system of 8 MB that goes when the test ends. Only root can mount one, and only on Linux. */
function smallDisk(skip: (reason?: string) => never): string {
  const directory = temporaryDirectory('disk');
  const mount = spawnSync('mount', ['-t', 'tmpfs', '-o', 'size=8m', 'pgfetch-test', directory], { encoding: 'utf8' });
  if (mount.status !== 0) {
    skip(`a small file system cannot be mounted here: ${mount.error?.message ?? mount.stderr.trim()}`);
  }
  onTestFinished(() => {
    // Lazily: a server that still has a file open there lets go of it when it stops.
    spawnSync('umount', ['--lazy', directory]);
  });
  return directory;
}

/** Writes until nothing more fits. */
function fillDisk(directory: string): void {
  const file = openSync(join(directory, 'filler'), 'w');
  const block = Buffer.alloc(4_096);
  try {
    for (;;) writeSync(file, block);
  } catch (error) {
    if (!(error instanceof Error && 'code' in error && error.code === 'ENOSPC')) throw error;
  } finally {
    fsyncSync(file);
    closeSync(file);
  }
}
