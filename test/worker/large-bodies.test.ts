import { execFileSync, spawn } from 'node:child_process';
import { createServer, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import type pg from 'pg';
import { expect, test } from 'vitest';
import { unbound } from '../../src/core/policy.ts';
import type { UnloadedRow } from '../../src/core/request.ts';
import { PostgresError, type Session } from '../../src/postgres/database.ts';
import { noSecrets } from '../../src/secrets/secrets.ts';
import { createWorker } from '../../src/worker/create.ts';
import { Flights } from '../../src/worker/flights.ts';
import { installedDatabase } from '../support/installed.ts';
import { closedAfterEach, openSession } from '../support/opened.ts';
import { startTestPostgres, until } from '../support/servers.ts';

const closing = closedAfterEach();

/** Of so large bodies one role gets room for six. */
const bodyBytes = 8_000_000;
const fitting = 6;

const enqueueLarge = (url: string, count: number): string => `
  select net.http_post('${url}/large/' || n, jsonb_build_object('x', repeat('x', ${bodyBytes})), timeout_milliseconds := 60000)
  from generate_series(1, ${count}) n`;

/** Answers at once, but for `/large`: that waits until it is opened, whole. */
async function startGate(): Promise<{ url: string; seen: string[]; held: ServerResponse[]; open(): void }> {
  const seen: string[] = [];
  const held: ServerResponse[] = [];
  let isOpen = false;
  const server = createServer((request, response) => {
    request.resume().on('end', () => {
      seen.push(request.url ?? '');
      if (isOpen || !request.url?.startsWith('/large')) response.end();
      else held.push(response);
    });
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  closing.push(() => {
    server.closeAllConnections();
    return new Promise((resolve) => server.close(resolve));
  });
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    seen,
    held,
    open: () => {
      isOpen = true;
      for (const response of held.splice(0)) response.end();
    },
  };
}

async function openDatabase(): Promise<{ url: string; sql: pg.Client; answers: () => Promise<number> }> {
  const { url } = await installedDatabase(await startTestPostgres({ major: 18 }));
  const sql = await openSession(closing, url);
  const answers = async (): Promise<number> =>
    (await sql.query('select count(*)::int as n from net._http_response where status_code = 200')).rows[0].n;
  return { url, sql, answers };
}

function residentMb(pid: number | undefined): number {
  return Number(execFileSync('ps', ['-o', 'rss=', '-p', String(pid)], { encoding: 'utf8' })) / 1024;
}

test('sixty bodies of 8 MB to a server that does not answer leave the worker its memory, and small ones their way', async () => {
  const { url, sql, answers } = await openDatabase();
  const gate = await startGate();
  const worker = spawn(process.execPath, ['dist/cli/main.js', 'worker', '--database-url', url, '--allow', 'loopback'], {
    stdio: ['ignore', 'ignore', 'inherit'],
  });
  closing.push(() => {
    const exited = new Promise((resolve) => worker.once('exit', resolve));
    worker.kill('SIGKILL');
    return exited;
  });
  const small = `select net.http_get('${gate.url}/small/' || n) from generate_series(1, 200) n`;
  await sql.query(small);
  await until(async () => (await answers()) === 200, 'the worker to serve');
  const beforeMb = residentMb(worker.pid);
  let mostMb = 0;
  const measured = async (isSo: () => Promise<boolean> | boolean): Promise<boolean> => {
    mostMb = Math.max(mostMb, residentMb(worker.pid));
    return await isSo();
  };

  await sql.query(enqueueLarge(gate.url, 60));
  await until(() => measured(() => gate.held.length >= fitting), 'as many as there is room for', 30_000);
  await sql.query(small);
  await until(() => measured(async () => (await answers()) === 400), 'small ones beside them');
  // And large ones of another role.
  await sql.query('create role other_with_bodies; set role other_with_bodies');
  await sql.query(enqueueLarge(gate.url, 1).replace('/large/', '/quick/'));
  await sql.query('reset role; drop role other_with_bodies');
  await until(() => measured(async () => (await answers()) === 401), 'a large one of another role', 20_000);
  expect(gate.held).toHaveLength(fitting);
  gate.open();
  await until(() => measured(async () => (await answers()) === 461), 'all of them', 60_000);
  expect(new Set(gate.seen.filter((path) => path.startsWith('/large'))).size).toBe(60);
  expect(gate.seen).toHaveLength(461);
  expect(mostMb - beforeMb).toBeLessThan(250);
}, 120_000);

test('a lost connection, also in the middle of loading, is waited out: each is sent once', async () => {
  const { url, sql, answers } = await openDatabase();
  const gate = await startGate();
  const worker = createWorker({ connectionString: url, allow: ['loopback'] });
  closing.push(() => {
    gate.open();
    return worker.stop();
  });
  await worker.start();
  await sql.query(enqueueLarge(gate.url, 12));
  for (const heldCount of [1, fitting]) {
    await until(() => gate.held.length >= heldCount, 'some to be in flight', 20_000);
    await sql.query(
      `select pg_terminate_backend(pid) from pg_stat_activity where application_name like 'pg_net %' and datname = current_database()`,
    );
  }
  await until(() => gate.held.length === fitting, 'as many as there is room for', 20_000);
  gate.open();
  await until(async () => (await answers()) === 12, 'all of them', 20_000);
  expect(new Set(gate.seen).size).toBe(12);
  expect(gate.seen).toHaveLength(12);
});

test('one that is deleted while it waits says so, and leaves its turn to the next', async () => {
  const { url, sql, answers } = await openDatabase();
  const gate = await startGate();
  const worker = createWorker({ connectionString: url, allow: ['loopback'] });
  closing.push(() => {
    gate.open();
    return worker.stop();
  });
  await worker.start();
  await sql.query(enqueueLarge(gate.url, 12));
  await until(() => gate.held.length === fitting, 'as many as there is room for', 20_000);
  const waiting = `net.http_request_queue where url <> all ($1)`;
  const inFlight = [gate.seen.map((path) => gate.url + path)];
  const { rows } = await sql.query(`select min(id) as id from ${waiting}`, inFlight);
  await sql.query('delete from net.http_request_queue where id = $1', [rows[0].id]);
  gate.open();
  await until(async () => (await answers()) === 11, 'all others', 20_000);
  await until(async () => (await sql.query('select from net._http_response')).rowCount === 12, 'its row');
  const outcome = await sql.query('select error_code, error_msg from net._http_response where id = $1', [rows[0].id]);
  expect(outcome.rows).toEqual([
    { error_code: 'cancelled', error_msg: 'The request was deleted from the queue before it was sent' },
  ]);
});

test('a worker that stops gives back what waits for room, unsent', async () => {
  const { url, sql, answers } = await openDatabase();
  const gate = await startGate();
  closing.push(() => gate.open());
  const first = createWorker({ connectionString: url, allow: ['loopback'], stopTimeoutMs: 100 });
  await first.start();
  await sql.query(enqueueLarge(gate.url, 12));
  await until(() => gate.held.length === fitting, 'as many as there is room for', 20_000);
  await first.stop();
  const free = await sql.query('select from net.http_request_queue where claimed_by is null');
  expect(free.rowCount).toBe(12);
  gate.open();
  const second = createWorker({ connectionString: url, allow: ['loopback'] });
  closing.push(() => second.stop());
  await second.start();
  await until(async () => (await answers()) === 12, 'all of them', 20_000);
  // Those that were in flight are sent again; those that waited were not sent before.
  expect(gate.seen).toHaveLength(12 + fitting);
});

const row: UnloadedRow = {
  id: 1n,
  method: 'POST',
  url: 'http://x/',
  headersJson: '{}',
  body: undefined,
  bodyBytes: 100_000,
  timeoutMs: 1_000,
  loginRole: null,
  setRole: null,
  signWith: null,
  extras: undefined,
};

async function outcomeOf(request: UnloadedRow, query: () => Promise<never>): Promise<unknown> {
  const flights = new Flights({
    furnish: noSecrets.furnish,
    clock: Date.now,
    random: Math.random,
    send: () => Promise.reject(new Error('it was sent')),
  });
  flights.slots = { total: 1, perOrigin: 1 };
  flights.useSession({ query, execute: query } as Session);
  flights.take(request, 1n, unbound);
  await until(() => flights.hasLanded, 'its outcome');
  return flights.takeLanded(1, 1)[0]?.settlement;
}

test('one that is too large is refused without being read', async () => {
  const query = (): Promise<never> => Promise.reject(new Error('it was read'));
  expect(await outcomeOf({ ...row, bodyBytes: 268_435_457 }, query)).toMatchObject({
    errorCode: 'invalid_request',
    errorMessage: 'The request body is too large: 268435457 bytes, and at most 268435456 are sent',
  });
});

test('one that the database does not tell has a row that says so', async () => {
  const query = (): Promise<never> => Promise.reject(new PostgresError('invalid memory alloc request', '54000'));
  expect(await outcomeOf(row, query)).toMatchObject({
    errorCode: 'failed',
    errorMessage: 'The request body could not be read from the queue: SQLSTATE 54000',
  });
});
