import { createServer } from 'node:net';
import pg from 'pg';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { type EchoServer, startEchoServer } from '../../src/embedded/echo.ts';
import { createDatabase, startTestPostgres, until } from '../support/servers.ts';
import { runCli, startCli } from './cli.ts';

let database: Awaited<ReturnType<typeof createDatabase>>;
let client: pg.Client;
let echo: EchoServer;
let received: string[];
let arrived: () => void;

beforeEach(async () => {
  database = await createDatabase(await startTestPostgres({ major: 18 }));
  client = new pg.Client({ connectionString: database.url });
  await client.connect();
  received = [];
  arrived = () => {};
  echo = await startEchoServer({
    onRequest: ({ path }) => {
      received.push(path);
      arrived();
    },
  });
  await runCli(['install', '-d', database.url]);
});

afterEach(async () => {
  await client.end();
  await echo.close();
  await database.drop();
});

const worker = (...given: string[]): ReturnType<typeof startCli> => workerIn({}, ...given);

const workerIn = (env: Readonly<Record<string, string>>, ...given: string[]): ReturnType<typeof startCli> =>
  startCli(['worker', '--allow', 'loopback', ...given], { env: { DATABASE_URL: database.url, ...env } });

async function get(path: string): Promise<bigint> {
  const { rows } = await client.query<{ id: bigint }>('select net.http_get($1, timeout_milliseconds => 20000) as id', [
    `${echo.url}${path}`,
  ]);
  return rows[0]?.id ?? 0n;
}

const count = async (what: string): Promise<number> =>
  (await client.query<{ n: number }>(`select count(*)::int as n from ${what}`)).rows[0]?.n ?? -1;

test('serves, and on SIGTERM finishes what is in flight before it ends', async () => {
  const running = await worker('--log-format', 'json');
  await running.output(/"msg":"serving"/);
  const inFlight = new Promise<void>((resolve) => {
    arrived = resolve;
  });
  const id = await get('/delay/0.5');
  await inFlight;
  running.signal('SIGTERM');
  const { status, stdout, stderr } = await running.ended;
  expect({ status, stdout }).toEqual({ status: 0, stdout: '' });
  expect((await client.query('select id, status_code from net._http_response')).rows).toEqual([
    { id, status_code: 200 },
  ]);
  expect(await count('net.http_request_queue')).toBe(0);
  expect(await count('net.worker')).toBe(0);
  const lines = stderr
    .trimEnd()
    .split('\n')
    .map((line) => JSON.parse(line) as { level: string; time: string; msg: string });
  for (const line of lines) expect(line).toMatchObject({ level: 'info', time: expect.stringMatching(/^\d{4}-.*Z$/) });
  expect(lines.map(({ msg }) => msg)).toContain('SIGTERM: stopping');
});

test('gives back what is not finished within --stop-timeout', async () => {
  const running = await worker('--stop-timeout', '0');
  await running.output(/serving/);
  const inFlight = new Promise<void>((resolve) => {
    arrived = resolve;
  });
  await get('/delay/10');
  await inFlight;
  running.signal('SIGINT');
  expect((await running.ended).status).toBe(0);
  expect(await count('net.http_request_queue where claimed_by is null and due_at is not null')).toBe(1);
});

test('a second signal ends it at once', async () => {
  const running = await worker('--log-format', 'pretty');
  await running.output(/^\d\d:\d\d:\d\d\.\d{3} info {2}serving /m);
  const inFlight = new Promise<void>((resolve) => {
    arrived = resolve;
  });
  await get('/delay/10');
  await inFlight;
  running.signal('SIGTERM');
  await running.output(/SIGTERM: stopping/);
  running.signal('SIGTERM');
  expect((await running.ended).status).toBe(143);
});

test.each([
  ['this machine, unless it is allowed', []],
  ['a host that is not the only one', ['--allow', 'loopback', '--only', 'api.example.com', '--only', '127.0.0.2']],
  ['a port that is not one of these', ['--allow', 'loopback', '--ports', '443,8000-8009']],
  ['a scheme that is not one of these', ['--allow', 'loopback', '--schemes', 'https']],
])('denies %s', async (_what, given) => {
  const running = await startCli(['worker', '-d', database.url, ...given]);
  await running.output(/serving/);
  const id = await get('/get');
  const row = await until(
    async () => (await client.query('select error_code from net._http_response where id = $1', [id])).rows[0],
    'the response is there',
  );
  expect(row).toEqual({ error_code: 'denied' });
  expect(received).toEqual([]);
});

