import { PGlite } from '@electric-sql/pglite';
import { PGLiteSocketServer } from '@electric-sql/pglite-socket';
import pg from 'pg';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { ConnectionLost, type Database, type Statement } from '../../src/postgres/database.ts';
import { connectPg } from '../../src/postgres/pg.ts';
import { openPglite } from '../../src/postgres/pglite.ts';
import { until } from '../support/servers.ts';

let lite: PGlite;
let db: Database;
/** How often our session found the user's transaction open and waited. */
let waits = 0;

let serial = 0;
function sql(text: string): Statement {
  return { name: `lite_${serial++}`, text };
}
const insert = sql('insert into public.note select coalesce(max(id), 0) + 1 from public.note');
const count = async (): Promise<unknown> =>
  (await lite.query<{ n: number }>('select count(*)::int as n from public.note')).rows[0]?.n;

const settings = async (): Promise<unknown> => (await lite.query('select name, setting from pg_settings')).rows;

beforeAll(async () => {
  lite = await PGlite.create();
  await lite.exec(
    'create table public.note (id int primary key); create role bob; grant usage on schema public to bob',
  );
}, 60_000);
afterAll(async () => lite.close());
beforeEach(async () => {
  waits = 0;
  await lite.exec('truncate public.note');
  db = openPglite(lite, {
    applicationName: 'pgfetch',
    sleep: (delayMs) => {
      waits++;
      return new Promise((resolve) => setTimeout(resolve, delayMs));
    },
  });
});
afterEach(async () => db.close());

describe('a transaction of the user', () => {
  it('held open by hand does not take our statements into it', async () => {
    await lite.exec('begin');
    const ours = Promise.all([
      db.query(insert),
      db.transaction((session) => session.query(insert)),
      db.execute('insert into public.note values (100)'),
    ]);
    await until(() => waits > 2, 'our session waits');
    expect(await count()).toBe(0);
    await lite.exec('insert into public.note values (50); rollback');
    await ours;
    expect(await count()).toBe(3);
  });

  it('that has failed holds ours up until it is rolled back', async () => {
    await lite.exec('begin');
    await lite.exec('select 1 / 0').catch(() => {});
    const ours = db.query(insert);
    await until(() => waits > 0, 'our session waits');
    await lite.exec('rollback');
    await ours;
    expect(await count()).toBe(1);
  });

  it('of db.transaction() excludes ours, in turn', async () => {
    const users = lite.transaction(async (tx) => {
      await tx.exec('insert into public.note values (50)');
      await new Promise((resolve) => setImmediate(resolve));
      await tx.rollback();
    });
    const ours = db.query(insert);
    await Promise.all([users, ours]);
    expect(await count()).toBe(1);
    expect(waits).toBe(0);
  });

  it('does not see ours half done', async () => {
    const seen: unknown[] = [];
    const ours = db.transaction(async (session) => {
      await session.query(insert);
      seen.push(lite.query('select count(*)::int as n from public.note').then((result) => result.rows));
      await new Promise((resolve) => setImmediate(resolve));
      await session.query(insert);
    });
    await ours;
    expect(await Promise.all(seen)).toEqual([[{ n: 2 }]]);
  });

  it('does not hold up close()', async () => {
    const heard: string[] = [];
    await db.listen('lite_closing', (payload) => heard.push(payload));
    await lite.exec('begin');
    const ours = db.query(insert);
    ours.catch(() => {});
    await db.close();
    await expect(ours).rejects.toThrow(ConnectionLost);
    await lite.exec(`notify lite_closing, 'x'; commit`);
    await lite.exec('unlisten lite_closing');
    expect(heard).toEqual([]);
    expect(await count()).toBe(0);
  });

  it('holds up a LISTEN of ours rather than to undo it', async () => {
    const heard: string[] = [];
    await lite.exec('begin');
    const listening = db.listen('lite_channel', (payload) => heard.push(payload));
    await until(() => waits > 0, 'our session waits');
    await lite.exec('rollback');
    expect(await listening).toBe(true);
    await lite.exec(`notify lite_channel, 'x'`);
    await until(() => heard.length > 0, 'the notification arrives');
  });
});

