import pg from 'pg';
import { afterAll, beforeAll, describe, expect, onTestFinished, test } from 'vitest';
import { type EchoRequest, type EchoServer, startEchoServer } from '../../src/embedded/echo.ts';
import { connectPg } from '../../src/postgres/pg.ts';
import { installScript } from '../../src/schema/scripts.ts';
import { createWorker } from '../../src/worker/create.ts';
import { httpServer } from '../http/loopback.ts';
import { startTestPostgres, type TestServer, until } from '../support/servers.ts';

// What a database's encoding means for what is sent and what is stored. The worker's session is in UTF-8 whatever it is.

const received: EchoRequest[] = [];
let echo: EchoServer;
let server: TestServer;

beforeAll(async () => {
  echo = await startEchoServer({ onRequest: (request) => received.push(request) });
  server = await startTestPostgres({ major: 18 });
});
afterAll(() => echo.close());

type Row = Record<string, unknown>;

/** A database in that encoding with pgfetch and a worker; `sql` runs in a session of that encoding. */
async function open(encoding: string): Promise<{ sql(text: string): Promise<Row[]>; drain(): Promise<void> }> {
  const admin = new pg.Client({ connectionString: server.connectionString });
  await admin.connect();
  const name = `encoded_${encoding.toLowerCase()}_${Math.random().toString(36).slice(2)}`;
  await admin.query(`create database ${name} template template0 encoding '${encoding}' locale 'C'`);
  const url = new URL(server.connectionString);
  url.pathname = `/${name}`;
  const db = await connectPg({ connectionString: url.href, applicationName: 'install', connectTimeoutMs: 10_000 });
  await db.execute(await installScript({}));
  await db.close();
  const worker = createWorker({ connectionString: url.href, allow: ['loopback'] });
  await worker.start();
  const client = new pg.Client({ connectionString: url.href });
  await client.connect();
  onTestFinished(async () => {
    await worker.stop();
    await client.end();
    await until(
      async () => (await admin.query(`select from pg_stat_activity where datname = '${name}'`)).rowCount === 0,
      'left',
    );
    await admin.query(`drop database ${name}`);
    await admin.end();
  });
  return {
    async sql(text) {
      const results: pg.QueryResult | pg.QueryResult[] = await client.query(text);
      return (Array.isArray(results) ? results.at(-1) : results)?.rows ?? [];
    },
    drain: () => worker.drain(),
  };
}

const asText = (hex: string): string => `net.text_of('\\x${hex}')`;

describe.each(['UTF8', 'LATIN1', 'EUC_JP', 'SQL_ASCII'])('in a database in %s', (encoding) => {
  test('the bytes of any body are had back, from the text or beside it; the same by any way', async () => {
    const { sql, drain } = await open(encoding);
    const bodies: Record<string, Buffer> = {
      ascii: Buffer.from('plain'),
      latin: Buffer.from('Grüße'),
      kana: Buffer.from('カナ漢字'),
      mixed: Buffer.from('ü € 日本 \u{1f600} \ufffd'),
      nul: Buffer.from('a\0b'),
      invalid: Buffer.from([0x61, 0xff, 0x80, 0x62]),
      bom: Buffer.from('\ufeffx'),
      empty: Buffer.alloc(0),
    };
    const { url } = await httpServer((incoming, response) =>
      response
        .writeHead(200, { 'Content-Type': 'text/plain; charset=utf-8' })
        .end(bodies[incoming.url?.slice(1) ?? '']),
    );
    await sql(`select net.http_get('${url}/' || name) from unnest('{${Object.keys(bodies)}}'::text[]) name`);
    await drain();
    // In SQL_ASCII the text is what UTF-8 has for it, whatever the session says.
    const rows = await sql(`
      select r.status_code, r.content_bytes,
        convert_to(r.content, case getdatabaseencoding() when 'SQL_ASCII' then 'SQL_ASCII' else 'UTF8' end) as content
      from net._http_response r order by r.id`);
    expect(rows).toHaveLength(Object.keys(bodies).length);
    for (const [i, [name, body]] of Object.entries(bodies).entries()) {
      const { status_code, content, content_bytes } = rows[i] as {
        status_code: number;
        content: Buffer;
        content_bytes: Buffer;
      };
      expect(status_code, name).toBe(200);
      if (name === 'empty') expect([content, content_bytes]).toEqual([null, null]);
      else expect((content_bytes ?? content).toString('hex'), name).toBe(body.toString('hex'));
      if (content_bytes !== null) expect(content.toString(), name).toMatch(/[?\ufffd]/);
      if (['ascii', 'nul', 'invalid'].includes(name)) expect(content_bytes === null, name).toBe(name === 'ascii');
    }
  });

  test('params and forms are percent-encoded in UTF-8', async () => {
    const { sql } = await open(encoding);
    // Ordinary in every one of these encodings; in SQL_ASCII it is the bytes that the session gives.
    const [letter, encoded] = encoding === 'EUC_JP' ? ['漢', '%E6%BC%A2'] : ['ü', '%C3%BC'];
    const rows = await sql(`
      begin;
      select net.http_get('http://h/', jsonb_build_object('${letter}', '~${letter}'));
      select net.request('POST', 'http://h/', form := jsonb_build_object('${letter}', '~${letter}'));
      select url, body from net.http_request_queue order by id`);
    await sql('rollback');
    expect(rows).toMatchObject([
      { url: `http://h/?${encoded}=~${encoded}` },
      { body: Buffer.from(`${encoded}=%7E${encoded}`) },
    ]);
  });

  test("a request's body is what the database holds, byte by byte", async () => {
    const { sql, drain } = await open(encoding);
    received.length = 0;
    const every = Buffer.from(Array.from({ length: 512 }, (_, i) => i & 255)).toString('hex');
    await sql(`
      insert into net.http_request_queue (method, url, headers, body, timeout_milliseconds) values
        ('POST', '${echo.url}/post', '{}', '\\x${every}', 5000),
        ('PUT', '${echo.url}/put', '{}', '', 5000),
        ('PATCH', '${echo.url}/patch', '{}', null, 5000);
      select net.http_post('${echo.url}/post', '{"a": "\\u0041 \\\\ \\" / \\t"}');
      select net.http_post('${echo.url}/post', null)`);
    await sql('select net.wake()');
    await drain();
    expect(received.map(({ body }) => Buffer.from(body).toString('hex')).sort()).toEqual(
      ['', '', '', Buffer.from('{"a": "A \\\\ \\" / \\t"}').toString('hex'), every].sort(),
    );
  });
});

