import pg from 'pg';
import { describe, expect, test } from 'vitest';
import { ConfigError } from '../../src/config/worker-config.ts';
import type { EchoServer } from '../../src/embedded/echo.ts';
import { connectPg } from '../../src/postgres/pg.ts';
import { installScript } from '../../src/schema/scripts.ts';
import { type CreateFleetOptions, createFleet } from '../../src/worker/create-fleet.ts';
import type { Fleet } from '../../src/worker/fleet.ts';
import { installedDatabase } from '../support/installed.ts';
import { closedAfterEach, openReceiver, openSession } from '../support/opened.ts';
import { createDatabase, newestMajors, startTestPostgres, type TestServer, until } from '../support/servers.ts';

/** Every database of a server by one process. Each test begins and ends with a server that has only its own databases. */
describe.each(newestMajors())('on PostgreSQL %i', (major) => {
  const closing = closedAfterEach();

  const server = (): Promise<TestServer> => startTestPostgres({ major });

  const session = (url: string): Promise<pg.Client> => openSession(closing, url);

  async function installed(): Promise<{ url: string; name: string; drop(): Promise<void> }> {
    const database = await installedDatabase(await server());
    closing.push(() => database.drop());
    return database;
  }

  async function bare(): Promise<{ url: string; name: string; drop(): Promise<void> }> {
    const database = await createDatabase(await server());
    closing.push(() => database.drop());
    return database;
  }

  async function install(url: string): Promise<void> {
    const db = await connectPg({ connectionString: url, applicationName: 'fleet test', connectTimeoutMs: 10_000 });
    await db.execute(await installScript({}));
    await db.close();
  }

  const receiver = (): Promise<EchoServer & { readonly seen: string[] }> => openReceiver(closing);

  type Line = { readonly level: string; readonly message: string; readonly database?: string };

  async function serving(
    options: Partial<CreateFleetOptions> = {},
  ): Promise<{ fleet: Fleet; log: Line[]; ready: string[] }> {
    const log: Line[] = [];
    const ready: string[] = [];
    const line =
      (level: string) =>
      (fields: object, message: string): void => {
        log.push({ level, message, ...fields });
      };
    const { connectionString } = await server();
    const fleet = createFleet({
      connectionStrings: [connectionString],
      allow: ['loopback'],
      log: { info: line('info'), warn: line('warn'), error: line('error') },
      ...options,
    });
    fleet.on('ready', ({ database }) => ready.push(database));
    closing.push(() => fleet.stop());
    await fleet.start();
    return { fleet, log, ready };
  }

  const served = (fleet: Fleet): string[] => fleet.databases.map(({ database }) => database);

  /** By database: the server processes of the sessions that are neither ours nor the server's. */
  async function workerSessions(sql: pg.Client): Promise<Record<string, number>> {
    const { rows } = await sql.query<{ datname: string; pid: number }>(
      `select datname, pid from pg_stat_activity where application_name like 'pg\\_net %' order by datname`,
    );
    return Object.fromEntries(rows.map(({ datname, pid }) => [datname, pid]));
  }

  async function get(url: string, target: string): Promise<void> {
    const client = new pg.Client(url);
    await client.connect();
    await client.query('select net.http_get($1)', [target]);
    await client.end();
  }

  test('serves each database with the schema, and stays connected to no other', async () => {
    const [one, two, other] = [await installed(), await installed(), await bare()];
    const echo = await receiver();
    const { fleet, ready } = await serving();
    await until(() => ready.length === 2, 'both to be served');
    expect(served(fleet)).toEqual([one.name, two.name].sort());
    for (const { url, name } of [one, two]) await get(url, `${echo.url}/${name}`);
    await until(() => echo.seen.length === 2, 'a request of each');
    expect(echo.seen.sort()).toEqual([`/${one.name}`, `/${two.name}`].sort());
    const sql = await session((await server()).connectionString);
    await until(
      async () => Object.keys(await workerSessions(sql)).join() === served(fleet).join(),
      `nobody to be left in ${other.name} and postgres`,
    );
    await fleet.stop();
    expect(await workerSessions(sql)).toEqual({});
    expect((await (await session(one.url)).query('select from net.worker')).rows).toHaveLength(0);
  });

  test('sends the requests of each database by its own settings', async () => {
    const [small, large] = [await installed(), await installed()];
    const echo = await receiver();
    const sql = await session((await server()).connectionString);
    await sql.query(`alter database ${small.name} set pg_net.max_response_bytes = '2kB'`);
    const { ready } = await serving();
    await until(() => ready.length === 2, 'both to be served');
    for (const { url, name } of [small, large]) {
      await get(url, `${echo.url}/bytes/5000`);
      const reader = await session(url);
      const answer = async (): Promise<unknown> =>
        (await reader.query('select octet_length(content_bytes) as bytes, truncated from net._http_response')).rows[0];
      await until(answer, 'a response');
      const isSmall = name === small.name;
      expect(await answer()).toEqual({ bytes: isSmall ? 2_048 : 5_000, truncated: isSmall });
    }
  });

  test('finds a database that came later, and an installation that was made later', async () => {
    const first = await installed();
    const later = await bare();
    const { fleet, ready } = await serving();
    await until(() => ready.length === 1, 'the first to be served');
    await install(later.url);
    const newest = await installed();
    await fleet.rescan();
    await until(() => ready.length === 3, 'all of them to be served');
    expect(served(fleet)).toEqual([first.name, later.name, newest.name].sort());
  });

  test('net.worker_restart() in one database makes it look for others', async () => {
    const first = await installed();
    const { ready } = await serving();
    await until(() => ready.length === 1, 'the first to be served');
    const later = await installed();
    await (await session(first.url)).query('select net.worker_restart()');
    await until(() => ready.includes(later.name), 'the other to be found', 20_000);
  });

  test('looks again by itself', async () => {
    await installed();
    const { ready } = await serving({ rescanEveryMs: 1_000 });
    const later = await installed();
    await until(() => ready.includes(later.name), 'the new one to be found');
  });

  test('a database that is dropped is let go of, and the others are not disturbed', async () => {
    const [kept, dropped] = [await installed(), await installed()];
    const { fleet, ready, log } = await serving();
    await until(() => ready.length === 2, 'both to be served');
    const sql = await session((await server()).connectionString);
    const before = await until(async () => {
      const sessions = await workerSessions(sql);
      return Object.keys(sessions).length === 2 && sessions;
    }, 'only the workers to be connected');
    const left = new Promise((resolve) => fleet.once('left', resolve));
    await dropped.drop();
    // Nobody calls rescan(): the worker finds that its database is gone.
    await until(() => served(fleet).length === 1, 'it to be let go of', 20_000);
    expect(await left).toMatchObject({ database: dropped.name });
    expect(log).toContainEqual({ level: 'info', database: dropped.name, message: 'stopped' });
    await until(async () => {
      const sessions = await workerSessions(sql);
      return Object.keys(sessions).length === 1 && sessions[kept.name] === before[kept.name];
    }, 'the same session as before, and no other');
  });

  test('where the schema goes, the worker goes; where it comes back, it does', async () => {
    const database = await installed();
    const { fleet, ready } = await serving();
    await until(() => ready.length === 1, 'it to be served');
    const sql = await session(database.url);
    await sql.query('drop schema net cascade');
    // An idle worker hears nothing of that.
    const left = new Promise((resolve) => fleet.once('left', resolve));
    await fleet.rescan();
    await left;
    expect(served(fleet)).toEqual([]);
    expect(await workerSessions(sql)).toEqual({});
    await install(database.url);
    await fleet.rescan();
    await until(() => ready.length === 2, 'it to be served again');
  });

  test('one that is denied, closed or a copy is said once, and disturbs none of the others', async () => {
    const [fine, denied, closed, copy] = [await installed(), await installed(), await installed(), await installed()];
    const { connectionString } = await server();
    const admin = await session(connectionString);
    await admin.query(`create role fleet_${fine.name} login`);
    closing.push(() => admin.query(`drop role fleet_${fine.name}`));
    await admin.query(`grant net_worker to fleet_${fine.name}`);
    await admin.query(`revoke connect on database ${denied.name} from public`);
    await admin.query(`alter database ${closed.name} allow_connections false`);
    const inCopy = await session(copy.url);
    await inCopy.query('update net.installation set database_oid = 1');
    await inCopy.end();
    const { fleet, ready, log } = await serving({
      connectionStrings: [connectionString.replace('postgres@', `fleet_${fine.name}@`)],
    });
    await until(() => ready.length === 1, 'the sound one to be served');
    await fleet.rescan();
    expect(served(fleet)).toEqual([fine.name]);
    const unserved = log.filter(({ message }) => message.startsWith('not served'));
    expect(unserved).toEqual([
      { level: 'warn', database: copy.name, message: expect.stringMatching(/is a copy.*pgfetch adopt/s) },
    ]);
    await admin.query(`grant connect on database ${denied.name} to public`);
    await admin.query(`alter database ${closed.name} allow_connections true`);
    await fleet.rescan();
    await until(() => ready.length === 3, 'those that are open now to be served');
  });

  test('a role without rights in one database serves the others', async () => {
    const [fine, closed] = [await installed(), await installed()];
    const { connectionString } = await server();
    const admin = await session(connectionString);
    await admin.query(`create role fleet_${fine.name} login`);
    closing.push(() => admin.query(`drop role fleet_${fine.name}`));
    await admin.query(`grant net_worker to fleet_${fine.name}`);
    const inClosed = await session(closed.url);
    await inClosed.query('revoke all on net.http_request_queue from net_worker');
    await inClosed.end();
    const { fleet, ready, log } = await serving({
      connectionStrings: [connectionString.replace('postgres@', `fleet_${fine.name}@`)],
    });
    await until(() => ready.length === 1, 'the sound one to be served');
    expect(served(fleet)).toEqual([fine.name]);
    expect(log).toContainEqual({
      level: 'warn',
      database: closed.name,
      message: expect.stringMatching(/^not served: .*it lacks\n {2}- /),
    });
  });

  test('goes on after a restart of the server, with every database', async () => {
    const own = await startTestPostgres({ major, settings: { 'pgfetch_test.name': 'fleet' } });
    const [one, two] = [await installedDatabase(own), await installedDatabase(own)];
    const echo = await receiver();
    const { fleet, ready } = await serving({ connectionStrings: [own.connectionString] });
    await until(() => ready.length === 2, 'both to be served');
    await own.restart('fast');
    for (const { url, name } of [one, two]) await get(url, `${echo.url}/${name}`);
    await until(() => echo.seen.length === 2, 'a request of each');
    await fleet.stop();
  });

  test('a paused database is left, can be dropped, and is let go of; a resumed one is served again', async () => {
    const [dropped, resumed] = [await installed(), await installed()];
    const echo = await receiver();
    const { fleet, ready } = await serving();
    await until(() => ready.length === 2, 'both to be served');
    const admin = await session((await server()).connectionString);
    for (const { url } of [dropped, resumed]) {
      const sql = await session(url);
      await sql.query('select net.set_paused(true)');
      await until(
        async () => (await sql.query('select from net.worker')).rows.length === 0,
        'the worker to leave the database',
      );
      await sql.end();
    }
    await fleet.rescan();
    await admin.query(`drop database ${dropped.name}`);
    await until(() => served(fleet).length === 1, 'the dropped one to be let go of', 20_000);
    await (await session(resumed.url)).query('select net.set_paused(false)');
    await get(resumed.url, `${echo.url}/resumed`);
    await until(() => echo.seen.length === 1, 'its request to be sent');
  });

  test('pg_net.database_name does not lead all of them into one database', async () => {
    const [one, two] = [await installed(), await installed()];
    const admin = await session((await server()).connectionString);
    await admin.query(`alter role postgres set pg_net.database_name = '${one.name}'`);
    closing.push(() => admin.query('alter role postgres reset pg_net.database_name'));
    const { ready } = await serving();
    await until(() => ready.length === 2, 'both to be served');
    await until(
      async () => Object.keys(await workerSessions(admin)).join() === [one.name, two.name].sort().join(),
      'one session in each',
    );
  });

  test('a server that does not answer is said once, and disturbs none of the others', async () => {
    const database = await installed();
    const { connectionString } = await server();
    const problems: object[] = [];
    const fleet = createFleet({
      connectionStrings: ['postgres://postgres@127.0.0.1:1/postgres', connectionString, connectionString],
      allow: ['loopback'],
    });
    closing.push(() => fleet.stop());
    fleet.on('problem', (error, where) => problems.push({ message: error.message, ...where }));
    const ready = new Promise((resolve) => fleet.once('ready', resolve));
    await fleet.start();
    await fleet.rescan();
    expect(await ready).toMatchObject({ database: database.name });
    expect(problems).toEqual([
      { server: '127.0.0.1:1', database: null, message: expect.stringMatching(/cannot connect/) },
    ]);
    expect(served(fleet)).toEqual([database.name]);
    await fleet.stop();
    await expect(fleet.rescan()).rejects.toThrow('the fleet does not run');
    await expect(fleet.start()).rejects.toThrow('make a new one');
  });
});

test('options that make no sense are refused', () => {
  expect(() => createFleet({ connectionStrings: [] })).toThrow(ConfigError);
  expect(() => createFleet({ rescanEveryMs: 10 })).toThrow(/rescanEveryMs must be/);
  expect(() => createFleet({ connectionStrings: ['mysql://x'] })).toThrow(/connectionString must look like/);
  expect(() => createFleet({ allow: ['nonsense/99'] })).toThrow(/allow\[0\]/);
  expect(() => createFleet({ connectionStrings: ['postgres://h/d?sslmode=verify-full&sslrootcert=/none'] })).toThrow(
    /connectionString cannot be used: /,
  );
});
