import fc from 'fast-check';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import {
  ConnectionLost,
  type Database,
  type Parameter,
  PostgresError,
  type Statement,
} from '../../src/postgres/database.ts';
import { until } from '../support/servers.ts';
import { backends, type RunningBackend } from './backends.ts';

let serial = 0;
/** A statement under a name of its own: names are unique per text. */
function sql(text: string): Statement {
  return { name: `contract_${serial++}`, text };
}

/** No NUL (text has none) and no lone surrogates (UTF-8 has none). */
const text = fc
  .string({
    unit: fc.oneof(
      fc.constantFrom('"', '\\', '{', '}', ',', "'", ' ', '\n', '😀', 'NULL', ''),
      fc.string({ unit: 'binary', minLength: 1, maxLength: 1 }),
    ),
  })
  .map((value) => value.replaceAll('\0', ''));
const bytes = fc.uint8Array({ maxLength: 64 });
const runs = { numRuns: 60 };

describe.each(backends)('the database port on $name', ({ capabilities, start }) => {
  let backend: RunningBackend;
  let db: Database;

  beforeAll(async () => {
    backend = await start();
    await backend.asUser('create table public.note (id int primary key, body text check (body <> $$bad$$))');
  }, 60_000);
  afterAll(async () => backend.stop());
  beforeEach(async () => {
    db = await backend.open();
    await db.execute('truncate public.note');
  });
  afterEach(async () => db.close());

  const roundTrip = async (value: Parameter, type: string): Promise<unknown> =>
    (await db.query<{ value: unknown }>(sql(`select $1::${type} as value`), [value]))[0]?.value;
  const noteIds = async (): Promise<unknown[]> =>
    (await backend.asUser('select id from public.note order by id')).map((row) => row['id']);
  const insert = sql('insert into public.note values ($1::int, $2::text)');

  describe('values', () => {
    it('parses each type as the port says', async () => {
      const [row] = await db.query(
        sql(`select 9007199254740993::int8 as int8, 7::int4 as int4, 7::int2 as int2, 3::oid as oid, true as yes, false as no,
          1.5::float8 as float8, 1.50::numeric as numeric, '\\x00ff'::bytea as bytea, '{"a": 1}'::json as json,
          '{"a":1}'::jsonb as jsonb, '2026-01-31 13:00:00.5+01'::timestamptz as instant, 'infinity'::timestamptz as never,
          '-infinity'::timestamptz as always, '0044-03-15 12:00:00+00 BC'::timestamptz as ides, '12026-01-01 00:00+00'::timestamptz as far,
          null::int8 as missing, '12'::xid8 as xid8, '{1,NULL,3}'::int8[] as int8s, '{}'::text[] as none,
          array['a"b', '\\', null, 'NULL', '', '{,}']::text[] as texts, array['\\x00'::bytea, null] as byteas, array[true, false] as bools,
          'x'::name as name`),
      );
      expect({ ...row }).toEqual({
        int8: 9007199254740993n,
        int4: 7,
        int2: 7,
        oid: 3,
        yes: true,
        no: false,
        float8: 1.5,
        numeric: '1.50',
        bytea: Buffer.from([0x00, 0xff]),
        json: '{"a": 1}',
        jsonb: '{"a": 1}',
        instant: new Date('2026-01-31T12:00:00.500Z'),
        never: new Date(8.64e15),
        always: new Date(-8.64e15),
        ides: new Date('-000043-03-15T12:00:00Z'),
        far: new Date('+012026-01-01T00:00:00Z'),
        missing: null,
        xid8: '12',
        int8s: [1n, null, 3n],
        none: [],
        texts: ['a"b', '\\', null, 'NULL', '', '{,}'],
        byteas: [Buffer.from([0x00]), null],
        bools: [true, false],
        name: 'x',
      });
    });

    it('returns no rows from what returns none', async () => {
      expect(await db.query(insert, [1, 'a'])).toEqual([]);
      expect(await db.query(sql('select 1 as one where false'))).toEqual([]);
    });

    it('takes every kind of scalar parameter', async () => {
      expect(await roundTrip(9223372036854775807n, 'int8')).toBe(9223372036854775807n);
      expect(await roundTrip(-5, 'int4')).toBe(-5);
      expect(await roundTrip(true, 'bool')).toBe(true);
      expect(await roundTrip(false, 'bool')).toBe(false);
      expect(await roundTrip(null, 'text')).toBe(null);
      expect(await roundTrip('{"a": "b"}', 'jsonb')).toBe('{"a": "b"}');
      expect(await roundTrip([1n, null, 3], 'int8[]')).toEqual([1n, null, 3n]);
      expect(await roundTrip([true, null], 'bool[]')).toEqual([true, null]);
    });

    it('brings back any text', async () => {
      await fc.assert(
        fc.asyncProperty(text, async (value) => {
          expect(await roundTrip(value, 'text')).toBe(value);
        }),
        runs,
      );
    });

    it('brings back any array of texts', async () => {
      await fc.assert(
        fc.asyncProperty(fc.array(fc.option(text)), async (values) => {
          expect(await roundTrip(values, 'text[]')).toEqual(values);
        }),
        runs,
      );
    });

    it('brings back any bytes, and any array of bytes', async () => {
      await fc.assert(
        fc.asyncProperty(bytes, fc.array(fc.option(bytes)), async (one, many) => {
          expect(Uint8Array.from((await roundTrip(one, 'bytea')) as Uint8Array)).toEqual(one);
          const back = (await roundTrip(many, 'bytea[]')) as (Uint8Array | null)[];
          expect(back.map((each) => each && Uint8Array.from(each))).toEqual(many);
        }),
        runs,
      );
    });

    it('takes arrays of a thousand texts and bytes through unnest', async () => {
      const texts = Array.from({ length: 1_000 }, (_, index) => (index % 7 === 0 ? null : `text "${index}" \\`));
      const bodies = Array.from({ length: 1_000 }, (_, index) =>
        index % 5 === 0 ? null : new Uint8Array(index % 300).fill(index),
      );
      const [row] = await db.query(
        sql(
          'select count(*) as rows, count(t) as texts, sum(length(b)) as bytes from unnest($1::text[], $2::bytea[]) as u(t, b)',
        ),
        [texts, bodies],
      );
      expect(row).toEqual({
        rows: 1_000n,
        texts: BigInt(texts.filter((each) => each !== null).length),
        bytes: BigInt(bodies.reduce((sum, each) => sum + (each?.length ?? 0), 0)),
      });
    });

    it('brings back a body of some megabytes', async () => {
      const body = new Uint8Array(3_000_000).fill(0xa5);
      const back = (await roundTrip([body, null], 'bytea[]')) as Uint8Array[];
      expect(Buffer.compare(back[0] ?? new Uint8Array(), body)).toBe(0);
    });
  });

  describe('transactions', () => {
    it('commits when the work returns, with its result', async () => {
      const result = await db.transaction(async (session) => {
        await session.query(insert, [1, 'a']);
        await session.execute('insert into public.note values (2)');
        return 'done';
      });
      expect(result).toBe('done');
      expect(await noteIds()).toEqual([1, 2]);
    });

    it('rolls back and rethrows what the work throws', async () => {
      const thrown = new Error('changed my mind');
      const work = db.transaction(async (session) => {
        await session.query(insert, [1, 'a']);
        throw thrown;
      });
      await expect(work).rejects.toBe(thrown);
      expect(await noteIds()).toEqual([]);
      expect(await db.query(sql('select 1 as one'))).toEqual([{ one: 1 }]);
    });

    it('does not pass off a transaction as committed that an ignored error had aborted', async () => {
      const work = db.transaction(async (session) => {
        await session.query(insert, [1, 'a']);
        await session.query(insert, [1, 'a']).catch(() => {});
      });
      await expect(work).rejects.toMatchObject({ name: 'PostgresError', code: '25P02' });
      expect(await noteIds()).toEqual([]);
    });

    it('reports what fails at commit', async () => {
      await db.execute('create temp table unique_later (id int unique deferrable initially deferred)');
      await backend.asUser('create table if not exists public.later (id int unique deferrable initially deferred)');
      const work = db.transaction((session) => session.execute('insert into public.later values (1), (1)'));
      await expect(work).rejects.toMatchObject({ code: '23505' });
      await expect(db.query(sql('insert into public.later values (1), (1)'))).rejects.toMatchObject({ code: '23505' });
      expect(await backend.asUser('select 1 from public.later')).toEqual([]);
    });

    it('keeps other statements of the same Database out until it has ended, and runs all in the order given', async () => {
      const isolated = sql('insert into public.note select coalesce(max(id), 0) + 1, $1 from public.note');
      const first = db.query(isolated, ['first']);
      const inside = db.transaction(async (session) => {
        await session.query(isolated, ['in 1']);
        await new Promise((resolve) => setImmediate(resolve));
        await session.query(isolated, ['in 2']);
        throw new Error('undo');
      });
      const second = db.query(isolated, ['second']);
      const again = db.transaction((session) => session.query(isolated, ['third']));
      const last = db.query(isolated, ['last']);
      await Promise.allSettled([first, inside, second, again, last]);
      expect((await backend.asUser('select body from public.note order by id')).map((row) => row['body'])).toEqual([
        'first',
        'second',
        'third',
        'last',
      ]);
    });

    it('refuses its session after the end', async () => {
      const session = await db.transaction(async (given) => given);
      await expect(session.query(insert, [1, 'a'])).rejects.toThrow('the transaction has ended');
      expect(await noteIds()).toEqual([]);
    });

    it('answers many statements at once, each with its own rows or error', async () => {
      const double = sql('select 2 * $1::int as value');
      const divide = sql('select 1 / $1::int as value');
      const answers = await Promise.allSettled(
        Array.from({ length: 100 }, (_, index) =>
          db.query<{ value: number }>(index % 10 === 3 ? divide : double, [index % 10 === 3 ? 0 : index]),
        ),
      );
      for (const [index, answer] of answers.entries()) {
        if (index % 10 === 3) expect(answer).toMatchObject({ status: 'rejected', reason: { code: '22012' } });
        else expect(answer).toMatchObject({ status: 'fulfilled', value: [{ value: 2 * index }] });
      }
    });
  });

  describe('errors', () => {
    it('carry SQLSTATE, detail and hint', async () => {
      const raised = db.execute(`do $body$ begin
        raise exception 'no; not "this"' using errcode = 'PF001', detail = 'the detail', hint = 'the hint'; end $body$`);
      await expect(raised).rejects.toThrow(PostgresError);
      await expect(raised).rejects.toMatchObject({
        message: 'no; not "this"',
        code: 'PF001',
        detail: 'the detail',
        hint: 'the hint',
      });
    });

    it('have no detail or hint where the server gave none', async () => {
      const error: unknown = await db.query(sql('select 1 / 0')).catch((reason: unknown) => reason);
      expect(error).toMatchObject({ code: '22012', detail: undefined, hint: undefined });
    });

    it('of a statement that cannot be parsed leave the next one alone', async () => {
      const broken = db.query(sql('selekt 1'));
      const next = db.query(sql('select 1 as one'));
      await expect(broken).rejects.toMatchObject({ code: '42601' });
      expect(await next).toEqual([{ one: 1 }]);
    });

    it('of a value the server refuses leave the next one alone', async () => {
      await expect(roundTrip('a\0b', 'text')).rejects.toMatchObject({ code: '22021' });
      await expect(roundTrip('x', 'int4')).rejects.toMatchObject({ code: '22P02' });
      expect(await roundTrip('5', 'int4')).toBe(5);
    });

    it('refuse several statements in one query', async () => {
      await expect(db.query(sql('select 1; select 2'))).rejects.toMatchObject({ code: '42601' });
    });
  });

  describe('scripts', () => {
    it('run all statements, dollar quotes and all', async () => {
      await db.execute(`
        create or replace function public.twice(n int) returns int language plpgsql as $f$
        begin return n * 2; -- a ; in a comment
        end $f$;
        insert into public.note values (public.twice(4), 'a;b');
      `);
      expect(await backend.asUser('select id, body from public.note')).toEqual([{ id: 8, body: 'a;b' }]);
    });

    it('run all or nothing', async () => {
      await expect(
        db.execute('insert into public.note values (1); insert into public.note values (2, $$bad$$)'),
      ).rejects.toMatchObject({ code: '23514' });
      expect(await noteIds()).toEqual([]);
    });

    it('may be empty', async () => {
      await db.execute('-- nothing');
      await db.execute('');
    });
  });

  describe('notifications', () => {
    const heard: string[] = [];
    beforeEach(async () => {
      heard.length = 0;
      expect(await db.listen('contract_channel', (payload) => heard.push(payload))).toBe(true);
    });
    const notify = sql(`select pg_notify('contract_channel', $1)`);

    it('arrive at commit, in order, none from what was rolled back', async () => {
      await db
        .transaction(async (session) => {
          await session.query(notify, ['undone']);
          throw new Error('undo');
        })
        .catch(() => {});
      await db.transaction(async (session) => {
        await session.query(notify, ['one']);
        await session.query(sql('select 1'));
        expect(heard).toEqual([]);
        await session.query(notify, ['two']);
      });
      await until(() => heard.length >= 2, 'both notifications arrive');
      expect(heard).toEqual(['one', 'two']);
    });

    it('arrive when the user sends them', async () => {
      await backend.asUser(`select pg_notify('contract_channel', 'from the user')`);
      await until(() => heard.length > 0, 'the notification arrives');
      expect(heard).toEqual(['from the user']);
    });

    it('stop after close', async () => {
      await db.close();
      const other = await backend.open();
      try {
        const listening: string[] = [];
        await other.listen('contract_channel', (payload) => listening.push(payload));
        await other.query(notify, ['late']);
        await until(() => listening.length > 0, 'the open session hears it');
        expect(heard).toEqual([]);
      } finally {
        await other.close();
      }
    });

    it('are refused for a name that would need quoting', async () => {
      for (const name of ['', 'Upper', 'a b', 'a"b', 'x; drop table y', 'a'.repeat(64)]) {
        await expect(db.listen(name, () => {})).rejects.toThrow(TypeError);
      }
    });
  });

  describe('the end of a session', () => {
    it('comes with close, which is idempotent', async () => {
      await Promise.all([db.close(), db.close()]);
      await db.close();
      expect(await db.ended).toBe(undefined);
      await expect(db.query(sql('select 1'))).rejects.toThrow(ConnectionLost);
      await expect(db.execute('select 1')).rejects.toThrow(ConnectionLost);
      await expect(db.transaction(async () => {})).rejects.toThrow(ConnectionLost);
      await expect(db.listen('contract_channel', () => {})).rejects.toThrow(ConnectionLost);
      await expect(db.ping(1_000)).rejects.toThrow(ConnectionLost);
    });

    it('does not come from a ping', async () => {
      await db.ping(10_000);
      await Promise.all([db.query(sql('select 1')), db.ping(10_000), db.query(sql('select 2')), db.ping(10_000)]);
      expect(await db.query(sql('select 3 as three'))).toEqual([{ three: 3 }]);
    });

    it.runIf(capabilities.severalSessions)('comes when an administrator terminates it while idle', async () => {
      const [row] = await db.query<{ pid: number }>(sql('select pg_backend_pid() as pid'));
      await backend.asUser('select pg_terminate_backend($1)', [row?.pid]);
      const reason = await db.ended;
      expect(reason).toBeInstanceOf(ConnectionLost);
      await expect(db.query(sql('select 1'))).rejects.toThrow(ConnectionLost);
      await db.close();
    });

    it.runIf(capabilities.severalSessions)(
      'comes when terminated with statements in flight and in a transaction',
      async () => {
        const held = db.transaction(async (session) => {
          const [row] = await session.query<{ pid: number }>(sql('select pg_backend_pid() as pid'));
          const inFlight = [session.query(sql('select pg_sleep(60)')), session.query(sql('select 1'))];
          const terminated = backend.asUser('select pg_terminate_backend($1)', [row?.pid]);
          const answers = await Promise.allSettled(inFlight);
          await terminated;
          for (const answer of answers)
            expect(answer).toMatchObject({ status: 'rejected', reason: { name: 'ConnectionLost' } });
        });
        const waiting = db.query(sql('select 1'));
        for (const outcome of await Promise.allSettled([held, waiting])) {
          expect(outcome).toMatchObject({ status: 'rejected', reason: { name: 'ConnectionLost' } });
        }
        expect((await db.ended)?.message).toContain('terminating connection due to administrator command');
      },
    );
  });

  describe('settings', () => {
    const names = [
      'search_path',
      'TimeZone',
      'DateStyle',
      'bytea_output',
      'statement_timeout',
      'lock_timeout',
      'transaction_isolation',
      'row_security',
    ];
    const pinned = ['pg_catalog, pg_temp', 'UTC', 'ISO, YMD', 'hex', '1min', '5s', 'read committed', 'on'];
    const inEffect = async (): Promise<unknown> =>
      (
        await db.query<{ value: string[] }>(
          sql('select array(select current_setting(n) from unnest($1::text[]) as n) as value'),
          [names],
        )
      )[0]?.value;

    it('are pinned', async () => {
      expect(await inEffect()).toEqual(pinned);
      expect(
        await db.transaction((session) =>
          session.query(sql(`select current_setting('transaction_isolation') as level`)),
        ),
      ).toEqual([{ level: 'read committed' }]);
    });

    it('name the application', async () => {
      const [row] = await db.query(sql(`select current_setting('application_name') as name`));
      expect(row).toEqual({ name: 'pgfetch contract test' });
    });

    it.runIf(capabilities.roleDefaults)('survive the defaults of a hostile role', async () => {
      const role = 'pgfetch_contract_hostile';
      await backend.asUser(`drop role if exists ${role}`);
      await backend.asUser(`create role ${role} superuser login password 'secret'`);
      await backend.asUser('create schema if not exists evil');
      await backend.asUser(
        `create or replace function evil.set_config(text, text, boolean) returns text language sql as 'select 1 / 0 || $1'`,
      );
      await backend.asUser(
        `create or replace function evil.strpos(text, text) returns int language sql as 'select 1 / 0'`,
      );
      const hostile: Record<string, string> = {
        search_path: 'evil, pg_catalog',
        default_transaction_isolation: 'serializable',
        statement_timeout: '2s',
        lock_timeout: '1ms',
        timezone: 'Asia/Kathmandu',
        datestyle: 'German',
        bytea_output: 'escape',
        row_security: 'off',
        client_encoding: 'LATIN1',
      };
      for (const [name, value] of Object.entries(hostile)) {
        await backend.asUser(`alter role ${role} set ${name} = ${name === 'search_path' ? value : `'${value}'`}`);
      }
      await db.close();
      db = await backend.open(role);
      try {
        expect(await db.query(sql('select session_user::text as name'))).toEqual([{ name: role }]);
        expect(await inEffect()).toEqual(pinned);
        expect(await roundTrip('😀', 'text')).toBe('😀');
      } finally {
        await db.close();
        await backend.asUser('drop schema evil cascade');
        await backend.asUser(`drop role ${role}`);
      }
    });

    it.runIf(capabilities.severalSessions)('are the only ones after a reset, which forgets all else', async () => {
      const settings = `select set_config('app.left', 'here', false), set_config('statement_timeout', '1s', false)`;
      await db.execute(`${settings}; create temp table left_table (x int); select pg_advisory_lock(4711)`);
      await db.reset();
      expect(
        await db.query(
          sql(`select nullif(current_setting('app.left', true), '') as setting, to_regclass('pg_temp.left_table')::text as of,
            exists (select from pg_locks where locktype = 'advisory' and pid = pg_backend_pid()) as locks`),
        ),
      ).toEqual([{ setting: null, of: null, locks: false }]);
      expect(await inEffect()).toEqual(pinned);
      expect(await roundTrip(1, 'int')).toBe(1);
    });

    it('of the user are not touched by a reset', async () => {
      await backend.asUser(`create temp table users_table (x int)`);
      await db.reset();
      expect(await backend.asUser('select x from users_table')).toEqual([]);
      await backend.asUser('drop table users_table');
    });

    it('of the user are not touched', async () => {
      await backend.asUser(`set timezone = 'Asia/Tokyo'`);
      await backend.asUser(`set search_path = public`);
      await db.query(sql('select 1'));
      await db.transaction((session) => session.query(sql('select 1')));
      await db.query(sql('select 1 / 0')).catch(() => {});
      expect(
        await backend.asUser(`select current_setting('timezone') as zone, current_setting('search_path') as path`),
      ).toEqual([{ zone: 'Asia/Tokyo', path: 'public' }]);
      await backend.asUser('reset all');
    });
  });
});
