import dns from 'node:dns';
import { PGlite } from '@electric-sql/pglite';
import pg from 'pg';
import { afterEach, beforeEach, describe, expect, onTestFinished, test, vi } from 'vitest';
import {
  ConfigError,
  connectPg,
  createWorker,
  type EchoServer,
  install,
  startEchoServer,
  type Worker,
  type WorkerLog,
} from '../../src/index.ts';
import { openPglite } from '../../src/postgres/pglite.ts';
import { createDatabase, startTestPostgres } from '../support/servers.ts';

let echo: EchoServer;
const workers: Worker[] = [];

beforeEach(async () => {
  echo = await startEchoServer();
});

afterEach(async () => {
  await Promise.all(workers.splice(0).map((worker) => worker.stop()));
  await echo.close();
});

function make(options: Parameters<typeof createWorker>[0]): Worker {
  const worker = createWorker(options);
  workers.push(worker);
  return worker;
}

describe('on a server', () => {
  let database: Awaited<ReturnType<typeof createDatabase>>;
  let client: pg.Client;

  beforeEach(async () => {
    database = await createDatabase(await startTestPostgres({ major: 18 }));
    const db = await connectPg({ connectionString: database.url, applicationName: 'test', connectTimeoutMs: 10_000 });
    await install(db);
    await db.close();
    client = new pg.Client({ connectionString: database.url });
    await client.connect();
  });

  afterEach(async () => {
    await Promise.all(workers.splice(0).map((worker) => worker.stop()));
    await client.end();
    await database.drop();
  });

  test('start, drain, events and stop', async () => {
    const worker = make({
      connectionString: database.url,
      allow: ['loopback'],
      name: 'library test',
      userAgent: 'tester/1',
    });
    const recorded: bigint[] = [];
    const events: string[] = [];
    worker.on('ready', ({ database: name, listens }) => events.push(`ready ${name} ${listens}`));
    worker.on('recorded', (ids) => recorded.push(...ids));
    worker.on('stopped', () => events.push('stopped'));
    await worker.start();
    const { rows } = await client.query<{ id: string }>(
      'select net.http_get($1 || n) as id from generate_series(1, 5) n',
      [`${echo.url}/get?n=`],
    );
    await worker.drain();
    const responses = await client.query(
      "select id, status_code, content::jsonb #>> '{headers,User-Agent}' as agent from net._http_response order by id",
    );
    expect(responses.rows).toEqual(rows.map(({ id }) => ({ id, status_code: 200, agent: 'tester/1' })));
    expect(recorded.map(String).sort()).toEqual(rows.map(({ id }) => id).sort());
    const session = await client.query(
      "select application_name from pg_stat_activity where application_name like 'pg_net%' and datname = current_database()",
    );
    expect(session.rows[0]).toMatchObject({ application_name: expect.stringMatching(/^pg_net \d+\.\d+\.\d+$/) });
    expect((await client.query('select name from net.worker')).rows).toEqual([{ name: 'library test' }]);
    await worker.stop();
    await worker.stop();
    expect(events).toEqual([`ready ${database.name} true`, 'stopped']);
    expect((await client.query('select from net.worker')).rows).toEqual([]);
  });

  test('bounds what is kept of a body, and denies what the policy denies', async () => {
    const worker = make({
      connectionString: database.url,
      allow: ['127.0.0.0/8'],
      deny: ['127.0.0.2'],
    });
    await client.query(`alter database ${database.name} set pg_net.max_response_bytes = '1kB'`);
    await worker.start();
    await client.query('select net.http_get($1)', [`${echo.url}/bytes/5000`]);
    await client.query('select net.http_get($1)', [`http://127.0.0.2:${echo.port}/get`]);
    await worker.drain();
    const { rows } = await client.query(
      'select octet_length(content_bytes) as bytes, truncated, error_code from net._http_response order by id',
    );
    expect(rows).toEqual([
      { bytes: 1024, truncated: true, error_code: null },
      { bytes: null, truncated: null, error_code: 'denied' },
    ]);
  });

  test('asks getaddrinfo for the addresses of names if it is told to', async () => {
    const ask = vi.spyOn(dns.promises, 'lookup').mockImplementation(
      // What `all: true` makes of it is not the overload that the type of a spy sees.
      (async () => [{ address: '127.0.0.1', family: 4 }]) as never,
    );
    onTestFinished(() => ask.mockRestore());
    const worker = make({ connectionString: database.url, allow: ['loopback'], resolver: 'system' });
    await worker.start();
    ask.mockClear();
    await client.query('select net.http_get($1)', [`http://name.example:${echo.port}/get`]);
    await worker.drain();
    expect((await client.query('select status_code from net._http_response')).rows).toEqual([{ status_code: 200 }]);
    expect(ask.mock.calls.map(([name]) => name)).toEqual(['name.example']);
  });

  test('goes through a proxy where it is told one', async () => {
    // The echo server answers a request in a proxy's form as any other.
    const worker = make({ connectionString: database.url, proxy: { http: echo.url, noProxy: 'localhost' } });
    await worker.start();
    await client.query(`select net.http_get('http://target.example/get')`);
    await worker.drain();
    const { rows } = await client.query(
      "select status_code, content::jsonb #>> '{headers,Host}' as host from net._http_response",
    );
    expect(rows).toEqual([{ status_code: 200, host: 'target.example' }]);
  });

  test('a problem is an event and a line of the log, and the worker serves when it is solved', async () => {
    await client.query('drop schema net cascade');
    const lines: string[] = [];
    const line = (_fields: object, message: string): void => void lines.push(message);
    const log: WorkerLog = { info: line, warn: line, error: line };
    const worker = make({ connectionString: database.url, log });
    const problem = new Promise<Error>((resolve) => worker.once('problem', resolve));
    const ready = worker.start();
    expect((await problem).message).toMatch(/not installed/);
    const db = await connectPg({ connectionString: database.url, applicationName: 'test', connectTimeoutMs: 10_000 });
    await install(db);
    await db.close();
    await ready;
    expect(lines.filter((text) => /not installed/.test(text))).toHaveLength(1);
    expect(lines).toContain('serving');
  });
});

