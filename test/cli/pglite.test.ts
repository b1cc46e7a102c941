import { writeFileSync } from 'node:fs';
import { connect as connectSocket, type Socket } from 'node:net';
import { join } from 'node:path';
import pg from 'pg';
import { afterEach, describe, expect, test } from 'vitest';
import { type EmbeddedPglite, startEmbeddedPglite } from '../../src/embedded/pglite.ts';
import { temporaryDirectory, until } from '../support/servers.ts';
import { runCli, startCli } from './cli.ts';

const given = ['dev', '--engine', 'pglite', '--port', '0', '--echo-port', '0'];
const clients: pg.Client[] = [];
const sockets: Socket[] = [];
const servers: EmbeddedPglite[] = [];

afterEach(async () => {
  await Promise.all(clients.splice(0).map((client) => client.end().catch(() => {})));
  for (const socket of sockets.splice(0)) socket.destroy();
  await Promise.all(servers.splice(0).map((server) => server.stop()));
});

async function connect(connectionString: string): Promise<pg.Client> {
  const client = new pg.Client({ connectionString });
  client.on('error', () => {});
  await client.connect();
  clients.push(client);
  return client;
}

describe('dev --engine pglite', () => {
  test('serves clients on a socket, whose transactions do not undo what the worker wrote', async () => {
    const cwd = temporaryDirectory('dev-pglite');
    const running = await startCli([...given, '--first-request'], { cwd });
    const [, database = ''] = await running.output(/Database {2}(\S+)/);
    const [, echo = ''] = await running.output(/Echo {6}(\S+)/);
    await running.output(/Ctrl-C stops everything/);
    expect(running.stdout()).toMatch(/status_code +200/);

    const client = await connect(database);
    expect((await client.query("select name from pg_settings where name = 'pg_net.ttl'")).rows).toHaveLength(1);
    // The request is in flight while the client holds a transaction open: its answer arrives within it, and must not be recorded in it.
    await client.query('select net.http_get($1)', [`${echo}/delay/0.3`]);
    const other = await connect(database);
    await other.query('select net.http_get($1)', [`${echo}/status/204`]);
    await until(
      async () =>
        (await client.query('select from net.http_request_queue where claimed_by is not null')).rows.length > 0 ||
        (await client.query('select from net._http_response where id = 2')).rows.length > 0,
      'the first is claimed',
    );
    await client.query('begin');
    await client.query('create table undone (i int)');
    await client.query('select pg_sleep(0.5)');
    await client.query('rollback');
    await until(async () => (await other.query('select from net.http_request_queue')).rows.length === 0, 'all is sent');
    const { rows } = await other.query('select id::int, status_code from net._http_response order by id');
    expect(rows).toEqual([
      { id: 1, status_code: 200 },
      { id: 2, status_code: 200 },
      { id: 3, status_code: 204 },
    ]);
    expect((await other.query("select from pg_class where relname = 'undone'")).rows).toEqual([]);
    await other.query('create table kept as select 1 as value');

    const second = await runCli(given, { cwd });
    expect(second).toMatchObject({ status: 0, stderr: '' });
    expect(second.stdout).toContain(database);

    running.signal('SIGINT');
    expect(await running.ended).toMatchObject({ status: 0, stderr: '' });
    await expect(connect(database)).rejects.toThrow();

    const again = await startCli(given, { cwd });
    const [, restarted = ''] = await again.output(/Database {2}(\S+)/);
    await again.output(/Ctrl-C stops everything/);
    expect((await (await connect(restarted)).query('select value from kept')).rows).toEqual([{ value: 1 }]);
    again.signal('SIGTERM');
    expect((await again.ended).status).toBe(0);
  }, 60_000);

  test('a directory that another process is opening is not opened twice; a lock left behind is cleared', async () => {
    const directory = temporaryDirectory('dev-pglite-lock');
    writeFileSync(join(directory, 'pglite.lock'), JSON.stringify({ pid: process.ppid }));
    const locked = await runCli([...given, '--directory', directory]);
    expect(locked).toMatchObject({ status: 1, stdout: '' });
    expect(locked.stderr).toMatch(/being opened by another process.*remove .*pglite\.lock/);
    // No process has this id: it is beyond what Linux and macOS hand out.
    writeFileSync(join(directory, 'pglite.lock'), JSON.stringify({ pid: 99_999_999, port: 1 }));
    const server = await startEmbeddedPglite({ directory });
    servers.push(server);
    expect((await (await connect(server.connectionString)).query('select 1 as one')).rows).toEqual([{ one: 1 }]);
  });
});

