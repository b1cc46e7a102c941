import { randomBytes } from 'node:crypto';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import pg from 'pg';
import { describe, expect, onTestFinished, test } from 'vitest';
import { type Running, runCli, startCli } from '../cli/cli.ts';
import { closedPort } from '../http/loopback.ts';
import { availableMajors, createDatabase, startTestPostgres, temporaryDirectory, until } from '../support/servers.ts';
import { startReceiver } from './receiver.ts';
import { baseBackup, everyRow, filesBelow, formsOf, foundIn } from './search.ts';

// Secrets that nothing else looks like are used in every way in which requests end, and are then looked for wherever the database,
// the worker and the commands have written anything. So that looking can fail, what is stored on purpose is found by the same search.

const hex = (): string => randomBytes(16).toString('hex');

/** Those that the worker knows, by their names; a file for each but the last, which is a variable. */
const values = {
  stripe: `canary-${hex()}`,
  hook: `whsec_${randomBytes(32).toString('base64')} whsec_${randomBytes(24).toString('base64')}`,
  broken: `canary-${hex()}\nwith a second line`,
  variable: `canary-${hex()}`,
};
const keys = values.hook.split(' ').map((key) => Buffer.from(key.replace('whsec_', ''), 'base64'));
const canaries = {
  stripe: formsOf(Buffer.from(values.stripe)),
  hook: keys.flatMap(formsOf),
  broken: formsOf(Buffer.from(values.broken.slice(0, 39))),
  variable: formsOf(Buffer.from(values.variable)),
};

/** What is stored as it is, in a header that has nothing to do with secrets: it is in the queue, and what the server says of it in the response. */
const marker = `marker-${hex()}`;
/** The same of a header whose value is to be in no log. */
const ordinary = `ordinary-${hex()}`;
const stored = { marker: formsOf(Buffer.from(marker)), ordinary: formsOf(Buffer.from(ordinary)) };

type Request = {
  readonly url: string;
  readonly headers?: Readonly<Record<string, string>>;
  readonly signWith?: keyof typeof values;
  readonly timeoutMs?: number;
  /** What becomes of it: a status or an error's code. */
  readonly ends: number | string;
};

function requestsTo(urls: {
  readonly secure: string;
  readonly other: string;
  readonly closed: string;
}): readonly Request[] {
  const { secure, other, closed } = urls;
  const bearer = { Authorization: 'Bearer {{secret.stripe}}', 'X-Marker': marker };
  const signed = { signWith: 'hook', headers: { 'webhook-id': 'msg_1' } } as const;
  return [
    { url: `${secure}/echo`, headers: bearer, ends: 200 },
    { url: `${secure}/echo`, headers: { Authorization: ordinary, Cookie: ordinary, 'X-Api-Key': ordinary }, ends: 200 },
    { url: `${secure}/echo`, headers: { 'X-Two': '{{secret.variable}} {{secret.stripe}}' }, ends: 200 },
    { url: `${secure}/redirect?to=/echo?AUTHORIZATION`, headers: bearer, ends: 200 },
    { url: `${secure}/redirect?to=${other}/echo`, headers: bearer, ends: 200 },
    { url: `${secure}/redirect?to=https://10.0.0.1/AUTHORIZATION`, headers: bearer, ends: 'denied' },
    { url: `${secure}/hang`, headers: bearer, timeoutMs: 300, ends: 'timed_out' },
    { url: `${secure}/break`, headers: bearer, ends: 'receive_failed' },
    { url: `${closed}/`, headers: bearer, ends: 'connect_failed' },
    { url: other, headers: bearer, ends: 'secret_refused' },
    { url: secure, headers: { Host: 'other.example', ...bearer }, ends: 'secret_refused' },
    { url: secure, headers: { Host: '{{secret.stripe}}' }, ends: 'secret_refused' },
    { url: secure, headers: { X: '{{secret.nosuch}}' }, ends: 'secret_refused' },
    { url: secure, headers: { X: '{{secret.private}}' }, ends: 'secret_refused' },
    { url: secure, headers: { X: '{{secret.broken}}' }, ends: 'secret_unavailable' },
    { url: secure, headers: { X: '{{secret.stripe}}'.repeat(1_700) }, ends: 'invalid_request' },
    { url: secure, headers: { 'bad name': '{{secret.stripe}}' }, ends: 'invalid_request' },
    { url: secure, ...signed, ends: 200 },
    { url: secure, signWith: 'hook', headers: { 'webhook-id': 'msg_1', X: '{{secret.hook}}' }, ends: 200 },
    { url: secure, signWith: 'stripe', headers: { 'webhook-id': 'msg_1' }, ends: 'secret_unavailable' },
    { url: `${closed}/`, ...signed, ends: 'connect_failed' },
  ];
}

