import { request as httpRequest } from 'node:http';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { type EchoRequest, type EchoServer, startEchoServer } from '../../src/embedded/echo.ts';
import { EmbeddedServerError } from '../../src/embedded/errors.ts';

let server: EchoServer;
const received: EchoRequest[] = [];

beforeAll(async () => {
  server = await startEchoServer({ onRequest: (request) => received.push(request) });
});
afterAll(() => server.close());

type Echo = {
  args: Record<string, unknown>;
  headers: Record<string, string>;
  url: string;
  method: string;
  data: string;
  json: unknown;
  form?: Record<string, unknown>;
  origin: string;
  path: string;
};

async function echo(path: string, init?: RequestInit): Promise<Echo> {
  const response = await fetch(`${server.url}${path}`, init);
  expect(response.status).toBe(200);
  expect(response.headers.get('content-type')).toBe('application/json');
  return (await response.json()) as Echo;
}

describe('the echo', () => {
  test('holds the body as text and as JSON', async () => {
    const body = '{"key1": "value", "key2": 5}';
    const reply = await echo('/post', { method: 'POST', body, headers: { 'content-type': 'application/json' } });
    expect(reply).toMatchObject({
      args: {},
      data: body,
      json: { key1: 'value', key2: 5 },
      method: 'POST',
      path: '/post',
      url: `${server.url}/post`,
      origin: '127.0.0.1',
    });
    expect(reply.headers).toMatchObject({ 'Content-Type': 'application/json', Host: `127.0.0.1:${server.port}` });
  });

  test('holds arguments, repeated and odd ones too', async () => {
    const reply = await echo('/get?a=1&b=x%20y&b=%C3%A9&__proto__=p');
    expect(Object.entries(reply.args)).toEqual([
      ['a', '1'],
      ['b', ['x y', 'é']],
      ['__proto__', 'p'],
    ]);
  });

  test('holds the fields of a form', async () => {
    const reply = await echo('/post', { method: 'POST', body: new URLSearchParams({ name: 'Ada & Co' }) });
    expect(reply.form).toEqual({ name: 'Ada & Co' });
    expect(reply.data).toBe('name=Ada+%26+Co');
  });

  test('keeps bytes that are not UTF-8', async () => {
    const reply = await echo('/anything', { method: 'PUT', body: Buffer.from([0xff, 0x00, 0x41]) });
    expect(reply.data).toBe('data:application/octet-stream;base64,/wBB');
    expect(reply.json).toBeNull();
  });

  test.each(['GET', 'POST', 'PUT', 'PATCH', 'DELETE'])(
    'answers %s on its own path and on any other',
    async (method) => {
      expect(await echo(`/${method.toLowerCase()}`, { method })).toMatchObject({ method });
      expect(await echo('/some/where', { method })).toMatchObject({ method, path: '/some/where' });
      const other = await fetch(`${server.url}/${method === 'GET' ? 'post' : 'get'}`, { method });
      expect(other.status).toBe(405);
      expect(other.headers.get('allow')).toContain(method === 'GET' ? 'POST' : 'GET');
    },
  );

  test('tells the caller what arrived, headers as sent', async () => {
    received.length = 0;
    await new Promise<void>((resolve, reject) => {
      const request = httpRequest(`${server.url}/seen?x=1`, { method: 'POST', headers: { 'X-Odd': ['1', '2'] } });
      request.on('error', reject);
      request.on('response', (response) => response.resume().on('end', resolve));
      request.end('body');
    });
    expect(received).toHaveLength(1);
    expect(received[0]).toMatchObject({ method: 'POST', path: '/seen?x=1', body: Buffer.from('body') });
    expect(received[0]?.headers.filter(([name]) => name === 'X-Odd')).toEqual([
      ['X-Odd', '1'],
      ['X-Odd', '2'],
    ]);
  });
});

