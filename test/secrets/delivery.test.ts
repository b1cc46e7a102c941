import { renameSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { PGlite } from '@electric-sql/pglite';
import pg from 'pg';
import { Webhook } from 'standardwebhooks';
import { describe, expect, onTestFinished, test } from 'vitest';
import { pgNet } from '../../src/pglite/index.ts';
import { secretDirectory } from '../../src/secrets/directory.ts';
import { type CreateWorkerOptions, createWorker } from '../../src/worker/create.ts';
import { createFleet } from '../../src/worker/create-fleet.ts';
import { testCa } from '../http/loopback.ts';
import { installedDatabase } from '../support/installed.ts';
import { availableMajors, startTestPostgres, temporaryDirectory, until } from '../support/servers.ts';
import { type Receiver, startReceiver } from './receiver.ts';

const value = 'sk_live_0123456789abcdef';
const signingKey = 'whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw';
const values: Readonly<Record<string, string>> = { stripe: value, hook: signingKey };
const sourceOf = (from: Readonly<Record<string, string>>) => ({ read: async (name: string) => from[name] });

const options: CreateWorkerOptions = {
  allow: ['loopback'],
  ca: [testCa.toString()],
  secrets: {
    stripe: { hosts: ['127.0.0.1'], roles: ['secrets_billing'] },
    plain: { hosts: ['http://127.0.0.1'], roles: ['public'] },
    missing: { hosts: ['127.0.0.1'], roles: ['public'] },
    hook: { hosts: ['127.0.0.1'], roles: ['public'] },
  },
  secretSource: sourceOf({ ...values, plain: value }),
};

type Response = {
  readonly status_code: number | null;
  readonly error_code: string | null;
  readonly error_msg: string | null;
  readonly content: string | null;
  readonly headers: Readonly<Record<string, string>> | null;
  readonly final_url: string | null;
};

type Query = (text: string, parameters?: unknown[]) => Promise<{ rows: unknown[] }>;

const headersWith = (reference: string): string => `{"Authorization": "Bearer ${reference}"}`;

/** Enqueues a GET with the headers, as a role; returns the response. */
async function get(query: Query, url: string, headers: string, role: string = 'secrets_app'): Promise<Response> {
  await query(`set role ${role}`);
  const { rows } = await query('select net.http_get($1, headers := $2) as id', [url, headers]);
  await query('reset role');
  return await responseTo(query, (rows[0] as { id: unknown }).id);
}

async function responseTo(query: Query, id: unknown): Promise<Response> {
  return await until(
    async () => (await query('select * from net._http_response where id = $1', [id])).rows[0] as Response | undefined,
    `request ${id} has its response`,
  );
}

const roles = `
  create role secrets_billing;
  create role secrets_app in role secrets_billing;
  create role secrets_other`;

/** What holds wherever the queue is. `query` is a superuser's. */
async function expectSecretsKept(query: Query, receiver: Receiver, plain: Receiver): Promise<void> {
  const sent = await get(query, `${receiver.url}/echo`, headersWith('{{secret.stripe}}'));
  expect(sent).toMatchObject({ status_code: 200, headers: { 'x-echo': 'Bearer {{secret.stripe}}' } });
  expect(JSON.parse(sent.content ?? '')).toMatchObject({ authorization: 'Bearer {{secret.stripe}}' });
  expect(receiver.received.at(-1)?.headers.authorization).toBe(`Bearer ${value}`);

  const seen = receiver.received.length;
  const refused = { status_code: null, error_code: 'secret_refused' };
  expect(await get(query, receiver.url, headersWith('{{secret.stripe}}'), 'secrets_other')).toMatchObject({
    ...refused,
    error_msg: 'There is no secret "stripe" that this role may use',
  });
  const elsewhere = receiver.url.replace('127.0.0.1', 'localhost');
  expect(await get(query, elsewhere, headersWith('{{secret.stripe}}'))).toMatchObject({
    ...refused,
    error_msg: 'The secret "stripe" is not for this host',
  });
  expect(await get(query, receiver.url, headersWith('{{secret.missing}}'))).toMatchObject({
    error_code: 'secret_unavailable',
    error_msg: 'The secret "missing" has no value',
  });
  expect(receiver.received.length, 'nothing was sent').toBe(seen);

  expect(await get(query, plain.url, headersWith('{{secret.stripe}}'))).toMatchObject(refused);
  expect(await get(query, plain.url, headersWith('{{secret.plain}}'))).toMatchObject({ status_code: 200 });
  expect(plain.received.map(({ headers }) => headers.authorization)).toEqual([`Bearer ${value}`]);
}

async function expectSigned(query: Query, receiver: Receiver): Promise<void> {
  const body = Buffer.from('{"type": "order.created"}');
  const { rows } = await query(
    `insert into net.http_request_queue (method, url, headers, body, timeout_milliseconds, sign_with)
    values ('POST', $1, '{"webhook-id": "msg_1", "content-type": "application/json"}', $2, 5000, 'hook') returning id`,
    [receiver.url, body],
  );
  await query('select net.wake()');
  expect(await responseTo(query, (rows[0] as { id: unknown }).id)).toMatchObject({ status_code: 200 });
  const { headers, body: arrived } = receiver.received.at(-1) ?? { headers: {}, body: Buffer.alloc(0) };
  expect(arrived).toEqual(body);
  expect(new Webhook(signingKey).verify(arrived.toString(), headers as Record<string, string>)).toEqual({
    type: 'order.created',
  });
}

/** What is kept for redelivery holds references; the worker fills them in anew. */
async function expectRedelivered(query: Query, receiver: Receiver): Promise<void> {
  const as = async (text: string, parameters: unknown[]): Promise<unknown> => {
    await query('set role secrets_app');
    const { rows } = await query(text, parameters);
    await query('reset role');
    return (rows[0] as { id: unknown }).id;
  };
  const id = await as(
    `select net.request('POST', $1, '{"Authorization": "Bearer {{secret.stripe}}"}', text := '"x"', sign_with := 'hook') as id`,
    [`${receiver.url}/break`],
  );
  expect(await responseTo(query, id)).toMatchObject({ status_code: null });
  await responseTo(query, await as('select net.redeliver($1) as id', [id]));
  const sent = receiver.received.filter(({ path }) => path === '/break').map(({ headers }) => headers);
  expect(sent.map(({ authorization }) => authorization)).toEqual([`Bearer ${value}`, `Bearer ${value}`]);
  expect(sent[0]?.['webhook-id']).toMatch(/^msg_/);
  expect(sent[1]?.['webhook-id']).toBe(sent[0]?.['webhook-id']);
  for (const headers of sent) new Webhook(signingKey).verify('"x"', headers as Record<string, string>);

  const { rows } = await query(`select k::text as everything from net.kept_requests k`);
  const everything = JSON.stringify(rows);
  expect(everything).toContain('{{secret.stripe}}');
  expect(everything).not.toContain(value);
  expect(everything).not.toContain(signingKey);
}

describe.each(availableMajors())('on PostgreSQL %i', (major) => {
  async function stage(given: CreateWorkerOptions = options) {
    const server = await startTestPostgres({ major });
    const database = await installedDatabase(server);
    const client = new pg.Client(database.url);
    await client.connect();
    await client.query(roles);
    onTestFinished(async () => {
      await client.end();
      await database.drop();
      const admin = new pg.Client(server.connectionString);
      await admin.connect();
      await admin.query('drop role secrets_app, secrets_other, secrets_billing');
      await admin.end();
    });
    const worker = createWorker({ ...given, connectionString: database.url });
    onTestFinished(() => worker.stop());
    await worker.start();
    const query: Query = (text, parameters) => client.query(text, parameters);
    return { query, worker, url: database.url, receiver: await startReceiver('https') };
  }

  test('a secret goes where it is bound to, for whom it is bound to, and nowhere else', async () => {
    const { query, receiver } = await stage();
    await expectSecretsKept(query, receiver, await startReceiver('http'));
  });

  test('a signed request is verified by the official library', async () => {
    const { query, receiver } = await stage();
    await expectSigned(query, receiver);
    await expectRedelivered(query, receiver);
  });

  test('a redirect takes it along within the origin, and to no other', async () => {
    const { query, receiver } = await stage();
    const other = await startReceiver('https');
    const headers = `{"Authorization": "{{secret.stripe}}", "Accept": "{{secret.stripe}}", "user-agent": "a {{secret.stripe}}", "Accept-Language": "de"}`;
    const within = await get(query, `${receiver.url}/redirect?to=/echo`, headers);
    expect(within).toMatchObject({ status_code: 200, final_url: `${receiver.url}/echo` });
    expect(receiver.received.at(-1)?.headers).toMatchObject({
      authorization: value,
      accept: value,
      'user-agent': `a ${value}`,
    });

    const across = await get(query, `${receiver.url}/redirect?to=${other.url}/echo`, headers);
    expect(across).toMatchObject({ status_code: 200, final_url: `${other.url}/echo` });
    expect(other.received.at(-1)?.headers).toMatchObject({ 'accept-language': 'de' });
    expect(JSON.stringify(other.received)).not.toContain(value);

    const leaking = await get(
      query,
      `${receiver.url}/redirect?to=/echo?key=AUTHORIZATION`,
      headersWith('{{secret.stripe}}'),
    );
    expect(leaking.final_url).toMatch(/^https:\/\/127\.0\.0\.1:\d+\/(echo\?key=Bearer%20\{\{secret\.stripe\}\})?$/);
  });

  test('a rotation is followed without a restart', async () => {
    const directory = temporaryDirectory('secrets');
    const write = (text: string): void => {
      writeFileSync(join(directory, '.new'), text);
      renameSync(join(directory, '.new'), join(directory, 'stripe'));
    };
    write('the old value\n');
    const { query, receiver } = await stage({ ...options, secretSource: secretDirectory(directory) });
    const sent = async (): Promise<string | undefined> => {
      await get(query, receiver.url, '{"Authorization": "{{secret.stripe}}"}');
      return receiver.received.at(-1)?.headers.authorization;
    };
    expect(await sent()).toBe('the old value');
    write('the new value\n');
    await until(async () => (await sent()) === 'the new value', 'the new value is sent');
  });

  test('a role that there is not is named when the worker starts, and no other', async () => {
    const warnings: string[] = [];
    const log = { info: () => {}, warn: (_: object, message: string) => warnings.push(message), error: () => {} };
    await stage({
      ...options,
      secrets: { stripe: { hosts: ['127.0.0.1'], roles: ['secrets_billing', 'secrets_biling', 'public'] } },
      log,
    });
    expect(warnings).toEqual([
      'there is no role "secrets_biling" here: the secrets that are bound to it are for nobody by that',
    ]);
  });

  test('a membership that is withdrawn takes the secret away', async () => {
    const { query, receiver } = await stage();
    expect(await get(query, receiver.url, headersWith('{{secret.stripe}}'))).toMatchObject({ status_code: 200 });
    await query('revoke secrets_billing from secrets_app');
    await until(
      async () => (await get(query, receiver.url, headersWith('{{secret.stripe}}'))).error_code === 'secret_refused',
      'it is refused',
    );
  });

  test('a fleet has them, too', async () => {
    const { query, worker, url, receiver } = await stage();
    await worker.stop();
    const fleet = createFleet({ ...options, connectionStrings: [url] });
    onTestFinished(() => fleet.stop());
    await fleet.start();
    const sent = await get(query, receiver.url, headersWith('{{secret.stripe}}'));
    expect(sent).toMatchObject({ status_code: 200 });
    expect(receiver.received.at(-1)?.headers.authorization).toBe(`Bearer ${value}`);
  });
});

test('on PGlite', async () => {
  // Its client trusts no authority of ours, so plain http is allowed here; the rest is as elsewhere.
  const { secrets, secretSource } = options;
  const db = await PGlite.create({
    extensions: {
      pg_net: pgNet({ allow: ['loopback'], secrets: secrets ?? {}, ...(secretSource && { secretSource }) }),
    },
  });
  onTestFinished(() => db.close());
  await db.exec('create extension pg_net');
  await db.exec(roles);
  const query: Query = (text, parameters) => db.query(text, parameters);
  const plain = await startReceiver('http');
  expect(await get(query, plain.url, headersWith('{{secret.plain}}'))).toMatchObject({
    status_code: 200,
    headers: { 'x-echo': 'Bearer {{secret.plain}}' },
  });
  expect(plain.received.at(-1)?.headers.authorization).toBe(`Bearer ${value}`);
  expect(await get(query, plain.url, headersWith('{{secret.stripe}}'))).toMatchObject({ error_code: 'secret_refused' });
});
