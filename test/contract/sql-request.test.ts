import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { secretsUsedBy } from '../../src/core/secret-references.ts';
import { installedDatabase } from '../support/installed.ts';
import { closedAfterEach, openSession } from '../support/opened.ts';
import { startTestPostgres } from '../support/servers.ts';
import { backends, type Sql, type Stage } from './backends.ts';

// net.request: what it puts into the queue, what it refuses, and that what it accepts arrives.

type SqlError = { code?: string; message: string; detail?: string; hint?: string; where?: string };

async function errorOf(sql: Sql, statement: string): Promise<SqlError> {
  try {
    await sql.query(statement);
  } catch (error) {
    return error as SqlError;
  }
  throw new Error(`this was accepted: ${statement}`);
}

const literal = (value: unknown): string => `'${JSON.stringify(value).replaceAll("'", "''")}'`;

type QueueRow = { method: string; url: string; headers: Record<string, string>; body: string | null };

/** Makes one request by these arguments; returns its row, with the body as text. */
async function rowOf(sql: Sql, argumentsText: string): Promise<QueueRow> {
  const [row] = await sql.query<QueueRow>(`
    delete from net.http_request_queue;
    select net.request(${argumentsText});
    select method, url, headers, convert_from(body, 'UTF8') as body from net.http_request_queue`);
  if (row === undefined) throw new Error('nothing was enqueued');
  return row;
}

