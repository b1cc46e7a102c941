import { describe, expect, it } from 'vitest';
import { createAddressPolicy } from '../../src/core/addresses.ts';
import { expectReply, httpServer, request, testClient, text, watchDialling } from './loopback.ts';
import corpus from './ssrf-corpus.json' with { type: 'json' };

const loopbackLookup = async () => [{ address: '127.0.0.1', family: 4 }];

describe('the guard', () => {
  it.each(corpus.deny)('refuses %j without dialling', async (url) => {
    const dialled = watchDialling();
    const client = testClient({ policy: createAddressPolicy(), lookup: loopbackLookup });
    const outcome = await client.send(request(url));
    expect(outcome.kind === 'failure' && outcome.code).toMatch(/^(denied|invalid_url|unsupported_scheme)$/);
    expect(dialled.sockets).toEqual([]);
  });

  it('sees the dialling that these tests say does not happen', async () => {
    const dialled = watchDialling();
    const server = await httpServer((_incoming, response) => response.end());
    expectReply(await testClient().send(request(server.url)));
    expect(dialled.sockets).toHaveLength(1);
  });

  it('says which rule, but not what a name resolved to', async () => {
    const client = testClient({
      policy: createAddressPolicy(),
      lookup: async () => [{ address: '10.11.12.13', family: 4 }],
    });
    const messages = ['http://10.1.2.3/', 'http://db.internal/', 'http://public.example/'].map(async (url) => {
      const outcome = await client.send(request(url));
      return outcome.kind === 'failure' && outcome.message;
    });
    expect(await Promise.all(messages)).toEqual([
      'Denied by the address policy: 10.0.0.0/8 (private network)',
      'Denied by the address policy: names ending in .internal',
      'Denied by the address policy: the name resolves to an address that is not allowed',
    ]);
  });

  it.each([
    [['8.8.8.8', '127.0.0.1']],
    [['127.0.0.1', '8.8.8.8']],
    [['2001:4860:4860::8888', '::ffff:127.0.0.1']],
    [['8.8.8.8', 'not an address']],
    [['8.8.8.8', 'fe80::1%lo']],
    [['8.8.8.8', '0.0.0.0']],
    [['2001:4860:4860::8888', '::']],
    [['8.8.8.8', '::8.8.4.4']],
    [['8.8.8.8', '64:ff9b::808:808']],
    [['8.8.8.8', '2002:7f00:1::1']],
    [['8.8.8.8', 'fd00:c1::a9fe:a9fe']],
    [[...Array.from({ length: 40 }, (_, i) => `8.8.8.${i}`), '10.0.0.1']],
  ])('refuses a name if any of its addresses is denied: %j', async (addresses) => {
    const dialled = watchDialling();
    const lookup = async () => addresses.map((address) => ({ address, family: 4 }));
    const client = testClient({ policy: createAddressPolicy(), lookup });
    expect(await client.send(request('http://public.example/'))).toMatchObject({ code: 'denied' });
    expect(dialled.sockets).toEqual([]);
  });

  it('dials the address it vetted: the name is resolved once', async () => {
    const server = await httpServer((incoming, response) => response.end(incoming.headers.host));
    let lookups = 0;
    const lookup = async () => {
      lookups += 1;
      return [{ address: lookups === 1 ? '127.0.0.1' : '10.0.0.1', family: 4 }];
    };
    const url = `http://rebinding.example:${server.port}/`;
    const client = testClient({ lookup });
    expect(text(expectReply(await client.send(request(url))))).toBe(`rebinding.example:${server.port}`);
    // The kept connection leads where it was vetted to lead; another one is vetted anew.
    expectReply(await client.send(request(url)));
    expect(lookups).toBe(1);
    const later = `http://rebinding.example:${server.port + 1}/`;
    expect(await client.send(request(later))).toMatchObject({ code: 'denied' });
  });

  it('resolves a name once for all who ask at the same time', async () => {
    const server = await httpServer((_incoming, response) => response.end());
    let lookups = 0;
    const client = testClient({
      lookup: async () => {
        lookups += 1;
        return loopbackLookup();
      },
    });
    const url = `http://name.example:${server.port}/`;
    await Promise.all(Array.from({ length: 8 }, async () => expectReply(await client.send(request(url)))));
    expect(lookups).toBe(1);
  });

  it('tries localhost on ::1 and 127.0.0.1 without asking anyone', async () => {
    const server = await httpServer((_incoming, response) => response.end('here'));
    const client = testClient({ lookup: () => Promise.reject(new Error('asked')) });
    for (const host of ['localhost', 'LOCALHOST.', 'app.localhost']) {
      expect(text(expectReply(await client.send(request(`http://${host}:${server.port}/`))))).toBe('here');
    }
  });

  it('tries the next address when one does not answer', async () => {
    const server = await httpServer((_incoming, response) => response.end('here'));
    const lookup = async () => ['127.1.1.1', '::1', '127.0.0.1'].map((address) => ({ address, family: 4 }));
    const reply = await testClient({ lookup }).send(request(`http://several.example:${server.port}/`));
    expect(text(expectReply(reply))).toBe('here');
  });
});
