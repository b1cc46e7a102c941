import fc from 'fast-check';
import { expect, test } from 'vitest';
import { defaultTerms, type Terms } from '../../src/core/aftermath.ts';
import { parseExtras } from '../../src/core/extras.ts';
import type { HeaderList, SendableRequest } from '../../src/core/request.ts';
import { madeKeyOf } from '../../src/worker/idempotency-key.ts';

const terms = (keysFrom: string | undefined, maxAttempts = 3): Terms => ({
  ...defaultTerms,
  retry: { ...defaultTerms.retry, maxAttempts },
  keysFrom,
});
const request = (id: bigint, headers: HeaderList = [], extras?: string): SendableRequest => ({
  kind: 'sendable',
  row: {
    id,
    method: 'GET',
    url: 'http://h/',
    headersJson: '{}',
    body: null,
    timeoutMs: 1,
    loginRole: null,
    setRole: null,
    signWith: null,
    extras: extras === undefined ? undefined : parseExtras(extras),
  },
  headers,
  hostRules: undefined,
  secretHeaders: new Set(),
  spentMs: 0,
});

test('the key is a UUID, the same whenever it is asked for, another for each request and installation', () => {
  const pair = fc.tuple(fc.string(), fc.bigInt({ min: 1n, max: 2n ** 63n - 1n }));
  fc.assert(
    fc.property(pair, pair, ([from, id], [otherFrom, otherId]) => {
      const key = madeKeyOf(request(id), terms(from));
      expect(key).toMatch(/^[0-9a-f]{8}-[0-9a-f]{4}-8[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/);
      expect(madeKeyOf(request(id, [['a', 'b']], '{"attempts": 2}'), terms(from))).toBe(key);
      expect(madeKeyOf(request(otherId), terms(otherFrom)) === key).toBe(from === otherFrom && id === otherId);
    }),
  );
});

test('there is none for what is tried once, what has one, and where the setting is off', () => {
  expect(madeKeyOf(request(1n), terms(undefined))).toBeUndefined();
  expect(madeKeyOf(request(1n), terms('x', 1))).toBeUndefined();
  expect(madeKeyOf(request(1n, [], '{"retry": {"maxAttempts": 1}}'), terms('x'))).toBeUndefined();
  expect(madeKeyOf(request(1n, [['IDEMPOTENCY-key', 'mine']]), terms('x'))).toBeUndefined();
  expect(madeKeyOf(request(1n, [], '{"retry": {"maxAttempts": 2}}'), terms('x', 1))).toBeDefined();
});