describe.each(backends)('$name', (backend) => {
  const open = (): Promise<Stage> => backend.open({ worker: false });

  test('stores what was given, and who called; NULL is as good as not given', async () => {
    const { sql } = await open();
    const rows = await sql.query(`
      select net.request('GET', 'http://h/a');
      select net.request('put', 'http://h/b', '{"X": "y"}', null, '{"a": "ü"}', timeout_milliseconds := 5);
      select net.request('DELETE', 'http://h/c', null, null, null, null, null, null, null, null);
      select method, url, headers, convert_from(body, 'UTF8') as body, timeout_milliseconds, sign_with, login_role,
        set_role::regrole::text as by
      from net.http_request_queue order by id`);
    const same = { login_role: null, sign_with: null, by: 'postgres' };
    expect(rows).toEqual([
      { ...same, method: 'GET', url: 'http://h/a', headers: {}, body: null, timeout_milliseconds: 2000 },
      {
        ...same,
        method: 'PUT',
        url: 'http://h/b',
        headers: { X: 'y', 'Content-Type': 'application/json' },
        body: '{"a": "ü"}',
        timeout_milliseconds: 5,
      },
      { ...same, method: 'DELETE', url: 'http://h/c', headers: {}, body: null, timeout_milliseconds: 2000 },
    ]);
  });

  test('each kind of body has its Content-Type, unless one is given', async () => {
    const { sql } = await open();
    const cases: readonly [body: string, contentType: string, bytes: string][] = [
      [`"json" := '{"a": 1}'`, 'application/json', '{"a": 1}'],
      [`"json" := 'null'`, 'application/json', 'null'],
      [`form := '{"a": "1 2"}'`, 'application/x-www-form-urlencoded', 'a=1+2'],
      [`form := '{}'`, 'application/x-www-form-urlencoded', ''],
      [`text := 'é'`, 'text/plain; charset=utf-8', 'é'],
      [`text := ''`, 'text/plain; charset=utf-8', ''],
      [`bytes := '\\x6162'`, 'application/octet-stream', 'ab'],
    ];
    for (const [body, contentType, bytes] of cases) {
      const row = await rowOf(sql, `'POST', 'http://h', ${body}`);
      expect(row, body).toMatchObject({ headers: { 'Content-Type': contentType }, body: bytes });
      const own = await rowOf(sql, `'POST', 'http://h', '{"content-TYPE": "a/b"}', ${body}`);
      expect(own.headers, body).toEqual({ 'content-TYPE': 'a/b' });
    }
    expect((await rowOf(sql, `'POST', 'http://h'`)).headers).toEqual({});
  });

  test('params are appended as those of http_get; of an array each element', async () => {
    const { sql } = await open();
    const cases: Record<string, string> = {
      '{"tag": ["a b", "c", null, 1, true], "n": null, "x": "é"}': 'http://h/?x=%C3%A9&tag=a%20b&tag=c&tag=1&tag=true',
      '{"a": []}': 'http://h/',
      '{"a": [{"b": [1]}, [2]]}': 'http://h/?a=%7B%22b%22%3A%20%5B1%5D%7D&a=%5B2%5D',
      '{}': 'http://h/',
    };
    for (const [params, url] of Object.entries(cases)) {
      expect((await rowOf(sql, `'GET', 'http://h/', params := '${params}'`)).url, params).toBe(url);
    }
    expect((await rowOf(sql, `'GET', 'http://h/?a=1#f', params := '{"b": 2}'`)).url).toBe('http://h/?a=1&b=2#f');
  });

  test('a form is what URLSearchParams makes of it', async () => {
    const { sql } = await open();
    const text = fc
      .oneof(
        fc.string({ unit: 'binary', maxLength: 8 }),
        fc.string({
          unit: fc.constantFrom('%', '2', '0', 'A', '*', '~', '+', ' ', '&', '=', "'", '\n', 'é'),
          maxLength: 8,
        }),
      )
      .filter((string) => !string.includes('\u0000') && !/\p{Surrogate}/u.test(string));
    await fc.assert(
      fc.asyncProperty(
        fc.dictionary(text, fc.oneof(text, fc.array(text, { maxLength: 3 })), { maxKeys: 4 }),
        async (form) => {
          const { body } = await rowOf(sql, `'POST', 'http://h', form := ${literal(form)}`);
          const found = new URLSearchParams(body ?? '');
          // jsonb keeps the names in an order of its own.
          const expected = [...found.keys()]
            .filter((name, index, names) => names.indexOf(name) === index)
            .flatMap((name) => [form[name] ?? []].flat().map((value): [string, string] => [name, value]));
          expect(body).toBe(new URLSearchParams(expected).toString());
          expect([...new Set(found.keys())].sort()).toEqual(
            Object.keys(form)
              .filter((name) => [form[name] ?? []].flat().length > 0)
              .sort(),
          );
        },
      ),
      { numRuns: 60 },
    );
  });

  test('methods: known ones in upper case, others as they are', async () => {
    const { sql } = await open();
    const cases = {
      options: 'OPTIONS',
      Patch: 'PATCH',
      head: 'HEAD',
      PROPFIND: 'PROPFIND',
      mkcol: 'mkcol',
      'M-SEARCH': 'M-SEARCH',
    };
    for (const [given, stored] of Object.entries(cases)) {
      expect((await rowOf(sql, `'${given}', 'http://h'`)).method).toBe(stored);
    }
  });

  test('refuses what cannot be sent, saying what is wrong and showing no header or body', async () => {
    const { sql } = await open();
    const cases: readonly [argumentsText: string, code: string, message: RegExp][] = [
      [`null, 'http://h'`, '23502', /^null value in column "method"/],
      [`'GET', null`, '23502', /^null value in column "url"/],
      [`'', 'http://h'`, '22023', /^invalid method ""$/],
      [`'GET ', 'http://h'`, '22023', /^invalid method "GET "$/],
      [`E'GET\\r\\nX: y', 'http://h'`, '22023', /^invalid method "GET\\r\\nX: y"$/],
      [`'GÉT', 'http://h'`, '22023', /^invalid method/],
      [`'${'x'.repeat(65)}', 'http://h'`, '22023', /^invalid method/],
      [`'connect', 'http://h'`, '22023', /^method CONNECT is not allowed$/],
      [`'Trace', 'http://h'`, '22023', /^method TRACE is not allowed$/],
      [`'GET', 'ftp://h'`, '22023', /^Unsupported URL scheme$/],
      [`'GET', 'h'`, '22023', /^invalid URL "h"$/],
      [`'GET', 'http://h', timeout_milliseconds := 0`, '22023', /^timeout_milliseconds is out of range: 0$/],
      [`'GET', 'http://h', params := '["secret"]'`, '22023', /^params must be a JSON object, not array$/],
      [`'POST', 'http://h', form := '"secret"'`, '22023', /^form must be a JSON object, not string$/],
      [`'GET', 'http://h', '["secret"]'`, '22023', /^headers must be a JSON object, not array$/],
      [`'POST', 'http://h', '["secret"]', text := 'secret'`, '22023', /^headers must be a JSON object/],
      [`'GET', 'http://h', '{"Connection": "secret"}'`, '22023', /^header "Connection" is not allowed$/],
      [`'POST', 'http://h', "json" := '"secret"', text := ''`, '22023', /^a request has one body at most$/],
      [`'POST', 'http://h', form := '{}', bytes := ''`, '22023', /^a request has one body at most$/],
      [`'get', 'http://h', "json" := '"secret"'`, '22023', /^a GET request has no body$/],
      [`'HEAD', 'http://h', bytes := ''`, '22023', /^a HEAD request has no body$/],
      [`'POST', 'http://h', sign_with := 'Secret'`, '22023', /^sign_with is not the name of a secret$/],
      [`'POST', 'http://h', sign_with := ''`, '22023', /^sign_with is not the name of a secret$/],
      [`'POST', 'http://h', sign_with := 'a${'b'.repeat(63)}'`, '22023', /^sign_with is not/],
      [`'POST', 'http://h', '{"Webhook-SIGNATURE": "secret"}', sign_with := 'a'`, '22023', /^a request that is signed/],
      [`'POST', 'http://h', '{"webhook-timestamp": "secret"}', sign_with := 'a'`, '22023', /^a request that is signed/],
    ];
    for (const [argumentsText, code, message] of cases) {
      const error = await errorOf(sql, `select net.request(${argumentsText})`);
      expect(error, argumentsText).toMatchObject({ code });
      expect(error.message, argumentsText).toMatch(message);
      expect(error.hint?.length, argumentsText).toBeGreaterThan(10);
      const said = [error.message, error.detail, error.hint, error.where].join('\n');
      expect(said, argumentsText).not.toMatch(/"secret"|'secret'|Secret'/);
    }
    expect(await sql.query('select from net.http_request_queue')).toEqual([]);
  });

  test('refuses every option where it makes no sense, saying which and what to do', async () => {
    const { sql } = await open();
    await sql.query(`
      create function public.fine(response net._http_response) returns void language sql
        security definer set search_path = pg_catalog, pg_temp as '';
      create function public.not_definer(response net._http_response) returns void language sql as '';
      create function public.takes_another(response integer) returns void language sql
        security definer set search_path = pg_catalog, pg_temp as ''`);
    const long = 'x'.repeat(256);
    const cases: readonly [options: string, code: string, message: RegExp][] = [
      ['max_attempts := 0', '22023', /^max_attempts is 0/],
      ['max_attempts := -1', '22023', /^max_attempts is -1/],
      ['max_attempts := 101', '22023', /^max_attempts is 101/],
      [`retry_policy := 'none such'`, '42704', /^there is no retry policy "none such"$/],
      [`retry_policy := ''`, '42704', /^there is no retry policy ""$/],
      [`run_at := 'infinity'`, '22023', /^run_at must be finite$/],
      [`run_at := '-infinity'`, '22023', /^run_at must be finite$/],
      [`run_at := now(), delay := '1 s'`, '22023', /^run_at and delay are both given$/],
      [`idempotency_key := ''`, '22023', /^an idempotency key is/],
      [`idempotency_key := '${long}'`, '22023', /^an idempotency key is/],
      [`idempotency_key := 'é'`, '22023', /^an idempotency key is/],
      [`idempotency_key := 'k', headers := '{"idempotency-KEY": "secret"}'`, '22023', /both given$/],
      [`ordering_key := ''`, '22023', /^ordering_key must have 1 to 255 characters/],
      [`ordering_key := '${long}'`, '22023', /^ordering_key must have/],
      [`ordering_key := E'a\nb'`, '22023', /^ordering_key must have .* no control characters$/],
      [`ordering_key := 'k', run_at := now()`, '22023', /^ordering_key does not go with run_at or delay$/],
      [`ordering_key := 'k', delay := '1 s'`, '22023', /^ordering_key does not go with run_at or delay$/],
      [`ordering_key := 'k', priority := 1`, '22023', /^ordering_key does not go with priority$/],
      [`if_failed := 'skip'`, '22023', /^if_failed makes no sense without ordering_key$/],
      [`ordering_key := 'k', if_failed := 'Block'`, '22023', /^if_failed is "Block": it must be skip or block$/],
      ['priority := 10', '22023', /^priority is 10: it must be between 0 and 9$/],
      ['priority := -1', '22023', /^priority is -1/],
      [`limit_key := ''`, '22023', /^limit_key must have 1 to 255 characters/],
      [`limit_key := E'\x7f'`, '22023', /^limit_key must have/],
      [`on_success := 'public.not_definer'`, '22023', /^on_success must be a SECURITY DEFINER function of yours/],
      [`on_error := 'public.takes_another'`, '22023', /^on_error must be a SECURITY DEFINER function of yours/],
      [`keep := ''`, '22023', /^keep is "": it must be full, status or none$/],
      [`keep := 'all'`, '22023', /^keep is "all"/],
      [`keep := 'none', on_success := 'public.fine'`, '22023', /^keep = none does not go with on_success or on_error$/],
      [`keep := 'none', on_error := 'public.fine'`, '22023', /^keep = none does not go with on_success or on_error$/],
      [`keep := 'none', ordering_key := 'k', if_failed := 'block'`, '22023', /^keep = none does not go with if_failed/],
      [`label := ''`, '22023', /^label must have 1 to 255 characters and no control characters$/],
      [`label := '${long}'`, '22023', /^label must have/],
      [`label := E'a\tb'`, '22023', /^label must have/],
    ];
    for (const [options, code, message] of cases) {
      const error = await errorOf(sql, `select net.request('POST', 'http://h', ${options})`);
      expect(error, options).toMatchObject({ code });
      expect(error.message, options).toMatch(message);
      expect(error.hint?.length, options).toBeGreaterThan(10);
      expect([error.message, error.detail, error.hint].join('\n'), options).not.toContain('secret');
    }
    expect(await sql.query('select from net.http_request_queue')).toEqual([]);
  });

  test('accepts the options at their bounds; NULL is as good as none', async () => {
    const { sql } = await open();
    const fine = [
      'max_attempts := 1',
      'max_attempts := 100',
      `run_at := '1000-01-01 BC'`,
      `delay := '-1 day'`,
      `delay := '100 years'`,
      `idempotency_key := '${'k'.repeat(255)}'`,
      `ordering_key := '${'é'.repeat(255)}'`,
      `ordering_key := 'k', if_failed := 'block', keep := 'status'`,
      'priority := 0',
      'priority := 9',
      `keep := 'none', label := 'a label'`,
      `label := null, keep := null, priority := null, delay := null, run_at := null, max_attempts := null,
       retry_policy := null, idempotency_key := null, ordering_key := null, if_failed := null, limit_key := null,
       on_success := null, on_error := null`,
    ];
    for (const options of fine) await sql.query(`select net.request('POST', 'http://h', ${options})`);
    expect(await sql.query('select count(*) as count from net.http_request_queue')).toEqual([{ count: fine.length }]);
    const [plain] = await sql.query<{ extras: string | null }>(
      'select net._extras(q) as extras from net.http_request_queue q order by id desc limit 1',
    );
    expect(plain).toEqual({ extras: null });
  });

  test('a signed request has an id of its own, which is stored; one that is given stays', async () => {
    const { sql } = await open();
    const rows = await sql.query<{ headers: Record<string, string>; sign_with: string }>(`
      select net.request('POST', 'http://h', sign_with := 'hooks-1') from generate_series(1, 3);
      select net.request('POST', 'http://h', '{"Webhook-ID": "order:7"}', sign_with := 'hooks-1');
      select headers, sign_with from net.http_request_queue order by id`);
    const ids = rows.slice(0, 3).map(({ headers }) => headers['webhook-id']);
    for (const id of ids) expect(id).toMatch(/^msg_[0-9a-f]{32}$/);
    expect(new Set(ids).size).toBe(3);
    expect(rows[3]).toEqual({ headers: { 'Webhook-ID': 'order:7' }, sign_with: 'hooks-1' });
    expect((await rowOf(sql, `'POST', 'http://h', '{"webhook-signature": "v1,x"}'`)).headers).toEqual({
      'webhook-signature': 'v1,x',
    });
  });

  test('what signs a request is refused as the worker would refuse it', async () => {
    const { sql } = await open();
    const signed = (headers: Record<string, unknown>): string =>
      `select net.request('POST', 'http://h', ${literal(headers)}, sign_with := 'hooks')`;
    for (const id of ['a', 'msg_1-2:3', ' padded ', '~!', 'x'.repeat(255), 7]) {
      await sql.query(signed({ 'Webhook-Id': id }));
    }
    const wrong = [
      { 'webhook-id': 'a.b' },
      { 'webhook-id': '' },
      { 'webhook-id': 'a b' },
      { 'webhook-id': 'é' },
      { 'webhook-id': null },
      { 'webhook-id': 'x'.repeat(256) },
      { 'webhook-id': 'a', 'Webhook-Id': 'a' },
    ];
    for (const headers of wrong) {
      expect(await errorOf(sql, signed(headers)), JSON.stringify(headers)).toMatchObject({
        code: '22023',
        message: expect.stringMatching(/^a request is signed with one header "webhook-id"/),
      });
    }
  });

  test('a reference is well-formed for the worker exactly where it is here', async () => {
    const { sql } = await open();
    await sql.query(`
      create function pg_temp.is_fine(value text) returns boolean language plpgsql as $$
      begin
        perform net._checked_headers(jsonb_build_object('X', value));
        return true;
      exception
        when invalid_parameter_value then
          return false;
      end $$`);
    const piece = fc.constantFrom(
      '{{',
      '}}',
      '{',
      '}',
      'secret',
      '.',
      'a',
      'B',
      '-',
      '_',
      '9',
      ' ',
      '{{secret.a}}',
      '{{ secret.b',
      'Secret',
      'ſecret',
    );
    const value = fc.array(piece, { maxLength: 12 }).map((pieces) => pieces.join(''));
    const row = {
      id: 1n,
      method: 'GET',
      url: 'http://h',
      headersJson: '{}',
      body: null,
      timeoutMs: 1,
      loginRole: null,
      setRole: null,
      signWith: null,
      extras: undefined,
    };
    await fc.assert(
      fc.asyncProperty(fc.array(value, { minLength: 20, maxLength: 60 }), async (values) => {
        const rows = await sql.query<{ fine: boolean }>(`
          select pg_temp.is_fine(v) as fine from jsonb_array_elements_text(${literal(values)}) with ordinality a (v, n) order by n`);
        for (const [index, given] of values.entries()) {
          const request = { kind: 'claimed', row, headers: [['X', given]], hostRules: undefined } as const;
          expect(rows[index]?.fine, given).toBe(typeof secretsUsedBy(request) !== 'string');
        }
      }),
      { numRuns: 60 },
    );
  });

  test('references to secrets stand in header values only, and are well-formed', async () => {
    const { sql } = await open();
    const fine = [
      'Bearer {{secret.stripe}}',
      '{{ secret.a-b_9 }}:{{secret.b}}',
      `{{secret.a${'b'.repeat(62)}}}`,
      '{{other}} {secret.a} {{ {secret} }}',
      '{{{secret.a}}}',
    ];
    for (const value of fine) {
      expect((await rowOf(sql, `'GET', 'http://h', ${literal({ X: value })}`)).headers).toEqual({ X: value });
    }
    const wrong = [
      '{{secret}}',
      '{{secret.}}',
      '{{secret.Stripe}}',
      '{{SECRET.stripe}}',
      '{{secret.1}}',
      '{{secret .a}}',
      '{{secret.a}',
      'x {{ secret.a b}}',
      '{{secret.a}}{{ secret',
      `{{secret.a${'b'.repeat(63)}}}`,
    ];
    for (const value of wrong) {
      for (const call of ['http_get(', 'http_post(', `request('GET', `]) {
        const error = await errorOf(sql, `select net.${call}'http://h', headers := ${literal({ 'X-Key': value })})`);
        expect(error, value).toMatchObject({
          code: '22023',
          message: 'the value of header "X-Key" refers to a secret wrongly',
        });
        expect([error.hint, error.detail, error.where].join()).not.toContain('tripe');
      }
    }
    for (const headers of [
      '{"X-Key": "\\u007b\\u007bsecret"}',
      '{"X-Key": ["{{secret"]}',
      '{"X-Key": {"{{secret": 1}}',
    ]) {
      expect((await errorOf(sql, `select net.http_get('http://h', headers := '${headers}')`)).message).toMatch(
        /wrongly/,
      );
    }
    const elsewhere: readonly [argumentsText: string, message: RegExp][] = [
      [`'http://h/?key={{secret.stripe}}'`, /^a URL cannot refer to a secret$/],
      [`'http://{{secret.stripe}}/'`, /^a URL cannot refer to a secret$/],
      [`'http://u:{{ secret.stripe}}@h/'`, /^(a URL cannot refer to a secret|invalid URL .*)$/],
      [`'http://h/', params := '{"key": "{{secret.stripe}}"}'`, /^a URL cannot refer to a secret$/],
      [`'http://h/', params := '{"{{ secret.stripe }}": ""}'`, /^a URL cannot refer to a secret$/],
      [`'http://h/', headers := '{"{{secret.stripe}}": "x"}'`, /^invalid header name/],
      [`'http://h/', headers := '{"Host": "{{secret.stripe}}"}'`, /^the value of header "Host" is not a host$/],
    ];
    for (const [argumentsText, message] of elsewhere) {
      for (const call of ['http_get(', `request('GET', `]) {
        expect((await errorOf(sql, `select net.${call}${argumentsText})`)).message, argumentsText).toMatch(message);
      }
    }
  });
});

describe.each(backends)('$name, served', (backend) => {
  test('every method arrives as it was asked for, with its body', async () => {
    const stage = await backend.open();
    const methods = ['GET', 'POST', 'PUT', 'PATCH', 'DELETE', 'HEAD', 'OPTIONS', 'PROPFIND'];
    for (const method of methods) {
      const body = ['GET', 'HEAD'].includes(method) ? '' : `, bytes := '\\x00ff'`;
      await stage.sql.query(
        `select net.request('${method}', '${stage.echoUrl}/anything/${method}', timeout_milliseconds := 10000${body})`,
      );
    }
    await stage.responses(methods.length);
    const arrived = stage.received.map(({ method, path, body, headers }) => {
      const type = headers.find(([name]) => name.toLowerCase() === 'content-type')?.[1];
      return [method, path, Buffer.from(body).toString('hex'), type];
    });
    expect(arrived.sort()).toEqual(
      methods
        .map((method) => {
          const rest = ['GET', 'HEAD'].includes(method) ? ['', undefined] : ['00ff', 'application/octet-stream'];
          return [method, `/anything/${method}`, ...rest];
        })
        .sort(),
    );
    const failed = await stage.sql.query('select id, error_msg from net._http_response where error_msg is not null');
    expect(failed).toEqual([]);
  });

  test('what http_put, http_patch and http_head ask for arrives, and is answered; HEAD has no body', async () => {
    const stage = await backend.open();
    await stage.sql.query(`
      select net.http_put('${stage.echoUrl}/anything/p', '{"a": 1}', timeout_milliseconds := 10000),
        net.http_patch('${stage.echoUrl}/anything/q', '{"b": 2}', timeout_milliseconds := 10000),
        net.http_head('${stage.echoUrl}/get', '{"c": 3}', timeout_milliseconds := 10000)`);
    await stage.responses(3);
    const arrived = stage.received.map(({ method, path, body }) => [method, path, Buffer.from(body).toString()]);
    expect(arrived.sort()).toEqual([
      ['HEAD', '/get?c=3', ''],
      ['PATCH', '/anything/q', '{"b": 2}'],
      ['PUT', '/anything/p', '{"a": 1}'],
    ]);
    expect(
      await stage.sql.query('select status_code, content is null as empty from net._http_response order by id'),
    ).toEqual([
      { status_code: 200, empty: false },
      { status_code: 200, empty: false },
      { status_code: 200, empty: true },
    ]);
  });
});

const opened = closedAfterEach();

test('in a LATIN1 database every body is in UTF-8', async () => {
  const server = await startTestPostgres({ major: 18, encoding: 'LATIN1' });
  const { url } = await installedDatabase(server);
  const client = await openSession(opened, url);
  await client.query(`
    select net.request('POST', 'http://h', "json" := '"é"'), net.request('POST', 'http://h', text := 'é'),
      net.request('POST', 'http://h', form := '{"é": "é"}')`);
  const { rows: bodies } = await client.query(
    `select encode(body, 'hex') as body from net.http_request_queue order by id`,
  );
  expect(bodies.map(({ body }) => Buffer.from(body, 'hex').toString())).toEqual(['"é"', 'é', '%C3%A9=%C3%A9']);
});
