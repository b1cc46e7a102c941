import { readFileSync, writeFileSync } from 'node:fs';
import { type AddressInfo, createServer, connect as dial, type Server, type Socket } from 'node:net';
import { join } from 'node:path';
import { inspect } from 'node:util';
import { afterEach, beforeAll, describe, expect, it } from 'vitest';
import { ConnectionLost, type Database, PostgresError, type Statement } from '../../src/postgres/database.ts';
import { connectPg, type PgConnectOptions } from '../../src/postgres/pg.ts';
import { createDatabase, startTestPostgres, type TestServer, until } from '../support/servers.ts';

let url: string;
let server: TestServer;
const opened: { close(): unknown }[] = [];

async function open(connectionString: string, options: Partial<PgConnectOptions> = {}): Promise<Database> {
  const db = await connectPg({ connectionString, applicationName: 'pgfetch', connectTimeoutMs: 10_000, ...options });
  opened.push(db);
  return db;
}

beforeAll(async () => {
  server = await startTestPostgres({ major: 18 });
  ({ url } = await createDatabase(server));
}, 60_000);

afterEach(async () => {
  for (const each of opened.splice(0).reverse()) await each.close();
});

let serial = 0;
function sql(text: string): Statement {
  return { name: `pg_${serial++}`, text };
}

/** A TCP server on loopback; `connected` holds what to destroy at the end. */
async function listenOnLoopback(accept: (socket: Socket) => void): Promise<{ port: number; connected: Set<Socket> }> {
  const connected = new Set<Socket>();
  const tcp: Server = createServer((socket) => {
    connected.add(socket);
    socket.on('error', () => {});
    accept(socket);
  });
  await new Promise<void>((resolve) => tcp.listen(0, '127.0.0.1', resolve));
  opened.push({
    close: () => {
      for (const socket of connected) socket.destroy();
      return new Promise((resolve) => tcp.close(resolve));
    },
  });
  return { port: (tcp.address() as AddressInfo).port, connected };
}

type Proxy = { readonly url: string; freeze(): void; cut(): void };

/** Stands between the session and the server, and can stop forwarding without closing anything. */
async function startProxy(rewrite: (data: Buffer) => Buffer = (data) => data): Promise<Proxy> {
  let frozen = false;
  const { port, connected } = await listenOnLoopback((socket) => {
    const upstream = dial(server.port, '127.0.0.1');
    connected.add(upstream);
    upstream.on('error', () => {});
    upstream.on('data', (data) => frozen || socket.write(rewrite(data)));
    socket.on('data', (data) => frozen || upstream.write(data));
    socket.on('close', () => upstream.destroy());
    upstream.on('close', () => frozen || socket.destroy());
  });
  const through = new URL(url);
  through.port = String(port);
  return {
    url: through.href,
    freeze: () => {
      frozen = true;
    },
    cut: () => {
      for (const socket of connected) socket.destroy();
    },
  };
}

