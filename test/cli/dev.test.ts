import { writeFileSync } from 'node:fs';
import { createServer, type Server } from 'node:net';
import { join } from 'node:path';
import pg from 'pg';
import { afterEach, expect, test } from 'vitest';
import { processIsPostgres } from '../../src/embedded/processes.ts';
import { temporaryDirectory, until } from '../support/servers.ts';
import { calledBack } from './called-back.ts';
import { type Running, runCli, startCli } from './cli.ts';

const anyPorts = ['--port', '0', '--echo-port', '0'];
const listeners: Server[] = [];
const clients: pg.Client[] = [];

afterEach(async () => {
  await Promise.all(clients.splice(0).map((client) => client.end().catch(() => {})));
  await Promise.all(listeners.splice(0).map((server) => new Promise((resolve) => server.close(resolve))));
});

async function connect(connectionString: string): Promise<pg.Client> {
  const client = new pg.Client({ connectionString });
  client.on('error', () => {});
  await client.connect();
  clients.push(client);
  return client;
}

async function takenPort(): Promise<number> {
  const server = createServer();
  listeners.push(server);
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const address = server.address();
  return typeof address === 'object' && address !== null ? address.port : 0;
}

async function started(running: Running): Promise<{ database: string; echo: string }> {
  const [, database = ''] = await running.output(/Database {2}(\S+)/);
  const [, echo = ''] = await running.output(/Echo {6}(\S+)/);
  await running.output(/Ctrl-C stops everything/);
  return { database, echo };
}

async function postmaster(client: pg.Client): Promise<number> {
  const { rows } = await client.query<{ path: string }>("select current_setting('data_directory') as path");
  const { rows: lines } = await client.query<{ line: string }>(
    "select split_part(pg_read_file('postmaster.pid'), E'\\n', 1) as line",
  );
  expect(rows[0]?.path).toBeTruthy();
  return Number(lines[0]?.line);
}

test('dev performs a first request, tells a second start, keeps the data, and leaves nothing running', async () => {
  const cwd = temporaryDirectory('dev');
  // A proxy could not reach this machine's servers, and is not asked for them.
  const env = { http_proxy: 'http://127.0.0.1:1' };
  const first = await startCli(['dev', '--first-request', ...anyPorts], { cwd, env });
  const { database, echo } = await started(first);
  expect(first.stdout()).toMatch(/select net\.http_get\('http:\/\/localhost:\d+\/get\?hello=world'\);\s+→ 1\s/);
  expect(first.stdout()).toMatch(/status_code +200/);
  expect(first.stdout()).toMatch(/content +\{"args":\{"hello":"world"\}/);
  expect(first.stdout()).toContain('.pgfetch');

  const client = await connect(database);
  const { rows } = await client.query<{ id: bigint }>('select net.http_post($1, \'{"a": 1}\'::jsonb) as id', [
    `${echo}/post`,
  ]);
  const answer = await until(
    async () =>
      (
        await client.query("select content::jsonb -> 'json' as json from net._http_response where id = $1", [
          rows[0]?.id,
        ])
      ).rows[0],
    'the response is there',
  );
  expect(answer).toEqual({ json: { a: 1 } });
  expect((await client.query("select name from pg_settings where name = 'pg_net.ttl'")).rows).toHaveLength(1);
  expect((await client.query("select extname from pg_extension where extname = 'pg_net'")).rows).toHaveLength(1);
  await client.query('create table kept as select 1 as value');
  await calledBack(client, echo);

  const second = await runCli(['dev', ...anyPorts], { cwd });
  expect(second).toMatchObject({ status: 0, stderr: '' });
  expect(second.stdout).toMatch(/Already running in \.pgfetch/);
  expect(second.stdout).toContain(database);
  expect(second.stdout).toContain(`Echo      ${echo}`);

  const pid = await postmaster(client);
  expect(processIsPostgres(pid)).toBe(true);
  first.signal('SIGINT');
  expect(await first.ended).toMatchObject({ status: 0, stderr: '' });
  expect(processIsPostgres(pid)).toBe(false);
  await expect(fetch(`${echo}/get`)).rejects.toThrow();

  const again = await startCli(['dev', ...anyPorts], { cwd });
  const restarted = await started(again);
  expect(again.stdout()).toMatch(/psql 'postgres:\/\/[\s\S]*select net\.http_get/);
  const reader = await connect(restarted.database);
  expect((await reader.query('select value from kept')).rows).toEqual([{ value: 1 }]);
  again.signal('SIGTERM');
  expect((await again.ended).status).toBe(0);
}, 60_000);

test('dev ends, and says why, when its server ends by itself', async () => {
  const cwd = temporaryDirectory('dev-crash');
  const running = await startCli(['dev', ...anyPorts], { cwd });
  const { database, echo } = await started(running);
  const client = await connect(database);
  process.kill(await postmaster(client), 'SIGINT');
  const { status, stderr } = await running.ended;
  expect(status).toBe(1);
  expect(stderr).toMatch(/server has ended by itself; its log: \.pgfetch.*\/postgres-18\.log$/m);
  await expect(fetch(`${echo}/get`)).rejects.toThrow();
});

test('ports that are taken are named with the option that chooses another, and nothing stays behind', async () => {
  const cwd = temporaryDirectory('dev-ports');
  const port = String(await takenPort());
  const database = await runCli(['dev', '--port', port, '--echo-port', '0'], { cwd });
  expect(database).toMatchObject({ status: 1, stdout: '' });
  expect(database.stderr).toMatch(
    new RegExp(`Port ${port} on 127\\.0\\.0\\.1 is taken.*choose another port with --port`),
  );
  const echo = await runCli(['dev', '--port', '0', '--echo-port', port], { cwd });
  expect(echo).toMatchObject({ status: 1, stdout: '' });
  expect(echo.stderr).toMatch(
    new RegExp(`Port ${port} on 127\\.0\\.0\\.1 is taken.*choose another port with --echo-port`),
  );
  // A server left behind would be found by this one.
  const running = await startCli(['dev', ...anyPorts], { cwd });
  await started(running);
  running.signal('SIGINT');
  expect((await running.ended).status).toBe(0);
}, 60_000);

test('a directory that is none is a clear error', async () => {
  const file = join(temporaryDirectory('dev-file'), 'file');
  writeFileSync(file, '');
  for (const engine of ['postgres', 'pglite']) {
    const { status, stdout, stderr } = await runCli(['dev', '--engine', engine, '--directory', file, ...anyPorts]);
    expect({ status, stdout }).toEqual({ status: 1, stdout: '' });
    expect(stderr).toContain(file);
    expect(stderr).not.toMatch(/^\s+at |unexpected failure/m);
  }
});
