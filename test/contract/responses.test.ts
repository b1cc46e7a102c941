import { gzipSync } from 'node:zlib';
import { describe, expect, test, vi } from 'vitest';
import { closedPort, httpServer, scriptedServer, tcpServer } from '../http/loopback.ts';
import { can, newestBackends, type ResponseRow } from './backends.ts';
import { startGate } from './gate.ts';

// What stands in net._http_response, and the functions that read it.

vi.setConfig({ testTimeout: 60_000 });

/** A server that answers `/name` with the bytes of that name. */
async function serveBodies(bodies: Readonly<Record<string, Uint8Array>>, type: string): Promise<string> {
  const { url } = await httpServer((request, response) => {
    response.writeHead(200, { 'content-type': type }).end(bodies[request.url?.slice(1) ?? '']);
  });
  return url;
}

const bytesOf = (response: ResponseRow): string | null =>
  response.content_bytes === null ? null : Buffer.from(response.content_bytes).toString('hex');

const failed = { status_code: null, content_type: null, headers: null, content: null };

describe.each(newestBackends)('$name', (backend) => {
  test('bodies: text as it is, an empty one as NULL, what text cannot hold as exact bytes beside it', async () => {
    const stage = await backend.open();
    const bodies = {
      plain: Buffer.from('Grüße, 日本 ✓'),
      empty: Buffer.alloc(0),
      nul: Buffer.from('before\0after'),
      invalid: Buffer.from([0x61, 0xff, 0xfe, 0x62]),
    };
    const url = await serveBodies(bodies, 'text/plain');
    // In one commit, so that they are recorded together: one that is awkward must not spoil the others.
    await stage.sql.query(
      `select net.http_get('${url}/' || name) from unnest(array['plain', 'empty', 'nul', 'invalid']) name`,
    );
    await stage.responses(4);
    const rows = await stage.sql.query<ResponseRow>('select * from net._http_response order by id');
    expect(rows.map((row) => [row.status_code, row.content, bytesOf(row)])).toEqual([
      [200, 'Grüße, 日本 ✓', null],
      [200, null, null],
      [200, expect.stringMatching(/^before/), bodies.nul.toString('hex')],
      [200, 'a\uFFFD\uFFFDb', bodies.invalid.toString('hex')],
    ]);
  });

  test('a body in the charset that it declares', async () => {
    const stage = await backend.open();
    const url = await serveBodies({ x: Buffer.from('Grüße', 'latin1') }, 'text/plain; charset=ISO-8859-1');
    expect(await stage.response(await stage.get(`${url}/x`))).toMatchObject({
      content: 'Grüße',
      content_bytes: null,
      content_type: 'text/plain; charset=ISO-8859-1',
    });
  });

  test('headers: one object, with the names as the server wrote them', async () => {
    const stage = await backend.open();
    const { url } = await httpServer((_request, response) => {
      response
        .writeHead(201, ['X-MiXeD', 'one', '__proto__', 'odd', 'X-Twice', 'first', 'X-Twice', 'last'])
        .end('done');
    });
    const response = await stage.response(await stage.get(url));
    expect(response.status_code).toBe(201);
    expect(Object.entries(response.headers ?? {})).toEqual(
      expect.arrayContaining([
        ['X-MiXeD', 'one'],
        ['__proto__', 'odd'],
        ['X-Twice', 'last'],
      ]),
    );
  });

  test('headers of which a name repeats: all of them, in order, in a list', async () => {
    const stage = await backend.open();
    const { url } = await httpServer((incoming, response) => {
      const cookies = ['Set-Cookie', 'a=1', 'X-Between', '\u00ff', 'Set-Cookie', 'b=2', 'set-cookie', 'c=3'];
      const distinct = ['X-A', '1', 'x-a', '2'];
      response.sendDate = false;
      response.writeHead(200, incoming.url === '/cookies' ? cookies : distinct).end('');
    });
    const cookies = await stage.response(await stage.get(`${url}/cookies`));
    const distinct = await stage.response(await stage.get(`${url}/distinct`));
    const plain = await stage.response(await stage.get('/get'));
    expect(cookies.headers).toMatchObject({ 'Set-Cookie': 'b=2', 'set-cookie': 'c=3', 'X-Between': '\u00ff' });
    expect(cookies.header_list?.slice(0, 4)).toEqual([
      ['Set-Cookie', 'a=1'],
      ['X-Between', '\u00ff'],
      ['Set-Cookie', 'b=2'],
      ['set-cookie', 'c=3'],
    ]);
    expect(Object.fromEntries(cookies.header_list ?? [])).toEqual(cookies.headers);
    expect(distinct).toMatchObject({ headers: { 'X-A': '1', 'x-a': '2' }, header_list: null });
    expect(plain).toMatchObject({ status_code: 200, header_list: null });
  });

  test('time-outs', async () => {
    const stage = await backend.open();
    const gate = await startGate();
    const response = await stage.response(await stage.get(gate.url, 150));
    expect(response).toMatchObject({ ...failed, timed_out: true, error_code: 'timed_out', content_bytes: null });
    expect(response.error_msg).toMatch(
      /^Timeout of 150 ms reached\. Total time: \d+\.\d{6} ms \(DNS time: \d+\.\d{6} ms, TCP\/SSL handshake time: \d+\.\d{6} ms, HTTP Request\/Response time: \d+\.\d{6} ms\)$/,
    );
  });

  test('the texts of failures', async () => {
    const stage = await backend.open({
      worker: false,
      http: {
        lookup: (name) =>
          Promise.reject(Object.assign(new Error(`getaddrinfo ENOTFOUND ${name}`), { code: 'ENOTFOUND' })),
      },
    });
    await stage.startWorker();
    const silent = await tcpServer((socket) => socket.once('data', () => socket.end()));
    const notHttp = await tcpServer((socket) => socket.once('data', () => socket.end('no HTTP at all\r\n\r\n')));
    const weird = await scriptedServer('HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n');
    const expected: [url: string, error: unknown, code: string][] = [
      [`http://127.0.0.1:${await closedPort()}/`, "Couldn't connect to server", 'connect_failed'],
      ['http://nowhere.example/', "Couldn't resolve host name", 'unresolvable'],
      [silent.url, 'Server returned nothing (no headers, no data)', 'empty_reply'],
      [notHttp.url, 'Unsupported protocol', 'bad_reply'],
      [weird.url, 'Weird server reply', 'bad_reply'],
      [`${stage.echoUrl}/redirect/40`, 'Number of redirects hit maximum amount', 'too_many_redirects'],
      ['http://10.0.0.1/', expect.stringContaining('address policy'), 'denied'],
    ];
    for (const [url, error_msg, error_code] of expected) {
      const response = await stage.response(await stage.get(url));
      expect(response).toMatchObject({ ...failed, timed_out: false, error_msg, error_code });
    }
  });

  test('redirects are followed', async () => {
    const stage = await backend.open();
    const response = await stage.response(await stage.get('/redirect/3'));
    expect(response).toMatchObject({ status_code: 200 });
    expect(JSON.parse(response.content ?? '')).toMatchObject({ path: '/get' });
    expect(response).toMatchObject({ final_url: `${stage.echoUrl}/get`, redirects: 3 });
    const endless = await stage.response(await stage.get('/redirect/40'));
    expect(endless).toMatchObject({ final_url: `${stage.echoUrl}/redirect/10`, redirects: 30 });
    expect(await stage.response(await stage.get('/get'))).toMatchObject({ final_url: null, redirects: null });
  });

  test('the settings of how requests are sent are in force from the next restart of the worker on', async () => {
    const stage = await backend.open({ worker: false });
    const worker = await stage.startWorker();
    const zipped = gzipSync('x'.repeat(5_000));
    const { url } = await httpServer((incoming, response) => {
      const encoding = incoming.headers['accept-encoding'];
      if (encoding === undefined) response.end('x'.repeat(5_000));
      else response.writeHead(200, { 'Content-Encoding': 'gzip' }).end(zipped);
    });
    const outcome = async (): Promise<unknown> => {
      const { content, truncated, headers } = await stage.response(await stage.get(url));
      return { bytes: content?.length, truncated, encoding: headers?.['Content-Encoding'] };
    };
    const restarted = async (): Promise<void> => {
      const ready = new Promise((resolve) => worker.once('ready', resolve));
      await stage.sql.query('select net.worker_restart()');
      await ready;
    };
    expect(await outcome()).toEqual({ bytes: 5_000, truncated: false, encoding: undefined });
    await stage.sql.query(`
      alter role current_user set pg_net.max_response_bytes = '3 kB';
      alter role current_user set pg_net.decompress = on`);
    await restarted();
    expect(await outcome()).toEqual({ bytes: 3_072, truncated: true, encoding: 'gzip' });
    await stage.sql.query(`
      alter role current_user set pg_net.max_response_bytes = '1TB';
      alter role current_user set pg_net.follow_insecure_redirects = 'perhaps';
      alter role current_user set pg_net.decompress = 'False'`);
    await restarted();
    expect(await outcome()).toEqual({ bytes: 5_000, truncated: false, encoding: undefined });
    expect(stage.log.filter((line) => /pg_net\./.test(line))).toEqual([
      expect.stringContaining('pg_net.max_response_bytes is "1TB": it must be a number of bytes from 1kB to 256MB'),
      expect.stringContaining('pg_net.follow_insecure_redirects is "perhaps": it must be on or off; using on'),
    ]);
  });

  test('net._http_collect_response, asynchronously', async () => {
    const stage = await backend.open();
    const collect = async (id: number): Promise<unknown> =>
      (
        await stage.sql.query(`
          select (c.r).status, (c.r).message, ((c.r).response).status_code, ((c.r).response).body
          from (select net._http_collect_response(${id}) as r) c`)
      )[0];
    const missing = {
      status: 'ERROR',
      message: 'request matching request_id not found',
      status_code: null,
      body: null,
    };
    const gate = await startGate();
    const id = await stage.get(gate.url, 60_000);
    expect(await collect(id)).toEqual(missing);
    expect(await collect(4711)).toEqual(missing);
    gate.open();
    await stage.response(id);
    expect(await collect(id)).toEqual({ status: 'SUCCESS', message: 'ok', status_code: 200, body: 'opened' });

    const notFound = await stage.get('/status/404');
    await stage.response(notFound);
    expect(await collect(notFound)).toEqual({ status: 'SUCCESS', message: 'ok', status_code: 404, body: null });

    const refused = await stage.get(`http://127.0.0.1:${await closedPort()}/`);
    await stage.response(refused);
    const message = "Couldn't connect to server";
    expect(await collect(refused)).toEqual({ status: 'ERROR', message, status_code: null, body: null });
    expect(
      await stage.sql.query(
        `select (net.http_collect_response(${id})).status, (net.http_collect_response(4711)).message`,
      ),
    ).toEqual([{ status: 'SUCCESS', message: missing.message }]);
  });

  test('what waits for a response raises where it could only wait for ever', async () => {
    const stage = await backend.open();
    const done = await stage.get('/get');
    await stage.response(done);
    // A response that is there is returned wherever one asks.
    await stage.sql.query(`select net._http_collect_response(${done}, async := false)`);
    await stage.sql.query(`begin isolation level serializable; select net._await_response(${done}); commit`);

    const refusing = 'could only last for ever';
    await expect(
      stage.sql.query(`begin; select net._await_response(net.http_get('${stage.echoUrl}/get'))`),
    ).rejects.toThrow(refusing);
    await stage.sql.query('rollback');
    const gate = await startGate();
    const id = await stage.get(gate.url, 60_000);
    for (const level of ['repeatable read', 'serializable']) {
      await expect(
        stage.sql.query(`begin isolation level ${level}; select net._http_collect_response(${id}, false)`),
      ).rejects.toThrow(refusing);
      await stage.sql.query('rollback');
    }
    gate.open();
    await stage.response(id);
  });

  test.runIf(can(backend, 'waitingInsideAStatement'))('net._http_collect_response, synchronously', async () => {
    const stage = await backend.open();
    const collect = async (id: number): Promise<unknown> =>
      (
        await stage.sql.query(`
          select (c.r).status, (c.r).message, ((c.r).response).status_code
          from (select net._http_collect_response(${id}, async := false) as r) c`)
      )[0];
    expect(await collect(await stage.get('/delay/0.05'))).toEqual({
      status: 'SUCCESS',
      message: 'ok',
      status_code: 200,
    });
    const refused = await stage.get(`http://127.0.0.1:${await closedPort()}/`);
    expect(await collect(refused)).toEqual({
      status: 'ERROR',
      message: "Couldn't connect to server",
      status_code: null,
    });
    await expect(collect(4711)).rejects.toThrow('there is no request 4711');
  });

  test('what cannot be requested is refused when it is enqueued', async () => {
    const stage = await backend.open({ worker: false });
    const refuse = async (call: string, message: string | RegExp): Promise<void> => {
      await expect(stage.sql.query(`select ${call}`)).rejects.toThrow(message);
    };
    await refuse(`net.http_get('ftp://example.com')`, 'Unsupported URL scheme');
    await refuse(`net.http_get('/malformed_url')`, 'invalid URL "/malformed_url"');
    await refuse(`net.http_post(null)`, 'null value in column "url"');
    await refuse(
      `net.http_post('http://example.com', headers := '{"Content-Type": "text/plain"}')`,
      'Content-Type header must be "application/json"',
    );
    await refuse(`net.http_get('http://example.com', headers := '["a"]')`, 'headers must be a JSON object');
    await refuse(`net.http_get('http://example.com', headers := '{"a": "b\\r\\nc: d"}')`, 'contains a line break');
    await refuse(`net.http_get('http://example.com', headers := '{"a": null}')`, 'is null');
    await refuse(`net.http_get('http://example.com', params := '[1]')`, 'params must be a JSON object');
    for (const timeout of [-1, 0, 2_000_000_000]) {
      await refuse(
        `net.http_get('http://example.com', timeout_milliseconds := ${timeout})`,
        'timeout_milliseconds is out of range',
      );
    }
    expect(await stage.sql.query('select net.http_get(null)')).toEqual([{ http_get: null }]);
    expect(await stage.count('net.http_request_queue')).toBe(0);
  });

  test('a row inserted by hand that cannot be sent fails alone', async () => {
    const stage = await backend.open();
    await stage.sql.query(`
      insert into net.http_request_queue (method, url, headers, body, timeout_milliseconds) values
        ('GET', '${stage.echoUrl}/get', '["no object"]', null, 2000),
        ('GET', 'no url', '{}', null, 2000),
        ('GET', '${stage.echoUrl}/late', '{}', null, -5),
        ('GET', '${stage.echoUrl}/get', '{"bad name": "x"}', null, 2000),
        ('GET', '${stage.echoUrl}/get', '{}', null, 2000)`);
    await stage.sql.query('select net.wake()');
    await stage.responses(5);
    const rows = await stage.sql.query<ResponseRow>('select * from net._http_response order by id');
    expect(rows.map((row) => row.status_code)).toEqual([null, null, null, null, 200]);
    for (const row of rows.slice(0, 4)) expect(row.error_msg).toMatch(/\S/);
    expect(rows.map((row) => row.timed_out)).toEqual([false, false, false, false, false]);
    expect(stage.receivedPaths).toEqual(['/get']);
  });

  test.runIf(can(backend, 'otherEncodings'))(
    'in a LATIN1 database, what it lacks becomes ? and the bytes are kept',
    async () => {
      const stage = await backend.open({ encoding: 'LATIN1' });
      expect(await stage.sql.query('show server_encoding')).toEqual([{ server_encoding: 'LATIN1' }]);
      const bodies = { plain: Buffer.from('Grüße'), euro: Buffer.from('é costs 5 €, 日本'), ascii: Buffer.from('ok') };
      const url = await serveBodies(bodies, 'text/plain; charset=utf-8');
      await stage.sql.query(`select net.http_get('${url}/' || name) from unnest(array['plain', 'euro', 'ascii']) name`);
      await stage.responses(3);
      const rows = await stage.sql.query<ResponseRow>('select * from net._http_response order by id');
      expect(rows.map((row) => [row.status_code, row.content, bytesOf(row)])).toEqual([
        [200, 'Grüße', null],
        [200, 'é costs 5 ?, ??', bodies.euro.toString('hex')],
        [200, 'ok', null],
      ]);

      // "The body's character set encoding matches the database's server_encoding setting."
      await stage.response(await stage.enqueue(`select net.http_post('${stage.echoUrl}/post', '{"name": "Zoë"}')`));
      expect(Buffer.from(stage.received[0]?.body ?? []).toString('latin1')).toBe('{"name": "Zoë"}');
      // Parameters travel in UTF-8 whatever the database's encoding is.
      await stage.response(await stage.enqueue(`select net.http_get('${stage.echoUrl}/get', '{"name": "Zoë"}')`));
      expect(stage.receivedPaths[1]).toBe('/get?name=Zo%C3%AB');
    },
  );
});
