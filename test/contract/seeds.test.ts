import { describe, expect, test, vi } from 'vitest';
import { closedPort } from '../http/loopback.ts';
import { can, newestBackends, type ResponseRow, type Stage } from './backends.ts';

// Every SQL block of pg_net's documentation, as it stands there. `paste` fills in what the reader is to fill in (`<row_id>`), and
// sends to the echo server what the examples send to public hosts; nothing else is changed.

vi.setConfig({ testTimeout: 60_000 });

function paste(stage: Stage, block: string, placeholders: Readonly<Record<string, string | number>> = {}): string {
  const filled = block.replace(/<([a-z_]+)>/gi, (placeholder, name: string) =>
    String(placeholders[name] ?? placeholder),
  );
  return filled.replace(/https:\/\/[a-z0-9.-]+/g, stage.echoUrl);
}

/** What the echo server says it was sent. */
function echoed(response: ResponseRow): Record<string, unknown> {
  expect(response).toMatchObject({ status_code: 200, timed_out: false, error_msg: null });
  return JSON.parse(response.content ?? '') as Record<string, unknown>;
}

describe.each(newestBackends)('$name', (backend) => {
  test('CREATE EXTENSION pg_net;', async () => {
    const stage = await backend.open({ worker: false });
    await stage.sql.query('DROP EXTENSION pg_net');
    await stage.sql.query(`
CREATE EXTENSION pg_net;
`);
    expect(await stage.sql.query(`select extname from pg_extension where extname = 'pg_net'`)).toHaveLength(1);
  });

  test('the functions have the documented signatures', async () => {
    const { sql } = await backend.open({ worker: false });
    const functions = await sql.query(`
      select p.proname as name, pg_get_function_arguments(p.oid) as arguments, pg_get_function_result(p.oid) as result,
        p.proisstrict as strict, p.provolatile as volatility, l.lanname as language, p.prosecdef as security_definer
      from pg_proc p join pg_language l on l.oid = p.prolang
      where p.pronamespace = 'net'::regnamespace and p.proname in ('http_get', 'http_post', 'http_delete')
      order by p.proname`);
    const common = { result: 'bigint', volatility: 'v', language: 'plpgsql', security_definer: true };
    const withoutBody =
      "url text, params jsonb DEFAULT '{}'::jsonb, headers jsonb DEFAULT '{}'::jsonb, timeout_milliseconds integer DEFAULT 2000";
    expect(functions).toEqual([
      { name: 'http_delete', arguments: withoutBody, strict: true, ...common },
      { name: 'http_get', arguments: withoutBody, strict: true, ...common },
      {
        name: 'http_post',
        arguments:
          "url text, body jsonb DEFAULT '{}'::jsonb, params jsonb DEFAULT '{}'::jsonb, " +
          `headers jsonb DEFAULT '{"Content-Type": "application/json"}'::jsonb, timeout_milliseconds integer DEFAULT 2000`,
        strict: false,
        ...common,
      },
    ]);
  });

  test('the tables begin with the documented columns and are unlogged', async () => {
    const { sql } = await backend.open({ worker: false });
    const columnsOf = (table: string, count: number): Promise<unknown[]> =>
      sql.query(`
        select a.attname || ' ' || format_type(a.atttypid, a.atttypmod)
          || case when a.attnotnull then ' NOT NULL' else ' NULL' end
          || coalesce(' DEFAULT ' || pg_get_expr(d.adbin, d.adrelid), '') as column
        from pg_attribute a left join pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
        where a.attrelid = '${table}'::regclass and a.attnum between 1 and ${count}
        order by a.attnum`);
    expect(await columnsOf('net.http_request_queue', 6)).toEqual([
      { column: "id bigint NOT NULL DEFAULT nextval('net.http_request_queue_id_seq'::regclass)" },
      { column: 'method text NOT NULL' },
      { column: 'url text NOT NULL' },
      { column: 'headers jsonb NOT NULL' },
      { column: 'body bytea NULL' },
      { column: 'timeout_milliseconds integer NOT NULL' },
    ]);
    expect(await columnsOf('net._http_response', 8)).toEqual([
      { column: 'id bigint NULL' },
      { column: 'status_code integer NULL' },
      { column: 'content_type text NULL' },
      { column: 'headers jsonb NULL' },
      { column: 'content text NULL' },
      { column: 'timed_out boolean NULL' },
      { column: 'error_msg text NULL' },
      { column: 'created timestamp with time zone NOT NULL DEFAULT now()' },
    ]);
    expect(
      await sql.query(`
        select relname, relpersistence from pg_class
        where oid in ('net.http_request_queue'::regclass, 'net._http_response'::regclass) order by relname`),
    ).toEqual([
      { relname: '_http_response', relpersistence: 'u' },
      { relname: 'http_request_queue', relpersistence: 'u' },
    ]);
  });

  test('http_get: usage', async () => {
    const stage = await backend.open();
    const rows = await stage.sql.query(
      paste(
        stage,
        `
SELECT
  net.http_get('https://news.ycombinator.com')
  AS request_id;
`,
      ),
    );
    expect(rows).toEqual([{ request_id: 1 }]);
    expect(echoed(await stage.response(1))).toMatchObject({ method: 'GET', path: '/', data: '' });
    // "Upon execution, they are deleted."
    expect(await stage.count('net.http_request_queue')).toBe(0);
  });

  test('http_post: usage', async () => {
    const stage = await backend.open();
    const rows = await stage.sql.query(
      paste(
        stage,
        `
SELECT
  net.http_post(
    url:='https://httpbin.org/post',
    body:='{"hello": "world"}'::jsonb
  ) AS request_id;
`,
      ),
    );
    expect(rows).toEqual([{ request_id: 1 }]);
    expect(echoed(await stage.response(1))).toMatchObject({
      method: 'POST',
      path: '/post',
      json: { hello: 'world' },
      headers: { 'Content-Type': 'application/json' },
    });
    expect(await stage.count('net.http_request_queue')).toBe(0);
  });

  test('http_delete: usage', async () => {
    const stage = await backend.open();
    const rows = await stage.sql.query(
      paste(
        stage,
        `
SELECT
  net.http_delete(
    'https://dummy.restapiexample.com/api/v1/delete/2'
  ) AS request_id;
`,
      ),
    );
    expect(rows).toEqual([{ request_id: 1 }]);
    expect(echoed(await stage.response(1))).toMatchObject({ method: 'DELETE', path: '/api/v1/delete/2' });
    expect(await stage.count('net.http_request_queue')).toBe(0);
  });

  test('params are encoded and appended, headers arrive', async () => {
    const stage = await backend.open();
    const id = await stage.enqueue(`select net.http_get(
      '${stage.echoUrl}/get?kept=1', '{"q": "a b&c=ü", "page": 2}'::jsonb, '{"X-Token": "secret"}'::jsonb, 5000)`);
    expect(echoed(await stage.response(id))).toMatchObject({
      args: { kept: '1', q: 'a b&c=ü', page: '2' },
      headers: { 'X-Token': 'secret' },
    });
  });

  test('waiting requests are in net.http_request_queue, and their responses in net._http_response', async () => {
    const stage = await backend.open({ worker: false });
    await stage.sql.query(`select net.http_get('${stage.echoUrl}/get')`);
    const [waiting] = await stage.sql.query('SELECT * FROM net.http_request_queue;');
    expect(waiting).toMatchObject({
      id: 1,
      method: 'GET',
      url: `${stage.echoUrl}/get`,
      headers: {},
      body: null,
      timeout_milliseconds: 2000,
    });
    expect(await stage.sql.query('SELECT * FROM net._http_response;')).toEqual([]);

    const before = Date.now();
    await stage.startWorker();
    await stage.response(1);
    const rows = await stage.sql.query<ResponseRow>(`
SELECT * FROM net._http_response;
`);
    expect(rows).toHaveLength(1);
    expect(rows[0]).toMatchObject({
      id: 1,
      status_code: 200,
      content_type: 'application/json',
      headers: { 'content-type': 'application/json' },
      timed_out: false,
      error_msg: null,
    });
    // The server's clock may be a little off ours; what matters is that it is the time of the answer.
    expect(Math.abs((rows[0]?.created.getTime() ?? 0) - before)).toBeLessThan(60_000);
    expect(await stage.count('net.http_request_queue')).toBe(0);
  });

  test('inspecting request data with the echo API', async () => {
    const stage = await backend.open();
    const rows = await stage.sql.query<{ request_id: number }>(
      paste(
        stage,
        `
SELECT
  net.http_post(
    url := 'https://postman-echo.com/post',
    body := '{"key1": "value", "key2": 5}'::jsonb
  ) AS request_id;
`,
      ),
    );
    const request_id = rows[0]?.request_id ?? 0;
    await stage.response(request_id);
    const inspected = await stage.sql.query<{ content: string }>(
      paste(
        stage,
        `
SELECT
  "content"
FROM net._http_response
WHERE id = <request_id>
-- returns information about the request
-- including the body sent: {"key1": "value", "key2": 5}
`,
        { request_id },
      ),
    );
    expect(inspected).toHaveLength(1);
    expect(Object.keys(inspected[0] ?? {})).toEqual(['content']);
    expect(JSON.parse(inspected[0]?.content ?? '')).toMatchObject({
      data: '{"key1": "value", "key2": 5}',
      json: { key1: 'value', key2: 5 },
    });
  });

  test('wrapping a request in a database function', async () => {
    const stage = await backend.open();
    await stage.sql.query(`create table people (id int primary key, name text, score numeric);
      insert into people values (7, 'Ada', 3.5)`);
    const rows = await stage.sql.query(
      paste(
        stage,
        `
CREATE OR REPLACE FUNCTION debugging_example (row_id int)
RETURNS jsonb AS $$
DECLARE
  -- Store payload data
  row_data_var jsonb;
BEGIN
  -- Retrieve row data and convert to JSON
  SELECT to_jsonb("<example_table>".*) INTO row_data_var
  FROM "<example_table>"
  WHERE "<example_table>".id = row_id;

  -- Initiate HTTP POST request to URL
  PERFORM
    net.http_post(
      url := 'https://postman-echo.com/post',
      -- Use row data as payload
      body := row_data_var
    ) AS request_id;

  -- Optionally Log row data or other data for inspection in Supabase Dashboard's Postgres Logs
  RAISE LOG 'Logging an entire row as JSON (%)', row_data_var;

  -- return row data to inspect
  RETURN row_data_var;

-- Handle exceptions here if needed
EXCEPTION
  WHEN others THEN
    RAISE EXCEPTION 'An error occurred: %', SQLERRM;
END;
$$ LANGUAGE plpgsql;

-- calling function
SELECT debugging_example(<row_id>);
`,
        { example_table: 'people', row_id: 7 },
      ),
    );
    const row = { id: 7, name: 'Ada', score: 3.5 };
    expect(rows).toEqual([{ debugging_example: row }]);
    expect(echoed(await stage.response(1))).toMatchObject({ path: '/post', json: row });
  });

  test('finds all failed requests', async () => {
    const port = await closedPort();
    const stage = await backend.open();
    for (const url of [
      `${stage.echoUrl}/status/404`,
      `${stage.echoUrl}/get`,
      `http://127.0.0.1:${port}/`,
      `${stage.echoUrl}/status/500`,
    ]) {
      // One after the other, so that their order is known.
      await stage.response(await stage.enqueue(`select net.http_get('${url}')`));
    }
    const failed = await stage.sql.query(`
SELECT
  *
FROM net._http_response
WHERE "status_code" >= 400 OR "error_msg" IS NOT NULL
ORDER BY "created" DESC;
`);
    expect(failed).toMatchObject([
      { id: 4, status_code: 500, error_msg: null },
      { id: 3, status_code: null, error_msg: "Couldn't connect to server", timed_out: false },
      { id: 1, status_code: 404, error_msg: null },
    ]);
  });

  test('get current settings', async () => {
    const { sql } = await backend.open({ worker: false });
    const rows = await sql.query<{ name: string; setting: string }>(`
SELECT
  "name",
  "setting"
FROM pg_settings
WHERE "name" LIKE 'pg_net%';
`);
    const [database] = await sql.query<{ name: string }>('select current_database() as name');
    expect(Object.fromEntries(rows.map(({ name, setting }) => [name, setting]))).toMatchObject({
      'pg_net.batch_size': '200',
      'pg_net.database_name': database?.name,
      'pg_net.ttl': '6 hours',
      'pg_net.username': '',
    });
  });

  test('alter settings, then reload them and restart the worker', async () => {
    const stage = await backend.open({ worker: false });
    const { sql } = stage;
    const worker = await stage.startWorker();
    await sql.query(`
ALTER ROLE "postgres" SET pg_net.ttl TO '24 hours';
ALTER ROLE "postgres" SET pg_net.batch_size TO 500;
`);
    const restarted = new Promise((resolve) => worker.once('ready', resolve));
    expect(
      await sql.query(`
SELECT net.worker_restart();
`),
    ).toEqual([{ worker_restart: true }]);
    await restarted;
    expect(
      await sql.query(`
SELECT
  "name",
  "setting"
FROM pg_settings
WHERE "name" LIKE 'pg_net%';
`),
    ).toEqual(
      expect.arrayContaining([
        { name: 'pg_net.ttl', setting: '24 hours' },
        { name: 'pg_net.batch_size', setting: '500' },
      ]),
    );
    expect(
      await sql.query(
        `select name, setting, source from net.settings where name in ('pg_net.ttl', 'pg_net.batch_size') order by name`,
      ),
    ).toEqual([
      { name: 'pg_net.batch_size', setting: '500', source: 'role' },
      { name: 'pg_net.ttl', setting: '24 hours', source: 'role' },
    ]);
    await stage.response(await stage.enqueue(`select net.http_get('${stage.echoUrl}/get')`));
  });

  test('the worker obeys the altered settings', async () => {
    const stage = await backend.open();
    await stage.response(await stage.enqueue(`select net.http_get('${stage.echoUrl}/get')`));
    await stage.sql.query(`
ALTER ROLE "postgres" SET pg_net.ttl TO '10 milliseconds';
ALTER ROLE "postgres" SET pg_net.batch_size TO 'many';
`);
    await stage.sql.query('SELECT net.worker_restart();');
    await stage.responses(0);
    // What makes no sense is named in the log, which shows that the worker has read it.
    expect(stage.log).toContainEqual(expect.stringMatching(/^pg_net\.batch_size is "many".*using 200/));
  });

  test('invoke an Edge Function', async () => {
    const stage = await backend.open();
    const rows = await stage.sql.query(
      paste(
        stage,
        `
SELECT
  net.http_post(
    url:='https://project-ref.supabase.co/functions/v1/function-name',
    headers:='{"Content-Type": "application/json", "Authorization": "Bearer <YOUR_ANON_KEY>"}'::jsonb,
    body:='{"name": "pg_net"}'::jsonb
  ) AS request_id;
`,
        { YOUR_ANON_KEY: 'eyJhbGciOi.anon.key' },
      ),
    );
    expect(rows).toEqual([{ request_id: 1 }]);
    expect(echoed(await stage.response(1))).toMatchObject({
      method: 'POST',
      path: '/functions/v1/function-name',
      headers: { 'Content-Type': 'application/json', Authorization: 'Bearer eyJhbGciOi.anon.key' },
      json: { name: 'pg_net' },
    });
  });

  test('execute pg_net in a trigger', async () => {
    const stage = await backend.open();
    await stage.sql.query(`create table stock (sku text, amount int); insert into stock values ('tea', 3), ('ink', 9)`);
    await stage.sql.query(
      paste(
        stage,
        `
-- function called by trigger
CREATE OR REPLACE FUNCTION <function_name>()
  RETURNS trigger
  LANGUAGE plpgSQL
AS $$
BEGIN
  -- calls pg_net function net.http_post
  -- sends request to postman API
  PERFORM "net"."http_post"(
    'https://postman-echo.com/post'::text,
    jsonb_build_object(
      'old_row', to_jsonb(old.*),
      'new_row', to_jsonb(new.*)
    ),
    headers:='{"Content-Type": "application/json"}'::jsonb
  ) AS request_id;
  RETURN new;
END $$;

-- trigger for table update
CREATE TRIGGER <trigger_name>
  AFTER UPDATE ON <table_name>
  FOR EACH ROW
  EXECUTE FUNCTION <function_name>();
`,
        { function_name: 'tell_about_stock', trigger_name: 'stock_changed', table_name: 'stock' },
      ),
    );
    await stage.sql.query(`update stock set amount = 2 where sku = 'tea'`);
    expect(echoed(await stage.response(1))).toMatchObject({
      method: 'POST',
      path: '/post',
      json: { old_row: { sku: 'tea', amount: 3 }, new_row: { sku: 'tea', amount: 2 } },
    });
    await stage.sql.query('update stock set amount = amount + 1');
    await stage.responses(3);
    expect(stage.received).toHaveLength(3);
  });

  test('send multiple table rows in one request', async () => {
    const stage = await backend.open();
    await stage.sql.query(`create table stock (sku text, amount int); insert into stock values ('tea', 3), ('ink', 9)`);
    const rows = await stage.sql.query(
      paste(
        stage,
        `
WITH "selected_table_rows" AS (
  SELECT
    -- Converts all the rows into a JSONB array
    jsonb_agg(to_jsonb(<table_name>.*)) AS JSON_payload
  FROM <table_name>
  -- good practice to LIMIT the max amount of rows
)
SELECT
  net.http_post(
    url := 'https://postman-echo.com/post'::text,
    body := JSON_payload
  ) AS request_id
FROM "selected_table_rows";
`,
        { table_name: 'stock' },
      ),
    );
    expect(rows).toEqual([{ request_id: 1 }]);
    expect(echoed(await stage.response(1))).toMatchObject({
      json: [
        { sku: 'tea', amount: 3 },
        { sku: 'ink', amount: 9 },
      ],
    });
  });

  // "HTTP requests are not started until the transaction is committed" and the other promises between the blocks are in
  // delivery.test.ts; the example with pg_cron is in pg-cron.test.ts.

  test.runIf(can(backend, 'severalSessions'))('ids are unique across sessions and returned at once', async () => {
    const stage = await backend.open({ worker: false });
    const others = await Promise.all([stage.session(), stage.session(), stage.session()]);
    const batches = await Promise.all(
      [stage.sql, ...others].map((session) =>
        session.query<{ id: number }>(
          `select net.http_get('${stage.echoUrl}/get?n=' || n) as id from generate_series(1, 50) n`,
        ),
      ),
    );
    expect(new Set(batches.flat().map((row) => row.id)).size).toBe(200);
  });
});
