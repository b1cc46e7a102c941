import { readFileSync } from 'node:fs';
import { text as streamText } from 'node:stream/consumers';
import { gunzipSync } from 'node:zlib';
import { PGlite } from '@electric-sql/pglite';
import { extract } from 'tar-stream';
import { expect, onTestFinished, test } from 'vitest';
import { type EchoRequest, type EchoServer, startEchoServer } from '../../src/embedded/echo.ts';
import { pg_net, pgNet } from '../../src/pglite/index.ts';
import { openPglite } from '../../src/postgres/pglite.ts';
import { findDrift } from '../../src/schema/drift.ts';
import { install } from '../../src/schema/install.ts';
import { extensionFiles } from '../../src/schema/scripts.ts';
import { uninstall } from '../../src/schema/uninstall.ts';
import { temporaryDirectory, until } from '../support/servers.ts';

// The extension as users load it: `dist/pglite/pg_net.tar.gz`, which `npm run build` makes, with the worker of these sources.

async function openEcho(received: EchoRequest[] = []): Promise<EchoServer> {
  const echo = await startEchoServer({ onRequest: (request) => received.push(request) });
  onTestFinished(() => echo.close());
  return echo;
}

async function open(log: string[] = [], dataDir = 'memory://') {
  const note = (_fields: object, message: string): void => {
    log.push(message);
  };
  const extension = pgNet({ allow: ['loopback'], log: { info: note, warn: note, error: note } });
  const db = await PGlite.create(dataDir, { extensions: { pg_net: extension } });
  onTestFinished(async () => {
    if (!db.closed) await db.close();
  });
  return db;
}

const responses = 'select id, status_code, error_code from net._http_response order by id';

test('the bundle was built from these sources', async () => {
  const bundle = readFileSync(new URL('../../dist/pglite/pg_net.tar.gz', import.meta.url));
  const found: Record<string, string> = {};
  const extraction = extract();
  extraction.end(gunzipSync(bundle));
  for await (const entry of extraction) found[entry.header.name] = await streamText(entry);
  const files = Object.entries(await extensionFiles({ showSettings: true }));
  expect(found, 'run npm run build').toEqual(
    Object.fromEntries(files.map(([name, content]) => [`share/postgresql/extension/${name}`, content])),
  );
});

test('plain SQL is installed and removed there too, and served', async () => {
  const echo = await openEcho();
  const db = await open();
  const session = openPglite(db, { applicationName: 'test' });
  expect(await install(session, { showSettings: true })).toMatchObject({ kind: 'installed', isExtension: false });
  expect(await findDrift(session)).toEqual([]);
  await db.query('select net.http_get($1)', [echo.url]);
  await db.pg_net.drain();
  expect((await db.query(responses)).rows).toEqual([{ id: 1, status_code: 200, error_code: null }]);
  expect(await uninstall(session)).toMatchObject({ kind: 'uninstalled' });
  expect((await db.query(`select rolname from pg_roles where rolname ~ '^net_'`)).rows).toEqual([]);
  await session.close();
});

test('once the extension is created, requests go out from the same process', async () => {
  const received: EchoRequest[] = [];
  const echo = await openEcho(received);
  const log: string[] = [];
  const db = await open(log);
  await db.pg_net.drain();
  expect(log).toEqual([]);

  await db.exec('create extension pg_net');
  await db.exec(`begin; select net.http_get('${echo.url}/rolled-back'); rollback`);
  await db.transaction(async (tx) => {
    await tx.query(`select net.http_post($1, '{"a": 1}')`, [`${echo.url}/post`]);
    expect(received).toEqual([]);
  });
  // Nobody calls drain: a request needs nothing but its commit.
  await until(async () => (await db.query(responses)).rows.length === 1, 'the response is there');
  expect((await db.query(responses)).rows).toEqual([{ id: 2, status_code: 200, error_code: null }]);
  expect(received.map(({ method, path }) => `${method} ${path}`)).toEqual(['POST /post']);
  expect((await db.query(`select name from pg_settings where name like 'pg_net%'`)).rows).toHaveLength(16);

  await db.query(`select net.http_get($1 || n) from generate_series(1, 100) n`, [`${echo.url}/`]);
  await db.pg_net.drain();
  expect((await db.query('select count(*)::int as n from net._http_response')).rows).toEqual([{ n: 101 }]);
  await db.close();
  expect(log).toEqual(['serving']);
});

test('the default refuses private addresses', async () => {
  const received: EchoRequest[] = [];
  const echo = await openEcho(received);
  const db = await PGlite.create({ extensions: { pg_net } });
  onTestFinished(() => db.close());
  await db.exec('create extension pg_net');
  await db.query('select net.http_get($1)', [echo.url]);
  await db.pg_net.drain();
  expect((await db.query(responses)).rows).toEqual([{ id: 1, status_code: null, error_code: 'denied' }]);
  expect(received).toEqual([]);
});

test('the extension is dropped and created again, and is served again', async () => {
  const echo = await openEcho();
  const db = await open();
  for (let round = 0; round < 3; round += 1) {
    await db.exec('create extension pg_net');
    await db.query('select net.http_get($1)', [echo.url]);
    await until(async () => (await db.query(responses)).rows.length === 1, 'the response is there');
    await db.exec('drop extension pg_net');
  }
});

test('what was waiting or in flight when a data directory was closed is sent when it is opened again', async () => {
  const received: EchoRequest[] = [];
  const echo = await openEcho(received);
  const directory = temporaryDirectory('pglite-data');
  const first = await open([], directory);
  await first.exec('create extension pg_net');
  await first.query('select net.http_get($1, timeout_milliseconds := 20000)', [`${echo.url}/delay/10`]);
  await until(() => received.length === 1, 'the request is in flight');
  await first.close();

  const second = await open([], directory);
  await until(() => received.length === 2, 'it is sent again, without anything being asked for');
  expect((await second.query('select id from net.http_request_queue')).rows).toEqual([{ id: 1 }]);
});
