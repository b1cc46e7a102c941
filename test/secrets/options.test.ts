import { expect, test } from 'vitest';
import { readWorkerConfig } from '../../src/config/worker-config.ts';
import { createFleet } from '../../src/worker/create-fleet.ts';

const secrets = { stripe: { hosts: ['api.stripe.com'], roles: ['billing'] } };
const secretSource = { read: async () => 'a value' };

test.each<[object, RegExp]>([
  [{ secrets }, /secrets need a secretSource/],
  [{ secrets: ['stripe'], secretSource }, /secrets must be an object/],
  [
    { secrets: { stripe: 'sk_live_12345678' }, secretSource },
    /secrets "stripe" must be \{ hosts: \[\.\.\.\], roles: \[\.\.\.\] \}/,
  ],
  [
    { secrets: { stripe: { hosts: 'api.stripe.com', roles: ['x'] } }, secretSource },
    /secrets "stripe" must list the hosts/,
  ],
  [{ secrets, secretSource: {} }, /secretSource must have a method read/],
  [{ secrets, secretSource: null }, /secretSource must have a method read/],
])('%j is refused', (options, message) => {
  expect(() => readWorkerConfig(options)).toThrow(message);
  expect(() => createFleet(options)).toThrow(message);
  expect(() => readWorkerConfig(options)).not.toThrow(/sk_live/);
});

test('what is declared does not change with what it was declared by', () => {
  const given = structuredClone(secrets);
  const config = readWorkerConfig({ secrets: given, secretSource });
  given.stripe.hosts.push('evil.example');
  expect(config.secrets).toEqual(secrets);
  expect(Object.isFrozen(config.secrets)).toBe(true);
});
