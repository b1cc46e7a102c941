import http2, { type IncomingHttpHeaders } from 'node:http2';
import { expect, test } from 'vitest';
import type { SendableRequest } from '../../src/core/request.ts';
import {
  expectFailure,
  expectReply,
  httpServer,
  listen,
  request,
  serverIdentity,
  testCa,
  testClient,
} from '../http/loopback.ts';
import { claimed } from './furnish.ts';

test('what a source has taken of a request’s time is not given to it again', async () => {
  const server = await httpServer(() => {});
  const sendable = { ...request(server.url, { timeoutMs: 86_400_000 }), spentMs: 86_399_950 };
  const { code, message, timings } = expectFailure(await testClient().send(sendable));
  expect({ code, message }).toEqual({
    code: 'timed_out',
    message: expect.stringMatching(/^Timeout of 86400000 ms reached/),
  });
  expect(timings.totalMs).toBeGreaterThanOrEqual(86_399_950);
});

test('HTTP/2 keeps headers that hold a secret out of the tables that compress them', async () => {
  const server = http2.createSecureServer(serverIdentity());
  const { url } = await listen(server, 'https');
  const arrived: IncomingHttpHeaders[] = [];
  server.on('stream', (stream, headers) => {
    arrived.push(headers);
    stream.respond({ ':status': 204 });
    stream.end();
  });
  const client = testClient({ tls: { ca: testCa } });
  const headers = [
    ['X-Secret', 'a secret of some length'],
    ['X-Other', 'x'],
  ] as const;
  expectReply(await client.send(request(url, { headers, secretHeaders: ['x-secret'] })));
  expect(arrived[0]?.['x-secret']).toBe('a secret of some length');
  expect(Reflect.get(arrived[0] ?? {}, http2.sensitiveHeaders)).toEqual(['x-secret']);
});

test('a request that refers to secrets is none that can be sent', async () => {
  // The compiler says so; what it says is expected, so that it is an error where it does not.
  const sendable: SendableRequest[] = [];
  // @ts-expect-error: it has to be furnished first.
  sendable.push(claimed());
  expect(sendable).toHaveLength(1);
});