describe('the shared session', () => {
  it('does not lend us the role and settings of the user, nor keep ours', async () => {
    await lite.exec(
      `set session authorization bob; set search_path = public; set timezone = 'Asia/Tokyo'; set default_transaction_isolation = serializable`,
    );
    try {
      const us = sql(
        `select session_user::text as session, current_user::text as role, current_setting('search_path') as path, current_setting('transaction_isolation') as level, now() > '2000-01-01' as yes`,
      );
      const expected = {
        session: 'postgres',
        role: 'postgres',
        path: 'pg_catalog, pg_temp',
        level: 'read committed',
        yes: true,
      };
      expect(await db.query(us)).toEqual([expected]);
      expect(await db.transaction((session) => session.query(us))).toEqual([expected]);
      const { rows } = await lite.query(
        `select session_user::text as session, current_user::text as role, current_setting('search_path') as path, current_setting('timezone') as zone, current_setting('application_name') as name`,
      );
      expect(rows).toEqual([
        {
          session: 'bob',
          role: 'bob',
          path: 'public',
          zone: 'Asia/Tokyo',
          name: expect.not.stringContaining('pgfetch'),
        },
      ]);
    } finally {
      await lite.exec('set session authorization postgres; reset all');
    }
    await lite.exec('set role bob');
    expect(await db.query(sql('select current_user::text as role'))).toEqual([{ role: 'postgres' }]);
    expect((await lite.query('select current_user::text as role')).rows).toEqual([{ role: 'bob' }]);
    await lite.exec('reset role');
  });

  it('keeps a db.listen() of the user on our channel when we close, and ours when they stop', async () => {
    const ours: string[] = [];
    const theirs: string[] = [];
    await db.listen('lite_shared', (payload) => ours.push(payload));
    const unlisten = await lite.listen('lite_shared', (payload) => theirs.push(payload));
    await unlisten();
    await lite.exec(`notify lite_shared, 'one'`);
    await until(() => ours.length > 0, 'ours is heard');
    await lite.listen('lite_shared', (payload) => theirs.push(payload));
    await db.close();
    await lite.exec(`notify lite_shared, 'two'`);
    await until(() => theirs.length > 0, 'theirs is heard');
    expect([ours, theirs]).toEqual([['one'], ['two']]);
    await lite.unlisten('lite_shared');
  });
});

describe('the instance', () => {
  it('stays open after close()', async () => {
    await db.close();
    expect(lite.closed).toBe(false);
    expect(await db.ended).toBe(undefined);
  });

  it('closed by the user ends the session', async () => {
    const own = await PGlite.create();
    const session = openPglite(own, { applicationName: 'pgfetch' });
    await session.query(sql('select 1'));
    const closing = own.close();
    const late = session.query(sql('select 2'));
    const [outcome] = await Promise.allSettled([late, closing]);
    expect(outcome.status === 'fulfilled' || outcome.reason instanceof ConnectionLost).toBe(true);
    await expect(session.ping(1_000)).rejects.toThrow(ConnectionLost);
    await expect(session.query(sql('select 3'))).rejects.toThrow(ConnectionLost);
    expect(await session.ended).toBeInstanceOf(ConnectionLost);
    await session.close();
  }, 30_000);
});

describe('behind pglite-socket', () => {
  let server: PGLiteSocketServer;
  let url: string;
  beforeAll(async () => {
    server = new PGLiteSocketServer({ db: lite, port: 0, maxConnections: 10 });
    await server.start();
    url = `postgres://postgres@${server.getServerConn()}/postgres`;
  });
  afterAll(async () => server.stop());

  it('a transaction of a socket client holds up our in-process statements', async () => {
    const client = new pg.Client({ connectionString: url });
    await client.connect();
    try {
      await client.query('begin');
      const ours = db.query(insert);
      await until(() => waits > 0, 'our session waits');
      await client.query('insert into public.note values (50)');
      await client.query('rollback');
      await ours;
      expect(await count()).toBe(1);
    } finally {
      await client.end();
    }
  });

  it('a commit of a socket client does not reach our in-process listen, as documented', async () => {
    const heard: string[] = [];
    await db.listen('lite_deaf', (payload) => heard.push(payload));
    const client = new pg.Client({ connectionString: url });
    await client.connect();
    await client.query(`notify lite_deaf, 'from the socket'`);
    await client.end();
    await lite.exec(`notify lite_deaf, 'in-process'`);
    await until(() => heard.length > 0, 'the later notification arrives');
    expect(heard).toEqual(['in-process']);
  });

  it('a worker connects through the socket: statements work, LISTEN is told apart, the session is not changed', async () => {
    const before = await settings();
    const socket = await connectPg({ connectionString: url, applicationName: 'pgfetch', connectTimeoutMs: 10_000 });
    try {
      expect(await socket.query(sql('select $1::text as a, $2::bytea[] as b'), ['x', [new Uint8Array([0])]])).toEqual([
        { a: 'x', b: [Buffer.from([0])] },
      ]);
      await socket.transaction(async (session) => {
        await session.query(insert);
      });
      await socket.ping(10_000);
      expect(await socket.listen('lite_socket', () => {})).toBe(false);
      await expect(socket.query(sql('select 1 / 0'))).rejects.toMatchObject({ code: '22012' });
      expect(await socket.query(sql(`select current_setting('search_path') as path`))).toEqual([
        { path: 'pg_catalog, pg_temp' },
      ]);
      expect(await settings()).toEqual(before);
    } finally {
      await socket.close();
    }
    expect(await count()).toBe(1);
  });
});