async function enqueue(client: pg.Client, request: Omit<Request, 'ends'>): Promise<string | undefined> {
  const { url, headers = {}, signWith = null, timeoutMs = 10_000 } = request;
  const { rows } = await client.query<{ id: string }>(
    `insert into net.http_request_queue (method, url, headers, body, timeout_milliseconds, sign_with)
    values ('POST', $1, $2, $3, $4, $5) returning id`,
    [url, JSON.stringify(headers), Buffer.from('{"a": 1}'), timeoutMs, signWith],
  );
  await client.query('select net.wake()');
  return rows[0]?.id;
}

async function stage(major: ReturnType<typeof availableMajors>[number]) {
  const settings = {
    'pgfetch_test.name': 'canary',
    log_statement: 'all',
    log_min_duration_statement: '0',
    wal_level: 'replica',
  };
  const server = await startTestPostgres({ major, settings });
  const database = await createDatabase(server, 'canary');
  expect(await runCli(['install', '--durable', '-d', database.url])).toMatchObject({ status: 0 });
  const client = new pg.Client(database.url);
  client.on('error', () => {});
  await client.connect();
  onTestFinished(() => client.end());
  const directory = temporaryDirectory('canary');
  const { variable, ...files } = values;
  for (const [name, value] of Object.entries(files)) writeFileSync(join(directory, name), `${value}\n`);
  const bindings = ['stripe', 'hook', 'broken', 'variable'].map((name) => `--secret ${name}=127.0.0.1@public`);
  const given = [
    'worker --allow loopback --ca test/http/tls/ca.pem --log-format json --stop-timeout 200',
    `--secrets-dir ${directory} --secret private=127.0.0.1@nobody`,
    ...bindings,
  ];
  const env = { DATABASE_URL: database.url, PGFETCH_SECRET_VARIABLE: variable, PGFETCH_DEBUG: '1' };
  const worker = await startCli(given.join(' ').split(' '), { env });
  await worker.output(/"msg":"serving"/);
  return { server, database, client, worker };
}

/** A worker that has something to say: of a response that a trigger refuses, and of its connection. */
async function makeItComplain(client: pg.Client, worker: Running, requests: readonly Request[]): Promise<void> {
  await client.query(`
    create function public.refuse() returns trigger language plpgsql as $$ begin raise exception 'refused: %', new; end $$;
    create trigger refuse before insert on net._http_response for each row execute function public.refuse()`);
  for (const request of requests) await enqueue(client, request);
  await worker.output(/refused: /);
  await client.query(`select pg_terminate_backend(pid) from pg_stat_activity where application_name like 'pg_net%'`);
  await worker.output(/terminat/);
}

/** Sends each of them, and says how they ended, and everything that was recorded of them. */
async function carryOutAll(
  client: pg.Client,
  requests: readonly Request[],
): Promise<{ ended: readonly unknown[]; answers: string }> {
  const ended: unknown[] = [];
  const answers: string[] = [];
  for (const request of requests) {
    const id = await enqueue(client, request);
    const { rows } = await until(async () => {
      const result = await client.query('select * from net._http_response where id = $1', [id]);
      return result.rows.length > 0 && result;
    }, `request ${id} has its response`);
    ended.push(rows[0].status_code ?? rows[0].error_code);
    answers.push(JSON.stringify(rows));
  }
  return { ended, answers: answers.join('\n') };
}

/** Where any of the secrets is, and where what is stored on purpose. */
function lookThrough(
  written: Readonly<Record<string, Uint8Array>>,
  dataDirectory: string,
): { leaked: readonly unknown[]; held: Readonly<Record<string, readonly string[]>> } {
  const leaked = Object.entries(written).map(([where, bytes]) => [where, foundIn(bytes, canaries)]);
  const held = new Map(Object.entries(written).map(([where, bytes]) => [where, foundIn(bytes, stored)]));
  for (const [path, bytes] of filesBelow(dataDirectory)) {
    leaked.push([path, foundIn(bytes, canaries)]);
    const where = path.startsWith('pg_wal') ? 'WAL' : 'data directory';
    held.set(where, [...new Set([...(held.get(where) ?? []), ...foundIn(bytes, stored)])].sort());
  }
  return { leaked: leaked.filter(([, names]) => names?.length !== 0), held: Object.fromEntries(held) };
}

