import { spawnSync } from 'node:child_process';
import { chownSync, closeSync, existsSync, openSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import pg from 'pg';
import { expect, onTestFinished, test, vi } from 'vitest';
import { serverAccount } from '../../src/embedded/account.ts';
import { type EchoRequest, startEchoServer } from '../../src/embedded/echo.ts';
import { choosePort } from '../../src/embedded/ports.ts';
import { ended, spawnOwned, watch } from '../../src/embedded/processes.ts';
import { sqlForMigration } from '../../src/schema/scripts.ts';
import { createWorker } from '../../src/worker/create.ts';
import { temporaryDirectory, until } from '../support/servers.ts';

// The documentation's pg_cron example with the real pg_cron, as Debian packages it (postgresql-15-cron).

const bin = '/usr/lib/postgresql/15/bin';
const isInstalled =
  existsSync(join(bin, 'postgres')) && existsSync('/usr/share/postgresql/15/extension/pg_cron.control');
/** Set by .ci/run, which installs the package: there, its absence is a failure. */
const isRequired = (process.env['PGFETCH_REQUIRE_PG_CRON'] ?? '') !== '';

// pg_cron 1.4 starts a job when a minute begins: up to 60 s from now.
vi.setConfig({ testTimeout: 120_000 });

type Server = { readonly url: string; restart(): Promise<void> };

async function startServer(): Promise<Server> {
  const directory = temporaryDirectory('pg-cron');
  const account = serverAccount(undefined);
  if (account !== undefined) chownSync(directory, account.uid, account.gid);
  const data = join(directory, 'data');
  const logFile = join(directory, 'log');
  const initdb = spawnSync(
    join(bin, 'initdb'),
    ['-D', data, '-U', 'postgres', '-A', 'trust', '-E', 'UTF8', '--locale=C', '--no-sync'],
    { cwd: '/', encoding: 'utf8', ...(account === undefined ? {} : { uid: account.uid, gid: account.gid }) },
  );
  if (initdb.status !== 0) throw new Error(`initdb failed: ${initdb.error?.message ?? initdb.stderr}`);
  const port = await choosePort(0);
  const settings = {
    port: String(port),
    listen_addresses: '127.0.0.1',
    unix_socket_directories: '',
    fsync: 'off',
    shared_preload_libraries: 'pg_cron',
    'cron.host': '127.0.0.1',
  };
  const url = `postgres://postgres@127.0.0.1:${port}/postgres`;

  const launch = async (): Promise<{ stop(): Promise<void> }> => {
    const log = openSync(logFile, 'a');
    const server = spawnOwned(
      join(bin, 'postgres'),
      ['-D', data, ...Object.entries(settings).flatMap(([name, value]) => ['-c', `${name}=${value}`])],
      { account, stdio: ['ignore', log, log], stopSignal: 'SIGINT' },
    );
    closeSync(log);
    const gone = ended(server);
    const unwatch = watch(server.pid ?? 0, account);
    await until(
      async () => {
        if (server.exitCode !== null) throw new Error(`postgres ended: ${readFileSync(logFile, 'utf8')}`);
        const client = new pg.Client({ connectionString: url });
        await client.connect();
        await client.end();
        return true;
      },
      'the server accepts connections',
      30_000,
    );
    return {
      async stop() {
        server.kill('SIGINT');
        await gone;
        unwatch();
      },
    };
  };
  let running = await launch();
  onTestFinished(() => running.stop());
  return {
    url,
    async restart() {
      await running.stop();
      running = await launch();
    },
  };
}

async function query<R extends pg.QueryResultRow>(url: string, text: string): Promise<R[]> {
  const client = new pg.Client({ connectionString: url });
  await client.connect();
  try {
    return (await client.query<R>(text)).rows;
  } finally {
    await client.end();
  }
}

test('call an endpoint every minute with pg_cron', async ({ skip }) => {
  if (!isInstalled && isRequired) throw new Error('pg_cron is required here: apt-get install postgresql-15-cron');
  skip(!isInstalled, 'pg_cron is not installed: apt-get install postgresql-15-cron');
  const server = await startServer();
  const received: EchoRequest[] = [];
  const echo = await startEchoServer({ onRequest: (request) => received.push(request) });
  onTestFinished(() => echo.close());
  await query(server.url, 'CREATE EXTENSION pg_cron');
  await query(server.url, await sqlForMigration());
  const worker = createWorker({ connectionString: server.url, allow: ['loopback'] });
  onTestFinished(() => worker.stop());
  await worker.start();

  const documented = `
SELECT cron.schedule(
    'cron-job-name',
    '* * * * *', -- Executes every minute (cron syntax)
    $$
        -- SQL query
        SELECT "net"."http_post"(
          -- URL of Edge function
          url:='https://project-ref.supabase.co/functions/v1/function-name',
          headers:='{"Authorization": "Bearer <YOUR_ANON_KEY>"}'::jsonb,
          body:='{"name": "pg_net"}'::jsonb
        ) AS "request_id";
    $$
);
`;
  const block = documented.replace('https://project-ref.supabase.co', echo.url).replace('<YOUR_ANON_KEY>', 'anon-key');
  expect(await query(server.url, block)).toEqual([{ schedule: '1' }]);
  expect(await query(server.url, 'select jobname, schedule, active from cron.job')).toEqual([
    { jobname: 'cron-job-name', schedule: '* * * * *', active: true },
  ]);

  const isTheCall = (request: EchoRequest): void => {
    expect(request).toMatchObject({ method: 'POST', path: '/functions/v1/function-name' });
    expect(JSON.parse(Buffer.from(request.body).toString())).toEqual({ name: 'pg_net' });
    const headers = new Map(request.headers.map(([name, value]) => [name.toLowerCase(), value]));
    expect(headers.get('authorization')).toBe('Bearer anon-key');
    expect(headers.get('content-type')).toBe('application/json');
  };
  await until(
    async () => (await query(server.url, 'select from net._http_response where id = 1')).length === 1,
    'the first call has its response',
    75_000,
  );
  for (const request of received) isTheCall(request);
  expect(await query(server.url, 'select status_code, error_msg from net._http_response where id = 1')).toEqual([
    { status_code: 200, error_msg: null },
  ]);
  expect(await query(server.url, 'select status from cron.job_run_details order by runid limit 1')).toEqual([
    { status: 'succeeded' },
  ]);

  // pg_cron starts @reboot jobs with the server: the job again, without waiting for a minute, and a worker that reconnects.
  await query(server.url, `select cron.alter_job(1, schedule := '@reboot')`);
  const before = received.length;
  await server.restart();
  await until(() => received.length > before, 'the job has run after the restart', 30_000);
  for (const request of received) isTheCall(request);
});
