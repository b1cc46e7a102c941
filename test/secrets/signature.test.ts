import { randomBytes, webcrypto } from 'node:crypto';
import fc from 'fast-check';
import { Webhook } from 'standardwebhooks';
import { describe, expect, test } from 'vitest';
import type { HeaderList } from '../../src/core/request.ts';
import { expectFurnished, furnish, type Given } from './furnish.ts';

const published = {
  key: 'whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw',
  id: 'msg_p5jXN8AQM9LWM0D4loKWxJek',
  timestamp: 1_614_265_330,
  body: '{"test": 2432232314}',
  signature: 'v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=',
};
const key = (bytes: number): string => `whsec_${randomBytes(bytes).toString('base64')}`;

/** What is sent of a request that is signed with the keys. */
async function sign(keys: string, given: Given = {}, timestamp: number = Math.floor(Date.now() / 1_000)) {
  const headers: HeaderList = [['webhook-id', 'msg_1'], ...(given.headers ?? [])];
  const parts = { source: { read: async () => keys }, unixTimeMs: () => timestamp * 1_000 + 999 };
  return await furnish({ roles: [], signWith: 'hook', ...given, headers }, parts);
}

async function signed(...given: Parameters<typeof sign>): Promise<Record<string, string>> {
  return Object.fromEntries(expectFurnished(await sign(...given)).request.headers);
}

test('the published vector', async () => {
  const { key: keys, id, timestamp, body, signature } = published;
  const source = { read: async () => keys };
  const given: Given = { headers: [['webhook-id', id]], roles: [], signWith: 'hook', body: Buffer.from(body) };
  const furnished = expectFurnished(await furnish(given, { source, unixTimeMs: () => timestamp * 1_000 }));
  expect(furnished.request.headers).toEqual([
    ['webhook-id', id],
    ['webhook-timestamp', String(timestamp)],
    ['webhook-signature', signature],
  ]);
  expect(furnished.request.secretHeaders).toEqual(new Set());
});

describe('the official library', () => {
  test('verifies what is signed, whatever text it is', async () => {
    await fc.assert(
      fc.asyncProperty(fc.json(), fc.integer({ min: 24, max: 64 }), async (body, bytes) => {
        const keys = key(bytes);
        const headers = await signed(keys, { body: Buffer.from(body) });
        expect(new Webhook(keys).verify(body, headers)).toEqual(JSON.parse(body));
        expect(() => new Webhook(keys).verify(`${body} `, headers)).toThrow(/No matching signature/);
        expect(() => new Webhook(keys).verify(body, { ...headers, 'webhook-id': 'msg_2' })).toThrow(/No matching/);
      }),
      { numRuns: 50 },
    );
  });

  test('verifies with the old key and with the new one during a rotation', async () => {
    const [old, fresh] = [key(24), key(64)];
    const headers = await signed(`${fresh}  ${old}`, { body: Buffer.from('{}') });
    expect(headers['webhook-signature']).toMatch(/^v1,\S{44} v1,\S{44}$/);
    for (const each of [old, fresh]) new Webhook(each).verify('{}', headers);
    expect(() => new Webhook(key(24)).verify('{}', headers)).toThrow(/No matching signature/);
    const [first = ''] = headers['webhook-signature']?.split(' ') ?? [];
    new Webhook(fresh).verify('{}', { ...headers, 'webhook-signature': first });
  });
});

test('the bytes of the body are signed, whatever they are', async () => {
  const keys = key(32);
  const hmacKey = await webcrypto.subtle.importKey(
    'raw',
    Buffer.from(keys.slice('whsec_'.length), 'base64'),
    { name: 'HMAC', hash: 'SHA-256' },
    false,
    ['verify'],
  );
  await fc.assert(
    fc.asyncProperty(fc.option(fc.uint8Array()), async (body) => {
      const headers = await signed(keys, { body });
      const [, signature = ''] = headers['webhook-signature']?.split(',') ?? [];
      const content = Buffer.concat([Buffer.from(`msg_1.${headers['webhook-timestamp']}.`), body ?? Buffer.alloc(0)]);
      expect(await webcrypto.subtle.verify('HMAC', hmacKey, Buffer.from(signature, 'base64'), content)).toBe(true);
    }),
  );
});

test('a request may be signed and refer to a secret', async () => {
  const keys = key(24);
  const given: Given = { roles: ['billing'], headers: [['Authorization', '{{secret.stripe}}']] };
  const furnished = expectFurnished(await sign(`${keys} ${keys}`, given));
  expect(furnished.request.secretHeaders).toEqual(new Set(['authorization']));
  expect(furnished.secrets).toContainEqual({ name: 'hook', value: keys });
});

test.each([
  ['no key', 'a plain password'],
  ['23 bytes', key(23)],
  ['65 bytes', key(65)],
  ['another prefix', key(24).replace('whsec_', 'whsk_')],
  ['characters that are no base64', `whsec_${'!'.repeat(40)}`],
  ['base64 with a hole', `whsec_${randomBytes(24).toString('base64').slice(0, -3)}=AB`],
  ['a key and something else', `${key(24)} other`],
  ['eleven keys', Array.from({ length: 11 }, () => key(24)).join(' ')],
])('%s cannot sign', async (_what, keys) => {
  const refused = await sign(keys);
  expect(refused).toMatchObject({
    code: 'secret_unavailable',
    message: expect.stringMatching(
      /^The secret "hook" cannot sign: it must be whsec_ and the base64 of 24 to 64 bytes/,
    ),
  });
  expect(JSON.stringify(refused)).not.toContain(keys);
});

test.each<[string, HeaderList]>([
  ['no id', []],
  [
    'two ids',
    [
      ['webhook-id', 'a'],
      ['Webhook-Id', 'b'],
    ],
  ],
  ['an empty id', [['webhook-id', ' ']]],
  ['a full stop in the id: it could be taken for the id and the time of another', [['webhook-id', 'a.1']]],
  ['a blank in the id', [['webhook-id', 'a b']]],
  [
    'a time of its own',
    [
      ['webhook-id', 'a'],
      ['Webhook-Timestamp', '1'],
    ],
  ],
  [
    'a signature of its own',
    [
      ['webhook-id', 'a'],
      ['WEBHOOK-SIGNATURE', 'v1,x'],
    ],
  ],
])('a request is not signed with %s', async (_what, headers) => {
  const refused = await furnish(
    { headers, roles: [], signWith: 'hook' },
    { source: { read: async () => published.key } },
  );
  expect(refused).toMatchObject({
    kind: 'failure',
    code: 'invalid_request',
    message: expect.stringMatching(/webhook-/),
  });
});