test('goes through the proxy that the environment names, and says so without its password', async () => {
  // The echo server answers a request in a proxy's form as any other.
  const http_proxy = echo.url.replace('//', '//user:tops3cret@');
  const env = { http_proxy, https_proxy: '', HTTP_PROXY: 'nonsense', no_proxy: 'direct.example, localhost' };
  const running = await workerIn(env, '--log-format', 'json');
  await running.output(/"msg":"serving"/);
  await client.query(`select net.http_get('http://target.example/proxied')`);
  await client.query('select net.http_get($1)', [`http://localhost:${echo.port}/direct`]);
  await until(async () => (await count('net._http_response')) === 2, 'both are recorded');
  const { rows } = await client.query(
    `select status_code, content::jsonb ->> 'path' as path, content::jsonb -> 'headers' ->> 'Host' as host,
       content::jsonb -> 'headers' ->> 'Proxy-Authorization' as credentials
     from net._http_response order by id`,
  );
  const credentials = `Basic ${Buffer.from('user:tops3cret').toString('base64')}`;
  expect(rows).toEqual([
    { status_code: 200, path: '/proxied', host: 'target.example', credentials },
    { status_code: 200, path: '/direct', host: `localhost:${echo.port}`, credentials: null },
  ]);
  running.signal('SIGTERM');
  const { stderr } = await running.ended;
  expect(stderr).toMatch(/requests go through a proxy/);
  expect(stderr).toContain(`"http":"${echo.url.replace(/\/$/, '')}"`);
  expect(stderr).not.toContain('tops3cret');
});

test('says nothing of proxies where the environment exempts every host from them', async () => {
  const running = await workerIn({ http_proxy: 'http://127.0.0.1:1', NO_PROXY: '*' });
  await running.output(/serving/);
  await client.query('select net.http_get($1)', [`${echo.url}/direct`]);
  await until(async () => (await count('net._http_response where status_code = 200')) === 1, 'it is recorded');
  running.signal('SIGTERM');
  expect((await running.ended).stderr).not.toMatch(/proxy/);
});

test('says once that the database is unreachable, keeps trying, and still stops', async () => {
  let attempts = 0;
  // What a server says while it recovers: https://www.postgresql.org/docs/current/protocol-message-formats.html, ErrorResponse.
  const fields = Buffer.from('SFATAL\0C57P03\0Mthe database system is starting up\0\0');
  const length = Buffer.alloc(4);
  length.writeInt32BE(4 + fields.length);
  const listener = createServer((socket) => {
    attempts += 1;
    socket.on('error', () => {}).once('data', () => socket.end(Buffer.concat([Buffer.from('E'), length, fields])));
  });
  await new Promise<void>((resolve) => listener.listen(0, '127.0.0.1', resolve));
  const address = listener.address();
  const port = typeof address === 'object' && address !== null ? address.port : 0;
  const running = await startCli([
    'worker',
    '-d',
    `postgres://app:tops3cret@127.0.0.1:${port}/app`,
    '--log-format',
    'json',
  ]);
  await until(() => attempts >= 4, 'it has tried four times');
  running.signal('SIGTERM');
  const { status, stderr } = await running.ended;
  expect(status).toBe(0);
  expect(stderr.match(/"level":"error"/g)).toHaveLength(1);
  expect(stderr).toContain(`cannot connect to app@127.0.0.1:${port}/app: the database system is starting up`);
  expect(stderr).not.toContain('tops3cret');
  await new Promise((resolve) => listener.close(resolve));
});

test('waits for the schema, and serves when it is there', async () => {
  expect((await runCli(['uninstall', '-d', database.url])).status).toBe(0);
  const running = await worker();
  await running.output(/not installed.*pgfetch install/);
  await runCli(['install', '-d', database.url]);
  await running.output(/serving/);
  const id = await get('/get');
  await until(
    () => count(`net._http_response where id = ${id} and status_code = 200`).then((n) => n === 1),
    'the response is there',
  );
});

