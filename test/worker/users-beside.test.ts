import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import pg from 'pg';
import { afterEach, describe, expect, test } from 'vitest';
import { connectPg } from '../../src/postgres/pg.ts';
import { install } from '../../src/schema/install.ts';
import { extensionFiles } from '../../src/schema/scripts.ts';
import { uninstall } from '../../src/schema/uninstall.ts';
import { createWorker } from '../../src/worker/create.ts';
import type { Worker } from '../../src/worker/worker.ts';
import { createDatabase, newestMajors, startTestPostgres, until } from '../support/servers.ts';

/**
 * What users do to the queue while thousands of requests are queued and in flight. The worker holds no lock while a request
 * is in flight and gives way where it would, so none of it waits longer than one of the worker's statements: every session of
 * a user here has a lock_timeout, and each statement must succeed at the first try.
 */
const requests = 10_000;
const rounds = 3;
const userLockTimeout = '3s';

describe.each(newestMajors())('on PostgreSQL %i', (major) => {
  const closing: (() => Promise<unknown>)[] = [];

  afterEach(async () => {
    for (const close of closing.splice(0).reverse()) await close();
  });

  /** Answers each request a moment later, so that many are in flight whenever something happens. */
  async function slowReceiver(): Promise<{ url: string; readonly seen: number }> {
    let seen = 0;
    const server = createServer({ keepAliveTimeout: 60_000 }, (_request, response) => {
      seen += 1;
      setTimeout(() => response.end('late'), 50);
    });
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    closing.push(() => {
      server.closeAllConnections();
      return new Promise((resolve) => server.close(resolve));
    });
    return {
      url: `http://127.0.0.1:${(server.address() as AddressInfo).port}/`,
      get seen() {
        return seen;
      },
    };
  }

  async function stage(form: 'extension' | 'plain') {
    const server = await startTestPostgres({ major, extensionFiles: await extensionFiles({ showSettings: false }) });
    const database = await createDatabase(server);
    const session = async (url = database.url): Promise<pg.Client> => {
      const client = new pg.Client({ connectionString: url });
      client.on('error', () => {});
      await client.connect();
      await client.query(`set lock_timeout = '${userLockTimeout}'`);
      closing.push(() => client.end().catch(() => {}));
      return client;
    };
    closing.push(() => database.drop());
    const withDatabase = async <T>(work: (db: Awaited<ReturnType<typeof connectPg>>) => Promise<T>): Promise<T> => {
      const db = await connectPg({
        connectionString: database.url,
        applicationName: 'user',
        connectTimeoutMs: 10_000,
        sessionSettings: { lock_timeout: userLockTimeout },
      });
      try {
        return await work(db);
      } finally {
        await db.close();
      }
    };
    const sql = await session();
    if (form === 'extension') await sql.query('create extension pg_net');
    else await withDatabase((db) => install(db));
    const receiver = await slowReceiver();
    const said: { level: string; message: string }[] = [];
    const say =
      (level: string) =>
      (_fields: object, message: string): void => {
        said.push({ level, message });
      };
    const worker: Worker = createWorker({
      connectionString: database.url,
      allow: ['loopback'],
      stopTimeoutMs: 5_000,
      log: { info: say('info'), warn: say('warn'), error: say('error') },
    });
    closing.push(() => worker.stop());
    await worker.start();
    const errors = (): string[] => said.filter(({ level }) => level === 'error').map(({ message }) => message);
    const count = async (table: string, client = sql): Promise<number> =>
      (await client.query(`select count(*)::int as n from ${table}`)).rows[0].n;
    /** Fills the queue, and waits until the worker is in the middle of it. */
    const fill = async (client = sql): Promise<void> => {
      const before = receiver.seen;
      await client.query(
        `select net.http_get($1, timeout_milliseconds := 60000) from generate_series(1, ${requests})`,
        [receiver.url],
      );
      await until(() => receiver.seen > before + 500 && worker.held > 0, 'the worker is in the middle of it');
    };
    /** Waits until everything that was sent has its response. */
    const settled = (client = sql): Promise<unknown> =>
      until(
        async () => worker.held === 0 && (await count('net._http_response', client)) === receiver.seen,
        'everything that was sent has its response',
        20_000,
      );
    const serves = async (client = sql): Promise<void> => {
      const { rows } = await client.query('select net.http_get($1) as id', [receiver.url]);
      await until(
        async () =>
          (await client.query('select from net._http_response where id = $1 and status_code = 200', [rows[0].id]))
            .rowCount === 1,
        'a request afterwards is answered',
        20_000,
      );
    };
    return {
      server,
      database,
      session,
      withDatabase,
      sql,
      receiver,
      said,
      errors,
      worker,
      fill,
      settled,
      count,
      serves,
    };
  }

  test.each([
    ['TRUNCATE', 'truncate net.http_request_queue'],
    ['DELETE', 'delete from net.http_request_queue'],
  ])('%s beside thousands in flight: not waited for, and what had been sent is recorded', async (_name, statement) => {
    const { sql, receiver, said, fill, settled, count, serves } = await stage('plain');
    for (let round = 1; round <= rounds; round += 1) {
      await fill();
      await sql.query(statement);
      await settled();
      expect(await count('net.http_request_queue')).toBe(0);
      expect(receiver.seen).toBeLessThan(round * requests);
    }
    await serves();
    expect(said.filter(({ level }) => level !== 'info')).toEqual([]);
  });

  test('ALTER TABLE of both tables beside thousands in flight: not waited for, and nothing is lost', async () => {
    const { sql, worker, receiver, errors, fill, settled, serves } = await stage('plain');
    await fill();
    for (let round = 1; round <= rounds; round += 1) {
      await sql.query(
        'alter table net.http_request_queue add column note text, add column noted timestamptz default now()',
      );
      await sql.query('alter table net._http_response add column note text');
      await sql.query('alter table net.http_request_queue alter column sign_with type varchar(63)');
      await until(() => worker.held > 0, 'the worker goes on');
      await sql.query('alter table net.http_request_queue drop column note, drop column noted');
      await sql.query('alter table net._http_response drop column note');
      await sql.query('alter table net.http_request_queue alter column sign_with type text');
    }
    await worker.drain();
    await settled();
    expect(receiver.seen).toBe(requests);
    await serves();
    expect(errors()).toEqual([]);
  });

  test('DROP EXTENSION beside thousands in flight, again and again: the worker serves each new one', async () => {
    const { sql, errors, fill, serves } = await stage('extension');
    for (let round = 1; round <= rounds; round += 1) {
      await fill();
      await sql.query('drop extension pg_net');
      if (round === 1) await until(() => errors().length > 0, 'the worker says so');
      await sql.query('create extension pg_net');
      await serves();
    }
    expect(errors()).toEqual([expect.stringMatching(/^pgfetch is not installed in database .*pgfetch install/)]);
  });

  test('uninstall beside thousands in flight, and install again', async () => {
    const { sql, errors, withDatabase, fill, serves } = await stage('plain');
    for (let round = 1; round <= rounds; round += 1) {
      await fill(sql);
      expect(await withDatabase((db) => uninstall(db))).toMatchObject({ kind: 'uninstalled' });
      if (round === 1) await until(() => errors().length > 0, 'the worker says so');
      await withDatabase((db) => install(db));
      await serves();
    }
    expect(errors()).toEqual([expect.stringMatching(/^pgfetch is not installed in database .*pgfetch install/)]);
  });

  test('DROP DATABASE ... WITH (FORCE) beside thousands in flight: the worker waits until there is one again', async () => {
    const { server, database, session, withDatabase, errors, fill, serves } = await stage('plain');
    const admin = await session(server.connectionString);
    for (let round = 1; round <= rounds; round += 1) {
      const sql = await session();
      await fill(sql);
      await admin.query(`drop database ${database.name} with (force)`);
      await until(() => errors().some((message) => message.includes('does not exist')), 'the worker says so');
      await admin.query(`create database ${database.name}`);
      await withDatabase((db) => install(db));
      await serves(await session());
    }
    expect(new Set(errors()).size).toBe(errors().length);
    expect(errors().filter((message) => message.includes('does not exist'))).toHaveLength(1);
    // Beside that: how a session ended (the server's last words, or none where it was cut off before them), and, where the
    // worker was faster than we, that the database was empty.
    const sessionEnds = /terminat|connection/i;
    const others = errors().filter((message) => !sessionEnds.test(message) && !message.includes('does not exist'));
    expect(others).toEqual(others.length === 0 ? [] : [expect.stringMatching(/^pgfetch is not installed in database/)]);
  });
});