describe.each(availableMajors())('on PostgreSQL %i', (major) => {
  test('a secret is in no table, no file of the server, no backup, no log and no answer of a command', async () => {
    const { server, database, client, worker } = await stage(major);
    const [secure, other] = [await startReceiver('https'), await startReceiver('https')];
    const urls = {
      secure: secure.url,
      other: other.url.replace('127.0.0.1', 'localhost'),
      closed: `https://127.0.0.1:${await closedPort()}`,
    };
    const requests = requestsTo(urls);
    const { ended, answers } = await carryOutAll(client, requests);
    expect(ended).toEqual(requests.map(({ ends }) => ends));
    // The secrets have been sent: what follows looks for what has been there.
    const arrived = secure.received.map(({ headers }) => JSON.stringify(headers)).join('\n');
    expect(arrived).toContain(values.stripe);
    expect(arrived).toContain(values.variable);
    expect(arrived).toContain(values.hook);
    expect(JSON.stringify(other.received)).not.toContain(values.stripe);

    await makeItComplain(client, worker, requests.slice(0, 3));
    await enqueue(client, {
      url: `${secure.url}/hang`,
      headers: { X: '{{secret.stripe}}' },
      timeoutMs: 60_000,
    });
    await until(() => secure.received.at(-1)?.path === '/hang', 'a request is in flight');
    const status = await runCli(['status', '--json', '-d', database.url]);
    const doctor = await runCli(['doctor', '--json', '-d', database.url]);
    const tables = await everyRow(client);
    worker.signal('SIGTERM');
    const log = await worker.ended;

    await client.query('checkpoint');
    const backup = await baseBackup(server.connectionString, major);
    const written: Readonly<Record<string, Uint8Array>> = {
      tables: Buffer.from(tables),
      answers: Buffer.from(answers),
      'base backup': backup,
      'server log': readFileSync(server.logFile),
      'worker log': Buffer.from(log.stdout + log.stderr),
      status: Buffer.from(JSON.stringify(status)),
      doctor: Buffer.from(JSON.stringify(doctor)),
    };
    const { leaked, held } = lookThrough(written, server.dataDirectory);
    expect(leaked).toEqual([]);
    // The same search finds what is there.
    for (const where of ['tables', 'answers', 'base backup', 'server log', 'WAL', 'data directory'])
      expect(held, where).toMatchObject({ [where]: ['marker', 'ordinary'] });
    expect(tables).toContain('{{secret.stripe}}');
    // No header's value is in what the worker or a command says of itself, but for what a trigger of the owner's makes it say.
    expect(held).toMatchObject({ status: [], doctor: [] });
    const own = log.stderr.split('\n').filter((line) => !line.includes('refused: '));
    expect(own.length).toBeGreaterThan(5);
    expect(foundIn(Buffer.from(own.join('\n')), stored)).toEqual([]);
    expect(log.stderr).toContain('the secret \\"broken\\" cannot be used: it holds control characters');
    expect(log.stderr).toContain('the secret \\"private\\" has no value');
  }, 120_000);
});

test('the search finds a secret in every form, wherever it stands', () => {
  const secret = Buffer.from(values.stripe);
  const said: Readonly<Record<string, Buffer>> = {
    raw: Buffer.concat([Buffer.from('x'), secret]),
    hex: Buffer.from(`\\x00${secret.toString('hex')}`),
    'UTF-16': Buffer.from(`x${values.stripe}`, 'utf16le'),
    ...Object.fromEntries(
      [0, 1, 2, 3, 4].map((length) => [
        `base64 after ${length}`,
        Buffer.from(Buffer.from(`${'u'.repeat(length)}${values.stripe}after`).toString('base64')),
      ]),
    ),
  };
  for (const [form, bytes] of Object.entries(said)) expect(foundIn(bytes, canaries), form).toEqual(['stripe']);
  expect(foundIn(Buffer.from(values.stripe.slice(1)), canaries)).toEqual([]);
});
