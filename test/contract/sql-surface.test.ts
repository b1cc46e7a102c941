import fc from 'fast-check';
import pg from 'pg';
import { describe, expect, test } from 'vitest';
import { admit } from '../../src/core/admit.ts';
import { FirstHops } from '../../src/http/hop.ts';
import { installedDatabase } from '../support/installed.ts';
import { availableMajors, startTestPostgres } from '../support/servers.ts';
import { backends, type Sql, type Stage } from './backends.ts';

// The SQL surface as far as it can be seen without a worker: what is there, what it accepts and refuses, what it puts into the queue.

const json = (value: unknown): string => `'${JSON.stringify(value).replaceAll("'", "''")}'::jsonb`;
const text = (value: string): string => `'${value.replaceAll("'", "''")}'`;

type SqlError = { code?: string; message: string; detail?: string; hint?: string; where?: string };

async function errorOf(sql: Sql, statement: string): Promise<SqlError> {
  try {
    await sql.query(statement);
  } catch (error) {
    return error as SqlError;
  }
  throw new Error(`this was accepted: ${statement}`);
}

describe.each(backends)('$name', (backend) => {
  const open = (): Promise<Stage> => backend.open({ worker: false });

  test('functions: names, order, types, defaults, and the attributes', async () => {
    const { sql } = await open();
    const found = await sql.query(`
      select p.proname as name, p.proargnames as names, p.proargtypes::regtype[]::text[] as types,
        pg_get_expr(p.proargdefaults, 0) as defaults, p.prorettype::regtype::text as result, p.provolatile as volatility,
        p.proisstrict as strict, p.prosecdef as security_definer, l.lanname as language, p.proparallel as parallel
      from pg_proc p join pg_language l on l.oid = p.prolang
      where p.pronamespace = 'net'::regnamespace and p.proname like 'http\\_%' and p.proname <> 'http_collect_response'
      order by p.proname`);
    const attributes = {
      result: 'bigint',
      volatility: 'v',
      security_definer: true,
      language: 'plpgsql',
      // The documentation says safe; a function that writes cannot be (see the test of the parallel scan).
      parallel: 'u',
    };
    const withoutBody = {
      ...attributes,
      names: ['url', 'params', 'headers', 'timeout_milliseconds'],
      types: ['text', 'jsonb', 'jsonb', 'integer'],
      defaults: `'{}'::jsonb, '{}'::jsonb, 2000`,
      strict: true,
    };
    const withBody = {
      ...attributes,
      names: ['url', 'body', 'params', 'headers', 'timeout_milliseconds'],
      types: ['text', 'jsonb', 'jsonb', 'jsonb', 'integer'],
      defaults: `'{}'::jsonb, '{}'::jsonb, '{"Content-Type": "application/json"}'::jsonb, 2000`,
      strict: false,
    };
    // The documented three, and ours in their shape.
    expect(found).toEqual([
      { name: 'http_delete', ...withoutBody },
      { name: 'http_get', ...withoutBody },
      { name: 'http_head', ...withoutBody },
      { name: 'http_patch', ...withBody },
      { name: 'http_post', ...withBody },
      { name: 'http_put', ...withBody },
    ]);
  });

  test('tables: the documented columns first, what is ours behind them is optional', async () => {
    const { sql } = await open();
    const column = (name: string, type: string, nullable: 'YES' | 'NO', fallback: string | null = null): unknown => ({
      column_name: name,
      data_type: type,
      is_nullable: nullable,
      column_default: fallback,
    });
    const documented = {
      http_request_queue: [
        column('id', 'bigint', 'NO', `nextval('net.http_request_queue_id_seq'::regclass)`),
        column('method', 'text', 'NO'),
        column('url', 'text', 'NO'),
        column('headers', 'jsonb', 'NO'),
        column('body', 'bytea', 'YES'),
        column('timeout_milliseconds', 'integer', 'NO'),
      ],
      _http_response: [
        column('id', 'bigint', 'YES'),
        column('status_code', 'integer', 'YES'),
        column('content_type', 'text', 'YES'),
        column('headers', 'jsonb', 'YES'),
        column('content', 'text', 'YES'),
        column('timed_out', 'boolean', 'YES'),
        column('error_msg', 'text', 'YES'),
        column('created', 'timestamp with time zone', 'NO', 'now()'),
      ],
    };
    for (const [table, columns] of Object.entries(documented)) {
      const found = await sql.query(`
        select column_name::text, data_type::text, is_nullable::text, column_default::text
        from information_schema.columns
        where table_schema = 'net' and table_name = '${table}'
        order by ordinal_position`);
      expect(found.slice(0, columns.length)).toEqual(columns);
      for (const extra of found.slice(columns.length)) {
        expect(extra['is_nullable'] === 'YES' || extra['column_default'] !== null, JSON.stringify(extra)).toBe(true);
      }
    }
    expect(
      await sql.query(`
        select c.relname, c.relpersistence from pg_class c
        where c.oid in ('net.http_request_queue'::regclass, 'net._http_response'::regclass, 'net.http_request_queue_id_seq'::regclass)
        order by c.relname`),
    ).toEqual([
      { relname: '_http_response', relpersistence: 'u' },
      { relname: 'http_request_queue', relpersistence: 'u' },
      { relname: 'http_request_queue_id_seq', relpersistence: 'p' },
    ]);
    const key = `select pg_get_constraintdef(oid) as definition from pg_constraint where conrelid = 'net.http_request_queue'::regclass and contype = 'p'`;
    expect(await sql.query(key)).toEqual([{ definition: 'PRIMARY KEY (id)' }]);
  });

  test('every SECURITY DEFINER function pins its search_path', async () => {
    const { sql } = await open();
    const functions = await sql.query<{ name: string; settings: string[] | null }>(`
      select p.oid::regprocedure::text as name, p.proconfig as settings
      from pg_proc p where p.pronamespace = 'net'::regnamespace and p.prosecdef`);
    expect(functions.length).toBeGreaterThan(3);
    for (const { name, settings } of functions) expect(settings, name).toEqual(['search_path=pg_catalog, pg_temp']);
  });

  test('the types and functions of pg_net beside the documented ones', async () => {
    const { sql } = await open();
    expect(
      await sql.query(
        `select 'dElEte'::net.http_method as method, enum_range(null::net.request_status)::text as statuses`,
      ),
    ).toEqual([{ method: 'dElEte', statuses: '{PENDING,SUCCESS,ERROR}' }]);
    expect((await errorOf(sql, `select 'PUT'::net.http_method`)).code).toBe('23514');
    const [found] = await sql.query<{ functions: string[] }>(`
      select array(
        select p.oid::regprocedure::text from pg_proc p
        where p.pronamespace = 'net'::regnamespace and p.proname in (
          '_await_response', '_http_collect_response', 'http_collect_response', '_urlencode_string',
          '_encode_url_with_params_array', 'wake', 'wait_until_running', 'check_worker_is_up', 'worker_restart')
      ) as functions`);
    expect(found?.functions.sort()).toEqual([
      'net._await_response(bigint)',
      'net._encode_url_with_params_array(text,text[])',
      'net._http_collect_response(bigint,boolean)',
      'net._urlencode_string(character varying)',
      'net.check_worker_is_up()',
      'net.http_collect_response(bigint,boolean)',
      'net.wait_until_running()',
      'net.wake()',
      'net.worker_restart()',
    ]);
  });

  test('http_put, http_patch and http_head do as http_post and http_get', async () => {
    const { sql } = await open();
    const pairs: readonly [ours: string, theirs: string][] = [
      ['put', 'post'],
      ['patch', 'post'],
      ['head', 'get'],
    ];
    const theSame = [
      `'http://h/a'`,
      `'http://h/a?b#c', params := '{"d": "e f"}', headers := '{"X-Key": 1}', timeout_milliseconds := 5`,
      `'http://h/a', headers := null`,
      `'http://h/a', params := null`,
    ];
    for (const [ours, theirs] of pairs) {
      for (const argumentsText of theirs === 'post'
        ? [...theSame, `'http://h', '{"a": "ü"}'`, `'http://h', null`]
        : theSame) {
        const rows = await sql.query(`
          delete from net.http_request_queue;
          select net.http_${ours}(${argumentsText}), net.http_${theirs}(${argumentsText});
          select upper(method) as method, url, headers, body::text, timeout_milliseconds, login_role, set_role, sign_with
          from net.http_request_queue order by id`);
        const [our, their] = rows;
        const methods = [ours, theirs].map((method) => method.toUpperCase());
        if (theirs === 'get' && argumentsText.includes('null')) expect(rows, argumentsText).toEqual([]);
        else expect({ ...their, method: methods[0] }, argumentsText).toEqual(our);
        if (their !== undefined) expect(their['method']).toBe(methods[1]);
      }
      for (const refused of [
        `'ftp://h'`,
        `'http://h', params := '[]'`,
        `'http://h', headers := '[]'`,
        `'http://h', headers := '{"Connection": "x"}'`,
        `'http://h/{{secret.a}}'`,
        `'http://h', timeout_milliseconds := 0`,
        ...(theirs === 'post' ? ['null', `'http://h', headers := '{"Content-Type": "text/plain"}'`] : []),
      ]) {
        const [our, their] = [
          await errorOf(sql, `select net.http_${ours}(${refused})`),
          await errorOf(sql, `select net.http_${theirs}(${refused})`),
        ];
        const { code, message, detail, hint } = their;
        expect(our, refused).toMatchObject({ code, message, ...(detail && { detail }), ...(hint && { hint }) });
      }
    }
  });

  describe('enqueueing', () => {
    test('stores what was given, and the defaults', async () => {
      const { sql } = await open();
      const rows = await sql.query(`
        select net.http_get('http://h/a'), net.http_delete('http://h/b', timeout_milliseconds := 5),
          net.http_post('https://h/c', '{"a": "ü"}', headers := '{"X-Key": "k"}'), net.http_post('http://h/d', null, null, null);
        select id, method, url, headers, convert_from(body, 'UTF8') as body, timeout_milliseconds
        from net.http_request_queue order by id`);
      const type = { 'Content-Type': 'application/json' };
      expect(rows).toEqual([
        { id: 1, method: 'GET', url: 'http://h/a', headers: {}, body: null, timeout_milliseconds: 2000 },
        { id: 2, method: 'DELETE', url: 'http://h/b', headers: {}, body: null, timeout_milliseconds: 5 },
        {
          id: 3,
          method: 'POST',
          url: 'https://h/c',
          headers: { ...type, 'X-Key': 'k' },
          body: '{"a": "ü"}',
          timeout_milliseconds: 2000,
        },
        { id: 4, method: 'POST', url: 'http://h/d', headers: type, body: null, timeout_milliseconds: 2000 },
      ]);
    });

    test('a STRICT function given NULL enqueues nothing', async () => {
      const { sql } = await open();
      const rows = await sql.query(`
        select net.http_get(null) as a, net.http_get('http://h', null) as b, net.http_get('http://h', headers := null) as c,
          net.http_delete('http://h', timeout_milliseconds := null) as d`);
      expect(rows).toEqual([{ a: null, b: null, c: null, d: null }]);
      expect(await sql.query('select from net.http_request_queue')).toEqual([]);
    });

    test('accepts what a browser or curl would take for a URL', async () => {
      const { sql } = await open();
      const urls = [
        'http://h',
        'HTTPS://H.example:8443/p?q=1#f',
        'http://user:pass@h/',
        'http://[::1]:8080/',
        'http://h?q',
        'http://h#f',
        'http://ex%C3%A4mple.de/%20',
        'http://exämple.de/ä',
        'http://127.1',
        'http://h:',
      ];
      for (const url of urls) await sql.query(`select net.http_get(${text(url)})`);
      expect(await sql.query('select url from net.http_request_queue order by id')).toEqual(
        urls.map((url) => ({ url })),
      );
    });

    test('refuses URLs, saying what is wrong', async () => {
      const { sql } = await open();
      const scheme = [
        'ftp://h/',
        'file:///etc/passwd',
        'javascript:alert(1)',
        'gopher://h',
        'data:text/plain,x',
        'mailto:a@b',
      ];
      for (const url of scheme) {
        const error = await errorOf(sql, `select net.http_get(${text(url)})`);
        expect(error, url).toMatchObject({ code: '22023', message: 'Unsupported URL scheme' });
        expect(error.hint, url).toMatch(/http:\/\/ and https:\/\//);
      }
      const invalid = [
        '/malformed_url',
        '',
        'example.com',
        'localhost:8080/x',
        'http://',
        'http:///x',
        'http:/h',
        'http://h:123456/',
        'http://h:x/',
        'http://h/a b',
        'http://h/\t',
        'http://h/\n',
        'http://[::1',
        ' http://h',
        `http://h/${'x'.repeat(65536)}`,
      ];
      for (const url of invalid) {
        for (const call of ['http_get', 'http_post', 'http_delete']) {
          const error = await errorOf(sql, `select net.${call}(${text(url)})`);
          expect(error, url).toMatchObject({ code: '22023' });
          expect(error.message, url).toContain(`invalid URL "${url.slice(0, 2000)}`);
          expect(error.hint, url).toMatch(/absolute URL/);
        }
      }
      const withSecrets = {
        'http://h\\@evil/': 'http://***@evil/',
        'http://u:secret@h/a b': 'http://***@h/a b',
        'https://u:se/cret@h/': 'https://***@h/',
        'http://u:s@cret@h/': 'http://***@h/',
        'http://u:s?cret@h/\n': 'http://***@h/\n',
        'HTTP://h:x/y?k=secret': 'HTTP://h:x/y?***',
        'h/y#secret': 'h/y?***',
        'secret@h/y': '***@h/y',
      };
      for (const [url, shown] of Object.entries(withSecrets)) {
        const error = await errorOf(sql, `select net.http_get(${text(url)})`);
        expect(error, url).toMatchObject({ code: '22023', message: `invalid URL "${shown}"` });
        expect([error.detail, error.hint, error.where].join('\n')).not.toMatch(/s[e@?]\/?cret/);
      }
      expect(await sql.query('select from net.http_request_queue')).toEqual([]);
    });

    test('refuses headers, and no message shows a value', async () => {
      const { sql } = await open();
      const cases: readonly [headers: unknown, message: RegExp][] = [
        [['secret'], /^headers must be a JSON object, not array$/],
        ['secret', /^headers must be a JSON object, not string$/],
        [null, /^headers must be a JSON object, not null$/],
        [{ Authorization: 'secret\r\nX-Evil: 1' }, /^the value of header "Authorization" contains a line break$/],
        [{ Authorization: 'secret\n' }, /line break/],
        [{ Authorization: 'secret\u0001' }, /control character/],
        [{ Authorization: 'secret\u007f' }, /control character/],
        [{ 'X-Token': null, Authorization: 'secret' }, /^the value of header "X-Token" is null$/],
        [{ 'Bad Name': 'secret' }, /^invalid header name "Bad Name"$/],
        [{ 'Bad\r\nName': 'secret' }, /^invalid header name "Bad\\r\\nName"$/],
        [{ 'Bad:': 'secret' }, /^invalid header name/],
        [{ '': 'secret' }, /^invalid header name ""$/],
        [{ Ümlaut: 'secret' }, /^invalid header name/],
        [{ Connection: 'secret' }, /^header "Connection" is not allowed$/],
        [{ A: '', 'content-LENGTH': '2' }, /^header "content-LENGTH" is not allowed$/],
        [{ 'Transfer-Encoding': 'secret' }, /^header "Transfer-Encoding" is not allowed$/],
        [{ Host: 'secret/x' }, /^the value of header "Host" is not a host$/],
        [{ Host: '' }, /^the value of header "Host" is not a host$/],
        [{ Host: 'h', host: 'h' }, /^header "Host" is given twice$/],
        [{ Authorization: `secret${'x'.repeat(65536)}` }, /^headers are too large: \d+ bytes$/],
      ];
      for (const [headers, message] of cases) {
        for (const call of ['http_get', 'http_post', 'http_delete']) {
          const error = await errorOf(sql, `select net.${call}('http://h', headers := ${json(headers)})`);
          expect(error.message).toMatch(message);
          expect(error.code).toBe('22023');
          expect(error.hint?.length).toBeGreaterThan(10);
          expect([error.message, error.detail, error.hint, error.where].join('\n')).not.toMatch(/secret/);
        }
      }
      expect(await sql.query('select from net.http_request_queue')).toEqual([]);
    });

    test('what the functions accept is sent, and what they refuse is refused when it is inserted by hand', async () => {
      const { sql } = await open();
      await sql.query(`
        create function pg_temp.checked(headers jsonb) returns jsonb language plpgsql as $$
        begin
          return net._checked_headers(headers);
        exception
          when invalid_parameter_value then
            return null;
        end $$`);
      const firstHops = new FirstHops('test');
      const isSent = (headersJson: string): boolean => {
        const row = {
          id: 1n,
          method: 'GET',
          url: 'http://h/',
          body: null,
          timeoutMs: 1,
          loginRole: null,
          setRole: null,
          signWith: null,
          extras: undefined,
        };
        const admitted = admit({ ...row, headersJson }, undefined);
        return admitted.kind === 'sendable' && firstHops.of(admitted, false).kind === 'hop';
      };
      type Row = { given: string; stored: string | null };
      await fc.assert(
        fc.asyncProperty(fc.array(headerObject, { maxLength: 60 }), async (given) => {
          const rows = await sql.query<Row>(`
            select h::text as given, pg_temp.checked(h)::text as stored from jsonb_array_elements(${json(given)}) h`);
          expect(rows).toHaveLength(given.length);
          for (const row of rows) {
            if (row.stored === null) expect(isSent(row.given), `${row.given} is refused`).toBe(false);
            else expect(isSent(row.stored), `${row.stored} is accepted`).toBe(true);
          }
        }),
        { numRuns: 60 },
      );
    });

    test('header values that are no strings become their text', async () => {
      const { sql } = await open();
      await sql.query(
        `select net.http_get('http://h', headers := '{"N": 1.50, "B": true, "O": {"a": [1]}, "S": "a\\tb \\"c\\"", "E": ""}')`,
      );
      expect(await sql.query('select headers from net.http_request_queue')).toEqual([
        { headers: { N: '1.50', B: 'true', O: '{"a": [1]}', S: 'a\tb "c"', E: '' } },
      ]);
    });

    test('refuses timeouts out of range', async () => {
      const { sql } = await open();
      for (const timeout of ['-1', '0', '86400001', '2147483647', '-2147483648']) {
        const error = await errorOf(sql, `select net.http_get('http://h', timeout_milliseconds := ${timeout})`);
        expect(error).toMatchObject({ code: '22023', message: `timeout_milliseconds is out of range: ${timeout}` });
        expect(error.hint).toMatch(/between 1 and 86400000/);
      }
      await sql.query(`select net.http_get('http://h', timeout_milliseconds := 86400000)`);
    });

    test('refuses NULL where it cannot be, without showing the row', async () => {
      const { sql } = await open();
      const headers = json({ Authorization: 'secret' });
      const url = await errorOf(sql, `select net.http_post(null, headers := ${headers})`);
      expect(url).toMatchObject({ code: '23502', schema: 'net', table: 'http_request_queue', column: 'url' });
      expect(url.message).toMatch(/^null value in column "url"/);
      expect(url.detail ?? '').not.toMatch(/secret/);
      const timeout = await errorOf(
        sql,
        `select net.http_post('http://h', timeout_milliseconds := null, headers := ${headers})`,
      );
      expect(timeout).toMatchObject({ code: '23502', column: 'timeout_milliseconds' });
    });

    test('http_post sends JSON only', async () => {
      const { sql } = await open();
      for (const type of ['text/plain', 'application/x-www-form-urlencoded', 'application/jsonp', '']) {
        const error = await errorOf(
          sql,
          `select net.http_post('http://h', headers := ${json({ 'content-TYPE': type })})`,
        );
        expect(error).toMatchObject({ code: '22023', message: 'Content-Type header must be "application/json"' });
        expect(error.hint).toMatch(/Leave the Content-Type out/);
      }
      const accepted = ['application/json', 'Application/JSON; charset=utf-8', 'application/json;v=1'];
      for (const type of accepted)
        await sql.query(`select net.http_post('http://h', headers := ${json({ 'content-type': type })})`);
      const rows = await sql.query<{ headers: unknown }>('select headers from net.http_request_queue order by id');
      expect(rows.map((row) => row.headers)).toEqual(accepted.map((type) => ({ 'content-type': type })));
    });
  });

  describe('params', () => {
    test('are percent-encoded as curl does it, byte by byte but for A-Z a-z 0-9 - . _ ~', async () => {
      const { sql } = await open();
      await fc.assert(
        fc.asyncProperty(fc.array(parameterText, { maxLength: 60 }), async (strings) => {
          const rows = await sql.query<{ encoded: string }>(`
            select net._urlencode_string(s) as encoded
            from jsonb_array_elements_text(${json(strings)}) with ordinality as t (s, n) order by n`);
          expect(rows.map((row) => row.encoded)).toEqual(strings.map(percentEncode));
        }),
        { numRuns: 40 },
      );
    });

    test('are all in the URL, names and values; null values are left out', async () => {
      const { sql } = await open();
      const value = fc.oneof(parameterText, fc.integer(), fc.boolean(), fc.constant(null));
      await fc.assert(
        fc.asyncProperty(fc.dictionary(parameterText, value, { maxKeys: 6 }), async (params) => {
          const [row] = await sql.query<{ url: string }>(`
            delete from net.http_request_queue;
            select net.http_get('http://h/p', ${json(params)});
            select url from net.http_request_queue`);
          const pairs = Object.entries(params)
            .filter(([, given]) => given !== null)
            .map(([name, given]) => `${percentEncode(name)}=${percentEncode(String(given))}`);
          const [before, query] = (row?.url ?? '').split(/\?(.*)/s);
          expect(before).toBe('http://h/p');
          expect((query ?? '').split('&').filter(Boolean).sort()).toEqual(pairs.sort());
        }),
        { numRuns: 40 },
      );
    });

    test('are appended to the query that the URL has, before its fragment', async () => {
      const { sql } = await open();
      const cases = {
        'http://h': 'http://h?a=1',
        'http://h/p': 'http://h/p?a=1',
        'http://h/p?': 'http://h/p?a=1',
        'http://h/p?x=2': 'http://h/p?x=2&a=1',
        'http://h/p?x=2&': 'http://h/p?x=2&a=1',
        'http://h/p#f': 'http://h/p?a=1#f',
        'http://h/p?x=2#f?g#h': 'http://h/p?x=2&a=1#f?g#h',
      };
      for (const [url, expected] of Object.entries(cases)) {
        await sql.query('delete from net.http_request_queue');
        await sql.query(
          `select net.http_get(${text(url)}, '{"a": 1}'), net.http_get(${text(url)}, '{}'), net.http_get(${text(url)}, '{"a": null}')`,
        );
        expect(await sql.query('select url from net.http_request_queue order by id')).toEqual([
          { url: expected },
          { url },
          { url },
        ]);
      }
      await sql.query(`delete from net.http_request_queue; select net.http_get('http://h', '{"o": {"a": [1, "ü"]}}')`);
      expect(await sql.query('select url from net.http_request_queue')).toEqual([
        { url: 'http://h?o=%7B%22a%22%3A%20%5B1%2C%20%22%C3%BC%22%5D%7D' },
      ]);
    });

    test('must be an object', async () => {
      const { sql } = await open();
      for (const params of [[1], 'x', 1, null]) {
        for (const call of ['http_get', 'http_post', 'http_delete']) {
          const error = await errorOf(sql, `select net.${call}('http://h', params := ${json(params)})`);
          expect(error.code).toBe('22023');
          expect(error.message).toMatch(/^params must be a JSON object, not (array|string|number|null)$/);
          expect(error.detail ?? '').not.toContain(JSON.stringify(params));
          expect(error.hint).toMatch(/key\/value pairs/);
        }
      }
    });
  });

  describe('transactions and ids', () => {
    test('a rollback enqueues nothing, nor does a savepoint rolled back; ids are given at once and never twice', async () => {
      const { sql } = await open();
      const id = async (): Promise<unknown> =>
        (await sql.query<{ id: number }>(`select net.http_get('http://h') as id`))[0]?.id;
      await sql.query('begin');
      const ids = [await id()];
      await sql.query('rollback; begin');
      ids.push(await id());
      await sql.query('savepoint s');
      ids.push(await id());
      await sql.query('rollback to s');
      ids.push(await id());
      await sql.query('commit');
      expect(new Set(ids).size).toBe(4);
      expect(await sql.query('select id from net.http_request_queue order by id')).toEqual([
        { id: ids[1] },
        { id: ids[3] },
      ]);

      await sql.query('truncate net.http_request_queue restart identity');
      expect(ids).not.toContain(await id());
      const many = await sql.query<{ id: number }>(
        `select net.http_get('http://h') as id from generate_series(1, 500)`,
      );
      expect(new Set([...ids, ...many.map((row) => row.id)]).size).toBe(504);
    });

    test('a scan that PostgreSQL would run in parallel enqueues a request per row', async () => {
      const { sql } = await open();
      await sql.query(`
        create table big as select n from generate_series(1, 20000) n;
        alter table big set (parallel_workers = 2);
        analyze big;
        set min_parallel_table_scan_size = 0; set parallel_setup_cost = 0; set parallel_tuple_cost = 0;
        set max_parallel_workers_per_gather = 2`);
      const plan = await sql.query('explain select n + 1 from big where n % 7 = 0');
      expect(JSON.stringify(plan)).toContain('Gather');
      await sql.query(`create table asked as select n, net.http_get('http://h/' || n) as id from big where n % 7 = 0`);
      await sql.query('drop table big');
      expect(
        await sql.query(`
          select count(*) as requests, count(distinct a.n) as rows
          from asked a join net.http_request_queue q on q.id = a.id and q.url = 'http://h/' || a.n`),
      ).toEqual([{ requests: 2857, rows: 2857 }]);
    });
  });
});

describe.each(availableMajors())('PostgreSQL %i', (major) => {
  test('after a crash the unlogged tables are empty, and no id is given again', async () => {
    const server = await startTestPostgres({ major, settings: { 'pgfetch_test.name': 'crash' } });
    const database = await installedDatabase(server);
    const asked = `select net.http_get('http://h') as id from generate_series(1, 100)`;
    const before = await queryOnce(database.url, asked);
    await server.restart('immediate');
    expect(await queryOnce(database.url, 'select from net.http_request_queue')).toEqual([]);
    const after = await queryOnce(database.url, asked);
    expect(new Set([...before, ...after].map((row) => row['id'])).size).toBe(200);
  });

  test('in a LATIN1 database the body is encoded in LATIN1, and params in UTF-8', async () => {
    const server = await startTestPostgres({ major, encoding: 'LATIN1' });
    const database = await installedDatabase(server);
    const rows = await queryOnce(
      database.url,
      `select net.http_post('http://h', '{"name": "café"}', params := '{"q": "é"}');
       select url, encode(body, 'escape') as body from net.http_request_queue`,
    );
    // curl_easy_escape would encode the bytes that the server holds; the URL standard says UTF-8, and so do the servers.
    expect(rows).toEqual([{ url: 'http://h?q=%C3%A9', body: '{"name": "caf\\351"}' }]);
  });
});

async function queryOnce(url: string, statement: string): Promise<Record<string, unknown>[]> {
  const client = new pg.Client({ connectionString: url });
  await client.connect();
  try {
    const results: pg.QueryResult | pg.QueryResult[] = await client.query(statement);
    return (Array.isArray(results) ? results.at(-1) : results)?.rows ?? [];
  } finally {
    await client.end();
  }
}

/** What jsonb can hold: no NUL, no lone surrogate. */
const parameterText: fc.Arbitrary<string> = fc
  .oneof(
    fc.string({ unit: 'binary' }),
    fc.string({ unit: 'grapheme' }),
    fc.string({
      unit: fc.constantFrom('%', '+', '&', '=', '?', '#', ' ', "'", '"', '\\', '/', '2', '5', '~', '*', '(', '\n'),
    }),
    fc.string({ unit: 'grapheme-ascii', minLength: 1 }),
  )
  .filter((string) => !string.includes('\u0000') && !/\p{Surrogate}/u.test(string));

const headerName = fc.oneof(
  // Those that are special, in any case, and what begins or ends like them.
  fc
    .tuple(
      fc.constantFrom('', '', '', '', 'x', 'x-'),
      fc.mixedCase(
        fc
          .constantFrom('host', 'te', 'connection', 'content-length', 'expect', 'upgrade', 'trailer', 'keep-alive')
          .chain((name) => fc.constantFrom(name, name, name, name.slice(0, -1))),
      ),
      fc.constantFrom('', '', '', '', 'x', '-x'),
    )
    .map((parts) => parts.join('')),
  fc.mixedCase(fc.constantFrom('proxy-connection', 'http2-settings', 'transfer-encoding')),
  fc.constantFrom('Content-Type', 'Cookie', 'User-Agent', 'traceparent', 'Proxy-Authorization', '__proto__', '1'),
  fc.string({ unit: fc.constantFrom(..."!#$%&'*+-.^_`|~azAZ09"), minLength: 1, maxLength: 8 }),
  fc.string({ unit: 'binary', maxLength: 4 }),
  fc.string({
    unit: fc.constantFrom('a', ' ', ':', '\n', '\t', '"', '\\', '\u007f', '\u0001', 'é', '@', '/'),
    maxLength: 4,
  }),
);
const headerValue = fc.oneof(
  {
    weight: 4,
    arbitrary: fc.constantFrom('h.example', '[::1]:80', 'h:65536', 'h:123456', ' h ', '[x]', 'h/', 'ü', 'a_b'),
  },
  { weight: 4, arbitrary: fc.string({ unit: 'grapheme-ascii', maxLength: 12 }) },
  fc.string({ unit: 'binary', maxLength: 4 }),
  fc.string({
    unit: fc.constantFrom('a', ' ', '\t', '\n', '\r', '"', '\\', '\u007f', '\u0001', '\u0085', 'é', '日'),
    maxLength: 5,
  }),
  fc.constantFrom(null, true, 1.5, 1e300, '', [], {}, { a: [1, '\n'] }, 'x'.repeat(65_536)),
);
/** Mostly objects, and what jsonb can hold: no NUL, no lone surrogate. */
const headerObject: fc.Arbitrary<unknown> = fc
  .oneof(
    { weight: 20, arbitrary: fc.dictionary(headerName, headerValue, { maxKeys: 3 }) },
    fc.constantFrom([], null, 'x', 1, ['a', 'b']),
  )
  .filter((headers) => !/\\u0000|\\ud[89a-f]/.test(JSON.stringify(headers)));

/** RFC 3986: all but the unreserved characters; encodeURIComponent leaves a few more. */
function percentEncode(string: string): string {
  return encodeURIComponent(string).replace(
    /[!'()*]/g,
    (character) => `%${character.charCodeAt(0).toString(16).toUpperCase()}`,
  );
}