describe('on a PGlite instance in the same process', () => {
  test('serves it, and stops by itself when it is closed', async () => {
    const db = await PGlite.create();
    await install(openPglite(db, { applicationName: 'test' }));
    const worker = make({ pglite: db, allow: ['loopback'] });
    await worker.start();
    const { rows } = await db.query<{ id: number }>(`select net.http_get($1) as id`, [`${echo.url}/get`]);
    await worker.drain();
    const responses = await db.query<{ id: number; status_code: number }>(
      'select id, status_code from net._http_response',
    );
    expect(responses.rows).toEqual([{ id: rows[0]?.id, status_code: 200 }]);
    const stopped = new Promise<void>((resolve) => worker.once('stopped', () => resolve()));
    await db.close();
    await stopped;
  });
});

describe('options', () => {
  test('that make no sense are all listed, without secrets', () => {
    const wrong = {
      connectionString: 'host=db password=tops3cret',
      leasMs: 1,
      leaseMs: 5,
      stopTimeoutMs: 1.5,
      allow: ['loopback', 'not a host'],
      userAgent: 'line\nbreak',
      prepare: 'yes',
    };
    const error = thrownBy(() => createWorker(wrong as never));
    expect(error).toBeInstanceOf(ConfigError);
    const { problems, message } = error as ConfigError;
    expect(problems).toHaveLength(7);
    expect(message).toMatch(/"leasMs"; did you mean "leaseMs"\?/);
    expect(message).toMatch(/leaseMs must be a whole number of milliseconds from 1000 to 3600000 \(default 15000\)/);
    expect(message).toMatch(/allow\[1\] must be a CIDR block/);
    expect(message).not.toContain('tops3cret');
  });

  test('of a proxy that make no sense are named, without its password', () => {
    const problemsOf = (proxy: unknown) => (thrownBy(() => createWorker({ proxy } as never)) as ConfigError).problems;
    const problems = problemsOf({ http: 'socks5://u:tops3cret@h', https: 'http://u:tops3cret#@h', noProxy: ['x'] });
    expect(problems).toEqual([
      expect.stringMatching(/^proxy\.http is a SOCKS proxy/),
      expect.stringMatching(/^proxy\.https must look like .* percent-encoded/),
      'proxy.noProxy must be a text',
    ]);
    expect(problems.join()).not.toContain('tops3cret');
    expect(problemsOf('http://proxy.example')).toEqual(['proxy must be an object with http, https or noProxy']);
    expect(problemsOf({ htp: 'x' })).toEqual(['proxy.htp does not exist; there are http, https and noProxy']);
    expect(() => createWorker({ proxy: { http: '', https: undefined, noProxy: '' } })).not.toThrow();
  });

  test('a PGlite and a connection string exclude each other', async () => {
    const error = thrownBy(() => createWorker({ pglite: {} as never, connectionString: 'postgres://localhost/x' }));
    expect(error).toBeInstanceOf(ConfigError);
  });

  test.each([
    '',
    'postgres://localhost/app',
    'postgresql:///app',
    'postgres://u@/app?host=/tmp',
    '/run/postgresql app',
  ])('the connection string %j is taken', (connectionString) => {
    expect(() => createWorker({ connectionString })).not.toThrow();
  });
});

function thrownBy(act: () => unknown): unknown {
  try {
    act();
  } catch (error) {
    return error;
  }
  return undefined;
}
