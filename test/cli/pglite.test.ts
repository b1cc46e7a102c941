import { writeFileSync } from 'node:fs';
import { createServer, type Server, type ServerResponse } from 'node:http';
import { connect as connectSocket, type Socket } from 'node:net';
import { join } from 'node:path';
import pg from 'pg';
import { afterEach, describe, expect, test } from 'vitest';
import { type EmbeddedPglite, startEmbeddedPglite } from '../../src/embedded/pglite.ts';
import { temporaryDirectory, until } from '../support/servers.ts';
import { calledBack } from './called-back.ts';
import { runCli, startCli } from './cli.ts';

const given = ['dev', '--engine', 'pglite', '--port', '0', '--echo-port', '0'];
const clients: pg.Client[] = [];
const sockets: Socket[] = [];
const httpServers: Server[] = [];
const servers: EmbeddedPglite[] = [];

afterEach(async () => {
  await Promise.all(clients.splice(0).map((client) => client.end().catch(() => {})));
  for (const socket of sockets.splice(0)) socket.destroy();
  for (const server of httpServers.splice(0)) {
    server.closeAllConnections();
    await new Promise((resolve) => server.close(resolve));
  }
  await Promise.all(servers.splice(0).map((server) => server.stop()));
});

async function connect(connectionString: string): Promise<pg.Client> {
  const client = new pg.Client({ connectionString });
  client.on('error', () => {});
  await client.connect();
  clients.push(client);
  return client;
}

/** An HTTP server that answers its one request, with 418, when it is told to. */
async function heldServer(): Promise<{ url: string; requested: Promise<void>; answer(): Promise<void> }> {
  let announce: () => void = () => {};
  const requested = new Promise<void>((resolve) => {
    announce = resolve;
  });
  let held: ServerResponse | undefined;
  const server = createServer((_request, response) => {
    held = response;
    announce();
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  httpServers.push(server);
  const address = server.address();
  return {
    url: `http://127.0.0.1:${typeof address === 'object' ? address?.port : ''}/`,
    requested,
    answer: () => new Promise((resolve) => held?.writeHead(418).end(resolve)),
  };
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
    // Its answer arrives while a client holds a transaction open, and must not be recorded within that.
    const target = await heldServer();
    await client.query('select net.http_get($1)', [target.url]);
    const other = await connect(database);
    await target.requested;
    await client.query('begin');
    await client.query('create table undone (i int)');
    await target.answer();
    for (let turn = 0; turn < 100; turn += 1) await client.query('select 1');
    await client.query('rollback');
    await other.query('select net.http_get($1)', [`${echo}/status/204`]);
    await until(async () => (await other.query('select from net.http_request_queue')).rows.length === 0, 'all is sent');
    const { rows } = await other.query('select id::int, status_code from net._http_response order by id');
    expect(rows).toEqual([
      { id: 1, status_code: 200 },
      { id: 2, status_code: 418 },
      { id: 3, status_code: 204 },
    ]);
    expect((await other.query("select from pg_class where relname = 'undone'")).rows).toEqual([]);
    await other.query('create table kept as select 1 as value');
    await calledBack(other, echo);

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
  const ready = 'Z\0\0\0\u0005I';
  const parseComplete = '1\0\0\0\u0004';
  const version = Buffer.from([0, 3, 0, 0]);
  const parse = (sql: string): Buffer => message('P', text.encode(`\0${sql}\0`), Buffer.alloc(2));
  const bindAndRun = [
    message('B', Buffer.from([0, 0, 0, 0, 0, 0, 0, 0])),
    message('E', Buffer.from([0, 0, 0, 0, 0])),
    message('S'),
  ];

  /** A client that speaks the protocol message by message, as one does whose parameters fill several packets. */
  async function openRaw(port: number): Promise<{
    send(...parts: readonly Buffer[]): void;
    saw(...texts: readonly string[]): Promise<unknown>;
    leave(): void;
  }> {
    const socket = connectSocket(port, '127.0.0.1');
    sockets.push(socket);
    let seen = '';
    socket
      .on('error', () => {})
      .on('data', (data: Buffer) => {
        seen += data.toString('latin1');
      });
    socket.write(message('', version, text.encode('user\0postgres\0database\0postgres\0\0')));
    const saw = (...texts: readonly string[]): Promise<unknown> =>
      until(() => texts.every((each) => seen.includes(each)), `the answer has ${JSON.stringify(texts)}`);
    await saw(ready);
    seen = '';
    return { send: (...parts) => void socket.write(Buffer.concat(parts)), saw, leave: () => void socket.destroy() };
  }

  test('keeps to one client from Parse to Sync', async () => {
    const server = await startEmbeddedPglite({ directory: temporaryDirectory('pglite-gate') });
    servers.push(server);
    const raw = await openRaw(server.port);
    const client = await connect(server.connectionString);
    raw.send(parse("select 'mine' as text"));
    await raw.saw(parseComplete);
    // Without the gate this would replace the unnamed statement.
    const theirs = client.query('select $1::text as text', ['theirs']);
    raw.send(...bindAndRun);
    await raw.saw('mine', ready);
    expect((await theirs).rows).toEqual([{ text: 'theirs' }]);
  });

  test('goes on when a client leaves between Parse and Sync, or within a transaction', async () => {
    const server = await startEmbeddedPglite({ directory: temporaryDirectory('pglite-leave') });
    servers.push(server);
    const midway = await openRaw(server.port);
    const client = await connect(server.connectionString);
    midway.send(parse('selec nonsense'));
    await midway.saw('42601');
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