describe('connecting', () => {
  it('names host, port and reason where nobody listens, never the password', async () => {
    const { port } = await listenOnLoopback(() => {});
    await opened.pop()?.close();
    const connecting = open(`postgres://alice:s3cret@127.0.0.1:${port}/app`);
    await expect(connecting).rejects.toThrow(ConnectionLost);
    await expect(connecting).rejects.toThrow(`cannot connect to alice@127.0.0.1:${port}/app: connect ECONNREFUSED`);
    await expect(connecting).rejects.not.toThrow('s3cret');
  });

  it('gives up on a server that says nothing', async () => {
    const { port } = await listenOnLoopback(() => {});
    const connecting = open(`postgres://127.0.0.1:${port}/app`, { connectTimeoutMs: 100 });
    await expect(connecting).rejects.toThrow(ConnectionLost);
    await expect(connecting).rejects.toThrow('no session within 100 ms');
  });

  it('gives up on a server that falls silent after the handshake', async () => {
    const proxy = await startProxy((data) => {
      proxy.freeze();
      return data;
    });
    await expect(open(proxy.url, { connectTimeoutMs: 200 })).rejects.toThrow('no session within 200 ms');
  });

  it('survives a server that hangs up at once', async () => {
    const { port } = await listenOnLoopback((socket) => socket.destroy());
    await expect(open(`postgres://127.0.0.1:${port}/app`)).rejects.toThrow(ConnectionLost);
  });

  it('says what the server refused', async () => {
    const connecting = open(url, { database: 'no_such_database' });
    await expect(connecting).rejects.toThrow(PostgresError);
    await expect(connecting).rejects.toMatchObject({ code: '3D000' });
    await expect(open(url, { user: 'no_such_role' })).rejects.toMatchObject({ code: '28000' });
  });

  it('logs in with a password, and does not show a wrong one', async () => {
    const own = await startTestPostgres({ major: 18, settings: { 'pgfetch_test.name': 'password' } });
    const admin = await open(own.connectionString);
    await admin.execute(`create role alice login password 'right'`);
    const rules = join(own.dataDirectory, 'pg_hba.conf');
    writeFileSync(rules, `host all alice 127.0.0.1/32 scram-sha-256\n${readFileSync(rules, 'utf8')}`);
    await admin.query(sql('select pg_reload_conf()'));
    const login = (password: string): Promise<Database> =>
      open(`postgres://alice:${password}@127.0.0.1:${own.port}/postgres`);
    const refused = await until(
      () =>
        login('s3cret').then(
          () => false as const,
          (error: unknown) => error,
        ),
      'the server asks for a password',
    );
    expect(refused).toMatchObject({ name: 'PostgresError', code: '28P01' });
    expect(inspect(refused, { depth: 10 })).not.toContain('s3cret');
    expect(await (await login('right')).query(sql('select current_user::text as name'))).toEqual([{ name: 'alice' }]);
  });

  it('does without TLS where sslmode only prefers it', async () => {
    expect(await (await open(`${url}?sslmode=prefer`)).query(sql('select 1 as one'))).toEqual([{ one: 1 }]);
    await expect(open(`${url}?sslmode=require`)).rejects.toThrow('The server does not support SSL connections');
  });

  it('merges settings of the caller', async () => {
    const settings = { synchronous_commit: 'off', 'pg_net.custom': 'x', no_such_setting: '1', lock_timeout: '1s' };
    const db = await open(url, { sessionSettings: settings });
    const show = sql(
      `select current_setting('synchronous_commit') as s, current_setting('pg_net.custom') as c, current_setting('lock_timeout') as l`,
    );
    expect(await db.query(show)).toEqual([{ s: 'off', c: 'x', l: '1s' }]);
  });

  it('passes notices on', async () => {
    const notices: string[] = [];
    const db = await open(url, { onNotice: ({ code, message }) => notices.push(`${code} ${message}`) });
    await db.execute(`do $$ begin raise warning 'mind the gap'; end $$`);
    expect(notices).toEqual(['01000 mind the gap']);
  });
});

describe('a dead connection', () => {
  it('that looks open is found by ping', async () => {
    const proxy = await startProxy();
    const db = await open(proxy.url);
    await db.ping(10_000);
    proxy.freeze();
    const query = db.query(sql('select 1'));
    query.catch(() => {});
    await expect(db.ping(100)).rejects.toThrow('the server did not answer a Sync within 100 ms');
    await expect(query).rejects.toThrow(ConnectionLost);
    expect(await db.ended).toBeInstanceOf(ConnectionLost);
    await expect(db.query(sql('select 1'))).rejects.toThrow(ConnectionLost);
  });

  it('does not hold up close', async () => {
    const proxy = await startProxy();
    const db = await open(proxy.url);
    proxy.freeze();
    const query = db.query(sql('select 1'));
    query.catch(() => {});
    await db.close();
    await expect(query).rejects.toThrow(ConnectionLost);
    expect(await db.ended).toBe(undefined);
  });

  it('is noticed when the socket dies, idle or not', async () => {
    const proxy = await startProxy();
    const idle = await open(proxy.url);
    const busy = await open(proxy.url);
    const query = busy.query(sql('select pg_sleep(60)'));
    query.catch(() => {});
    await busy.ping(1).catch(() => {});
    proxy.cut();
    await expect(query).rejects.toThrow(ConnectionLost);
    expect(await idle.ended).toBeInstanceOf(ConnectionLost);
    expect(await busy.ended).toBeInstanceOf(ConnectionLost);
  });

  it.each(['fast', 'immediate'] as const)('ends every session when the server stops (%s)', async (mode) => {
    const own = await startTestPostgres({ major: 18, settings: { 'pgfetch_test.name': mode } });
    const idle = await open(own.connectionString);
    const busy = await open(own.connectionString);
    const query = busy.query(sql('select pg_sleep(60)'));
    query.catch(() => {});
    await until(
      async () =>
        (await idle.query(sql(`select 1 from pg_stat_activity where query like 'select pg_sleep%'`))).length > 0,
      'the statement runs',
    );
    await own.stop(mode);
    await expect(query).rejects.toThrow(ConnectionLost);
    expect(await idle.ended).toBeInstanceOf(ConnectionLost);
    await expect(open(own.connectionString)).rejects.toThrow(ConnectionLost);
  });
});

