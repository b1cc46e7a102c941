import http2, { type IncomingHttpHeaders } from 'node:http2';
import { gzipSync } from 'node:zlib';
import { describe, expect, test } from 'vitest';
import { defaultTerms } from '../../src/core/aftermath.ts';
import { Cancellation } from '../../src/core/cancellation.ts';
import type { SendableRequest } from '../../src/core/request.ts';
import { defaultSendRules } from '../../src/core/send-rules.ts';
import { createSecrets } from '../../src/secrets/secrets.ts';
import { carryOut, type Stages } from '../../src/worker/pipeline.ts';
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

const value = 'sk_live_0123456789';

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

describe('from the queue to the row', () => {
  const secrets = createSecrets({
    bindings: { stripe: { hosts: ['http://127.0.0.1'], roles: ['public'] } },
    source: { read: async () => value },
  });
  const stages = (): Stages => {
    const client = testClient();
    return {
      furnish: secrets.furnish,
      send: (sendable, rules) => client.send(sendable, rules),
      clock: Date.now,
      random: Math.random,
    };
  };
  const standing = { hostRules: undefined, roles: new Set<string>() };

  test('a compressed echo is decoded before it is looked through', async () => {
    const server = await httpServer((incoming, response) => {
      const coded = incoming.headers['accept-encoding'] === undefined ? 'identity' : 'gzip';
      const echo = Buffer.from(`${incoming.headers.authorization}`);
      response.writeHead(200, { 'content-encoding': coded }).end(coded === 'gzip' ? gzipSync(echo) : echo);
    });
    const headers = [
      ['Accept-Encoding', 'gzip'],
      ['Authorization', '{{secret.stripe}}'],
    ] as const;
    const { row } = claimed({ url: server.url, headers });
    for (const decompress of [true, false]) {
      const settlement = await carryOut(
        row,
        standing,
        stages(),
        { ...defaultSendRules, decompress },
        defaultTerms,
        new Cancellation(),
      );
      expect(settlement, `decompress: ${decompress}`).toMatchObject({ statusCode: 200, content: '{{secret.stripe}}' });
    }
  });

  test('wherever a body is cut, it ends before a secret', async () => {
    const server = await httpServer((incoming, response) => response.end(`key: ${incoming.headers['x-key']}.`));
    const { row } = claimed({ url: server.url, headers: [['X-Key', '{{secret.stripe}}']] });
    for (let responseBytesMax = 1; responseBytesMax < 30; responseBytesMax++) {
      const { content } = await carryOut(
        row,
        standing,
        stages(),
        { ...defaultSendRules, responseBytesMax },
        defaultTerms,
        new Cancellation(),
      );
      expect('key: {{secret.stripe}}.'.startsWith(content ?? ''), `${responseBytesMax}: ${content}`).toBe(true);
    }
  });
});

test('a request that refers to secrets is none that can be sent', async () => {
  // The compiler says so; what it says is expected, so that it is an error where it does not.
  const sendable: SendableRequest[] = [];
  // @ts-expect-error: it has to be furnished first.
  sendable.push(claimed());
  expect(sendable).toHaveLength(1);
});