describe('a socket-served PGlite', () => {
  const text = new TextEncoder();
  const message = (type: string, ...parts: readonly Uint8Array[]): Buffer => {
    const body = Buffer.concat(parts);
    const head = Buffer.alloc(type.length + 4);
    head.write(type, 'latin1');
    head.writeInt32BE(4 + body.length, type.length);
    return Buffer.concat([head, body]);
  };
  const version = Buffer.from([0, 3, 0, 0]);
  const parse = (sql: string): Buffer => message('P', text.encode(`\0${sql}\0`), Buffer.alloc(2));
  const bindAndRun = [
    message('B', Buffer.from([0, 0, 0, 0, 0, 0, 0, 0])),
    message('E', Buffer.from([0, 0, 0, 0, 0])),
    message('S'),
  ];

  /** A client that speaks the protocol message by message, as one does whose parameters fill several packets. */
  async function openRaw(
    port: number,
  ): Promise<{ send(...parts: readonly Buffer[]): void; saw(pattern: RegExp): Promise<unknown>; leave(): void }> {
    const socket = connectSocket(port, '127.0.0.1');
    sockets.push(socket);
    let seen = '';
    socket
      .on('error', () => {})
      .on('data', (data: Buffer) => {
        seen += data.toString('latin1');
      });
    socket.write(message('', version, text.encode('user\0postgres\0database\0postgres\0\0')));
    const saw = (pattern: RegExp): Promise<unknown> => until(() => pattern.test(seen), `the answer has ${pattern}`);
    await saw(/Z\0\0\0\x05I$/);
    seen = '';
    return { send: (...parts) => void socket.write(Buffer.concat(parts)), saw, leave: () => void socket.destroy() };
  }

  test('keeps to one client from Parse to Sync', async () => {
    const server = await startEmbeddedPglite({ directory: temporaryDirectory('pglite-gate') });
    servers.push(server);
    const raw = await openRaw(server.port);
    const client = await connect(server.connectionString);
    raw.send(parse("select 'mine' as text"));
    await raw.saw(/1\0\0\0\x04/);
    // Without the gate this would replace the unnamed statement.
    const theirs = client.query('select $1::text as text', ['theirs']);
    raw.send(...bindAndRun);
    await raw.saw(/mine[^]*Z\0\0\0\x05I$/);
    expect((await theirs).rows).toEqual([{ text: 'theirs' }]);
  });

  test('goes on when a client leaves between Parse and Sync, or within a transaction', async () => {
    const server = await startEmbeddedPglite({ directory: temporaryDirectory('pglite-leave') });
    servers.push(server);
    const midway = await openRaw(server.port);
    const client = await connect(server.connectionString);
    midway.send(parse('selec nonsense'));
    await midway.saw(/42601/);
    const waiting = client.query('select 1 as one');
    midway.leave();
    expect((await waiting).rows).toEqual([{ one: 1 }]);

    const within = await connect(server.connectionString);
    await within.query('begin');
    await within.query('create table undone (i int)');
    const afterwards = client.query("select count(*)::int as n from pg_class where relname = 'undone'");
    await within.end();
    expect((await afterwards).rows).toEqual([{ n: 0 }]);
  });
});
