import pg from 'pg';
import { expect, test } from 'vitest';
import { availableMajors, createDatabase, startTestPostgres, until } from '../support/servers.ts';

test.each(availableMajors())('gives one PostgreSQL %i to a test file, and databases of their own', async (major) => {
  const server = await startTestPostgres({ major });
  expect(await startTestPostgres({ major })).toBe(server);
  const [one, two] = await Promise.all([createDatabase(server), createDatabase(server, 'with "quotes" and é')]);
  const client = new pg.Client({ connectionString: two.url });
  client.on('error', () => {});
  await client.connect();
  const { rows } = await client.query<{ name: string }>('SELECT current_database() AS name');
  expect(rows[0]?.name).toBe('with "quotes" and é');
  await two.drop();
  await one.drop();
  await client.end().catch(() => {});
});

test('until returns what the probe found, and says what it waited for in vain', async () => {
  let calls = 0;
  expect(await until(() => (calls++ > 2 ? calls : undefined), 'three calls')).toBe(4);
  await expect(until(() => false, 'pigs fly', 10)).rejects.toThrow('Waited 10 ms in vain until pigs fly');
  await expect(until(() => Promise.reject(new Error('no wings')), 'pigs fly', 10)).rejects.toThrow('no wings');
});