describe('a ping', () => {
  it('is no statement', async () => {
    const db = await open(url);
    const watcher = await open(url);
    const [row] = await db.query<{ pid: number }>(sql('select pg_backend_pid() as pid'));
    const look = sql('select query, query_start::text as start, state from pg_stat_activity where pid = $1::int');
    const before = await until(async () => {
      const [seen] = await watcher.query(look, [row?.pid ?? 0]);
      return seen?.['state'] === 'idle' && seen;
    }, 'the session is idle');
    await db.ping(10_000);
    expect(await watcher.query(look, [row?.pid ?? 0])).toEqual([before]);
  });
});

describe('prepared statements', () => {
  const prepared = sql(`select count(*) as number from pg_prepared_statements where name like 'pg_%'`);

  it('are kept, and made again after DISCARD ALL and after DDL', async () => {
    const db = await open(url);
    await db.execute('create table public.shape (a int); insert into public.shape values (1)');
    const read = sql('select * from public.shape');
    expect(await db.query(read)).toEqual([{ a: 1 }]);
    expect(await db.query(prepared)).toEqual([{ number: 2n }]);
    await db.execute('discard all');
    expect(await db.query(read)).toEqual([{ a: 1 }]);
    await db.execute('alter table public.shape alter a type text, add b text');
    expect(await db.query(read)).toEqual([{ a: '1', b: null }]);
    expect(await db.query(read)).toEqual([{ a: '1', b: null }]);
  });

  it.each(['prepare: false', 'a process id that is not the server’s'])(
    'are not used with %s, and nothing stays in the session',
    async (how) => {
      // BackendKeyData: K, length 12, process id, key.
      const proxy = await startProxy((data) => {
        const at = data.indexOf(Buffer.from([0x4b, 0, 0, 0, 12]));
        if (at >= 0) data.writeInt32BE(4_242, at + 5);
        return data;
      });
      const db = how === 'prepare: false' ? await open(url, { prepare: false }) : await open(proxy.url);
      expect(await db.query(sql(`select current_setting('search_path') as path`))).toEqual([
        { path: 'pg_catalog, pg_temp' },
      ]);
      expect(await db.query(prepared)).toEqual([{ number: 0n }]);
      // The script ends our transaction, so what it reads after that is the session's own.
      await db.execute(`commit; create table public.seen as select current_setting('search_path') as path`);
      expect(await db.query(sql('select path from public.seen'))).toEqual([{ path: '"$user", public' }]);
      await db.execute('drop table public.seen');
    },
  );
});

describe('listen', () => {
  it('hears another session', async () => {
    const db = await open(url);
    const other = await open(url);
    const heard: string[] = [];
    expect(await db.listen('pg_test', (payload) => heard.push(payload))).toBe(true);
    await other.query(sql(`select pg_notify('pg_test', 'x')`));
    await until(() => heard.length > 0, 'the notification arrives');
    expect(heard).toEqual(['x']);
    expect(await db.query(sql('select pg_listening_channels() as channel'))).toEqual([{ channel: 'pg_test' }]);
  });

  it('says no where notifications do not pass', async () => {
    // NotificationResponse: A, length, process id, channel, payload. The proxy drops a chunk that holds only that.
    const proxy = await startProxy((data) =>
      data[0] === 0x41 && data.length === 1 + data.readInt32BE(1) ? Buffer.alloc(0) : data,
    );
    const db = await open(proxy.url);
    expect(await db.listen('pg_test', () => {})).toBe(false);
    expect(await db.query(sql('select pg_listening_channels() as channel'))).toEqual([]);
  });
});