describe.each([
  // A byte that is no character, and one that UTF-8 has no place for.
  ['SQL_ASCII', 'ff'],
  ['EUC_JP', 'a9a1'],
])('in a database in %s, what cannot be converted to UTF-8', (encoding, hex) => {
  const prepare = `
    create function net.text_of(bytes bytea) returns text language sql as
      $$ select convert_from(bytes, getdatabaseencoding()) $$`;

  test('is refused when it is enqueued', async () => {
    const { sql, drain } = await open(encoding);
    await sql(prepare);
    const text = asText(hex);
    for (const call of [
      `net.http_get('http://h/' || ${text})`,
      `net.http_get('http://h/', headers := jsonb_build_object('a', ${text}))`,
    ]) {
      await expect(sql(`select ${call}`)).rejects.toMatchObject({ code: expect.stringMatching(/^22(021|P05)$/) });
    }
    await drain();
    expect(await sql('select from net.http_request_queue')).toEqual([]);
  });

  test('holds nothing up where a response with its id is there already', async () => {
    const { sql, drain } = await open(encoding);
    await sql(prepare);
    await sql(`
      insert into net.http_request_queue (method, url, headers, timeout_milliseconds) values
        ('GET', '${echo.url}/' || ${asText(hex)}, '{}', 5000);
      insert into net._http_response (id, status_code) select q.id, 418 from net.http_request_queue q;
      select net.http_get('${echo.url}/get')`);
    await drain();
    expect(await sql('select status_code from net._http_response order by id')).toEqual([
      { status_code: 418 },
      { status_code: 200 },
    ]);
  });

  test('fails alone when it is inserted by hand', async () => {
    const { sql, drain } = await open(encoding);
    await sql(prepare);
    const text = asText(hex);
    await sql(`
      insert into net.http_request_queue (method, url, headers, body, timeout_milliseconds) values
        ('GET', '${echo.url}/' || ${text}, '{}', null, 5000),
        ('GET', '${echo.url}/get', jsonb_build_object('a', ${text}), null, 5000),
        (${text}, '${echo.url}/get', '{}', null, 5000);
      select net.http_get('${echo.url}/get')`);
    await drain();
    const message = 'The request holds characters that cannot be converted to UTF-8';
    const refused = { status_code: null, error_code: 'invalid_request', error_msg: message, timed_out: false };
    expect(
      await sql('select status_code, error_code, error_msg, timed_out from net._http_response order by id'),
    ).toEqual([refused, refused, refused, { status_code: 200, error_code: null, error_msg: null, timed_out: false }]);
  });
});