test('echo answers, and says what it was sent', async () => {
  const running = await startCli(['echo', '--port', '0']);
  const [, url = ''] = await running.output(/Echo server: (http:\/\/127\.0\.0\.1:\d+)/);
  const response = await fetch(`${url}/post?token=tops3cret`, { method: 'POST', body: 'hello' });
  expect(await response.json()).toMatchObject({ data: 'hello', method: 'POST' });
  await running.output(/POST \/post\?token=…/);
  running.signal('SIGTERM');
  expect((await running.ended).status).toBe(0);
});

test('echo says that its port is taken, and what to do', async () => {
  const { status, stderr } = await runCli(['echo', '--port', String(echo.port)]);
  expect(status).toBe(1);
  expect(stderr).toMatch(new RegExp(`Port ${echo.port} on 127.0.0.1 is taken.*another port with --port`));
});

test('serves several databases; one that is down disturbs none of the others', async () => {
  const second = await createDatabase(await startTestPostgres({ major: 18 }));
  const sql = new pg.Client({ connectionString: second.url });
  await sql.connect();
  try {
    await runCli(['install', '-d', second.url]);
    const gone = 'postgres://postgres@127.0.0.1:1/gone';
    const running = await worker('-d', database.url, '-d', gone, '-d', second.url, '--log-format', 'json');
    await running.output(new RegExp(`"database":"${second.name}".*"msg":"serving"`));
    await running.output(/127\.0\.0\.1:1/);
    await get('/first');
    await sql.query('select net.http_get($1)', [`${echo.url}/second`]);
    await until(() => received.includes('/first') && received.includes('/second'), 'a request of each database');
    running.signal('SIGTERM');
    expect(await running.ended).toMatchObject({ status: 0 });
    expect((await sql.query('select * from net.worker')).rows).toEqual([]);
  } finally {
    await sql.end();
    await second.drop();
  }
});

test('a database that is given twice is served once, and every line names it', async () => {
  const running = await worker('-d', database.url, '-d', `${database.url}?application_name=x`, '--log-format', 'json');
  await running.output(/"msg":"serving"/);
  running.signal('SIGTERM');
  const { status, stderr } = await running.ended;
  expect(status).toBe(0);
  expect(stderr).toMatch(/"level":"warn".*given more than once; it is served once/);
  expect(stderr.match(/"msg":"serving"/g)).toHaveLength(1);
  expect(stderr).toMatch(new RegExp(`"database":"${database.name}".*"msg":"stopped"`));
});

test('--all-databases serves every database of the server, and looks again on SIGHUP', async () => {
  const { connectionString } = await startTestPostgres({ major: 18 });
  const later = await createDatabase(await startTestPostgres({ major: 18 }));
  try {
    const running = await worker('--all-databases', '-d', connectionString, '--log-format', 'json');
    await running.output(new RegExp(`"database":"${database.name}".*"msg":"serving"`));
    await running.output(/"msg":"found 1 to serve"/);
    await runCli(['install', '-d', later.url]);
    running.signal('SIGHUP');
    await running.output(new RegExp(`"database":"${later.name}".*"msg":"serving"`));
    await get('/get');
    await until(() => received.length === 1, 'the request arrives');
    running.signal('SIGTERM');
    const { status, stdout, stderr } = await running.ended;
    expect({ status, stdout }).toEqual({ status: 0, stdout: '' });
    for (const { name } of [database, later]) {
      expect(stderr).toMatch(new RegExp(`"database":"${name}".*"msg":"stopped"`));
    }
    expect(await count('net.worker')).toBe(0);
  } finally {
    await later.drop();
  }
});

test('--all-databases says that there is nothing to serve yet; --rescan goes with it alone', async () => {
  await runCli(['uninstall', '-d', database.url]);
  const running = await worker('--all-databases', '--rescan', '1', '--log-format', 'json');
  await running.output(/installed in no database/);
  await runCli(['install', '-d', database.url]);
  await running.output(/"msg":"serving"/);
  running.signal('SIGTERM');
  expect((await running.ended).status).toBe(0);
  const refused = await runCli(['worker', '-d', database.url, '--rescan', '5']);
  expect(refused).toMatchObject({ status: 2, stderr: expect.stringMatching(/--rescan goes with --all-databases/) });
});

test('only the worker takes several databases', async () => {
  const { status, stderr } = await runCli(['status', '-d', database.url, '-d', database.url]);
  expect({ status, stderr }).toEqual({ status: 2, stderr: expect.stringMatching(/given more than once/) });
});