describe('the other routes', () => {
  test('HEAD and OPTIONS', async () => {
    const head = await fetch(`${server.url}/get`, { method: 'HEAD' });
    expect(head.status).toBe(200);
    expect(Number(head.headers.get('content-length'))).toBeGreaterThan(0);
    expect(await head.text()).toBe('');
    const options = await fetch(`${server.url}/post`, { method: 'OPTIONS' });
    expect([options.status, options.headers.get('allow')]).toEqual([200, 'POST, OPTIONS']);
  });

  test.each([200, 204, 302, 304, 401, 418, 503, 599])('/status/%i', async (status) => {
    const response = await fetch(`${server.url}/status/${status}`, { method: 'POST', body: 'x', redirect: 'manual' });
    expect(response.status).toBe(status);
    expect(await response.text()).toBe('');
  });

  test.each(['/status/199', '/status/600', '/status/x', '/delay/x', '/redirect/0', '/bytes/-1'])(
    '%s is refused',
    async (path) => {
      const response = await fetch(`${server.url}${path}`);
      expect(response.status).toBe(400);
      expect(await response.json()).toHaveProperty('error');
    },
  );

  test('/delay answers no earlier than asked, and forgets a client that left', async () => {
    const start = performance.now();
    expect(await echo('/delay/0.05', { method: 'POST', body: 'later' })).toMatchObject({ data: 'later' });
    expect(performance.now() - start).toBeGreaterThanOrEqual(45);
    await expect(fetch(`${server.url}/delay/10`, { signal: AbortSignal.timeout(20) })).rejects.toThrow();
  });

  test('/redirect leads to /get in that many hops', async () => {
    const first = await fetch(`${server.url}/redirect/3`, { redirect: 'manual' });
    expect([first.status, first.headers.get('location')]).toEqual([302, '/redirect/2']);
    expect(await echo('/redirect/3')).toMatchObject({ path: '/get' });
  });

  test('/bytes gives the same bytes every time, within a limit', async () => {
    const get = async (count: number): Promise<Buffer> =>
      Buffer.from(await (await fetch(`${server.url}/bytes/${count}`)).arrayBuffer());
    const bytes = await get(4_096);
    expect(bytes).toHaveLength(4_096);
    expect(new Set(bytes).size).toBe(256);
    expect(bytes.equals(await get(4_096))).toBe(true);
    expect(await get(999_999_999_999)).toHaveLength(10 * 1024 * 1024);
  });

  test('/headers gives the headers alone', async () => {
    const response = await fetch(`${server.url}/headers`, { headers: { 'x-mine': 'yes' } });
    expect(await response.json()).toMatchObject({ headers: { 'X-Mine': 'yes' } });
  });
});

describe('limits', () => {
  test.each(['announced', 'streamed'])('a body over 10 MiB that is %s is refused', async (how) => {
    const bytes = Buffer.alloc(11 * 1024 * 1024, 'x');
    const status = await new Promise<number | undefined>((resolve, reject) => {
      const headers = how === 'announced' ? { 'content-length': bytes.length } : { 'transfer-encoding': 'chunked' };
      const request = httpRequest(`${server.url}/post`, { method: 'POST', headers });
      request.on('error', reject);
      request.on('response', (response) => {
        response.resume();
        resolve(response.statusCode);
      });
      request.end(bytes);
    });
    expect(status).toBe(413);
  });

  test('a taken port is a clear error', async () => {
    const error: unknown = await startEchoServer({ port: server.port }).catch((reason: unknown) => reason);
    expect(error).toBeInstanceOf(EmbeddedServerError);
    expect(String(error)).toContain(`Port ${server.port} on 127.0.0.1 is taken`);
  });

  test('closing ends open connections and may be repeated', async () => {
    const other = await startEchoServer();
    const pending = fetch(`${other.url}/delay/10`).catch((error: unknown) => error);
    await fetch(`${other.url}/get`);
    await other.close();
    await other.close();
    expect(await pending).toBeInstanceOf(Error);
    await expect(fetch(`${other.url}/get`)).rejects.toThrow();
  });
});
