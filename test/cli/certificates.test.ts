import { createPrivateKey } from 'node:crypto';
import { writeFileSync } from 'node:fs';
import https from 'node:https';
import { join } from 'node:path';
import type { TLSSocket } from 'node:tls';
import pg from 'pg';
import { beforeAll, describe, expect, onTestFinished, test } from 'vitest';
import { listen, type TestServer } from '../http/loopback.ts';
import { type Authority, createAuthority, type Issued } from '../support/authority.ts';
import { createDatabase, startTestPostgres, temporaryDirectory, until } from '../support/servers.ts';
import { type Running, runCli, startCli } from './cli.ts';

let authority: Authority;
let client: Issued;
let directory: string;

beforeAll(async () => {
  directory = temporaryDirectory('certificates');
  authority = await createAuthority('Test authority');
  client = await authority.issue({ hosts: [], commonName: 'us' });
  const other = await authority.issue({ hosts: [], commonName: 'other' });
  const expired = await createAuthority('Expired', [-3, -2]);
  const passphrase = 'tops3cret';
  const encrypted = createPrivateKey(client.key).export({
    type: 'pkcs8',
    format: 'pem',
    cipher: 'aes-256-cbc',
    passphrase,
  });
  write('ca.pem', authority.cert);
  write('expired.pem', expired.cert);
  write('client.pem', client.cert);
  write('client.key', client.key);
  write('both.pem', `${client.cert}${encrypted}`);
  write('other.key', other.key);
});

const write = (name: string, text: string): void => writeFileSync(join(directory, name), text);

describe('a worker', () => {
  /** Answers with the common name of who called. */
  async function secureServer(): Promise<TestServer> {
    const issued = await authority.issue({ hosts: ['localhost', '127.0.0.1'] });
    const options = { ...issued, ca: authority.cert, requestCert: true, rejectUnauthorized: false };
    const server = https.createServer(options, (incoming, response) => {
      const { subject } = (incoming.socket as TLSSocket).getPeerCertificate();
      response.setHeader('Connection', 'close').end(subject === undefined ? 'nobody' : `from ${subject.CN}`);
    });
    return listen(server, 'https');
  }

  /** Starts one, which serves a database of its own. */
  async function worker(
    given: readonly string[],
    env: Readonly<Record<string, string>> = {},
  ): Promise<{
    readonly running: Running;
    get(url: string): Promise<unknown>;
  }> {
    const database = await createDatabase(await startTestPostgres({ major: 18 }));
    const db = new pg.Client({ connectionString: database.url });
    await db.connect();
    await runCli(['install', '-d', database.url]);
    const running = await startCli(['worker', '--allow', 'loopback', '-d', database.url, ...given], {
      cwd: directory,
      env,
    });
    onTestFinished(async () => {
      running.signal('SIGTERM');
      await running.ended;
      await db.end();
      await database.drop();
    });
    await running.output(/serving/);
    const get = async (url: string): Promise<unknown> => {
      const { rows } = await db.query('select net.http_get($1, timeout_milliseconds => 20000) as id', [url]);
      return until(
        async () =>
          (await db.query('select content, error_code from net._http_response where id = $1', [rows[0].id])).rows[0],
        'the response is there',
      );
    };
    return { running, get };
  }

  test('trusts an authority, and shows a certificate to the host that it is for', async () => {
    const server = await secureServer();
    const { running, get } = await worker(
      ['--ca', 'ca.pem', '--ca', 'expired.pem', '--client-cert', 'localhost=both.pem'],
      { PGFETCH_CLIENT_KEY_PASSPHRASE: 'tops3cret' },
    );
    expect(await get(`https://localhost:${server.port}/`)).toEqual({ content: 'from us', error_code: null });
    expect(await get(`https://127.0.0.1:${server.port}/`)).toEqual({ content: 'nobody', error_code: null });
    const said = running.stdout() + running.stderr();
    expect(said).toMatch(/authority.*CN=Expired expired on/);
    expect(said).not.toMatch(/PRIVATE KEY|tops3cret/);
  });

  test.each([
    ['alone', []],
    ['beside --ca', ['--ca', 'expired.pem']],
  ])('trusts what NODE_EXTRA_CA_CERTS says, %s', async (_when, given) => {
    const server = await secureServer();
    const { get } = await worker(given, { NODE_EXTRA_CA_CERTS: join(directory, 'ca.pem') });
    expect(await get(`https://localhost:${server.port}/`)).toEqual({ content: 'nobody', error_code: null });
  });

  test('trusts no other authority, whatever NODE_TLS_REJECT_UNAUTHORIZED says', async () => {
    const server = await secureServer();
    const { get } = await worker([], { NODE_TLS_REJECT_UNAUTHORIZED: '0' });
    expect(await get(`https://localhost:${server.port}/`)).toEqual({
      content: null,
      error_code: 'certificate_untrusted',
    });
  });
});

describe('a worker does not start', () => {
  test.each([
    { given: ['--ca', 'missing.pem'], says: '--ca: cannot read "missing.pem": there is no such file' },
    { given: ['--ca', '.'], says: '--ca: cannot read ".": it is a directory' },
    { given: ['--ca', 'ca.pem', '--ca', 'client.key'], says: '--ca "client.key" has no certificate in PEM' },
    { given: ['--client-cert', 'client.pem'], says: '--client-cert "client.pem" must be HOST=CERT.pem,KEY.pem' },
    { given: ['--client-cert', 'a=client.pem,'], says: '"a=client.pem," must be HOST=CERT.pem,KEY.pem' },
    {
      given: ['--client-cert', 'a=missing.pem'],
      says: '--client-cert: cannot read "missing.pem": there is no such file',
    },
    { given: ['--client-cert', 'a=client.pem'], says: '--client-cert "a=client.pem" has no private key in PEM' },
    {
      given: ['--client-cert', 'a=client.pem,other.key'],
      says: '"a=client.pem,other.key" has a key that is not that of',
    },
    {
      given: ['--client-cert', 'a:443=client.pem,client.key'],
      says: '"a:443=client.pem,client.key" must be a host name',
    },
    {
      given: ['--client-cert', 'a=both.pem'],
      says: 'has an encrypted key; give its passphrase in PGFETCH_CLIENT_KEY_PASSPHRASE',
    },
    {
      given: ['--client-cert', 'a=both.pem', '--lease', '1'],
      env: { PGFETCH_CLIENT_KEY_PASSPHRASE: 'tops3cre' },
      says: 'has an encrypted key that the passphrase does not open\n--lease must be',
    },
    {
      given: ['--client-cert', 'a=client.pem,client.key', '--client-cert', 'A=client.pem,client.key'],
      says: '--client-cert has "a" twice',
    },
  ])('$given: $says', async ({ given, env = {}, says }) => {
    const ended = await runCli(['worker', '-d', 'postgres://app@127.0.0.1:1/app', ...given], { cwd: directory, env });
    expect(ended).toMatchObject({ status: 2, stdout: '', stderr: expect.stringContaining(says) });
    expect(ended.stderr).not.toMatch(/^\s+at |tops3cre|PRIVATE KEY-----\n/m);
  });
});
