import { readFileSync } from 'node:fs';
import { describe, expect, test } from 'vitest';
import { runCli } from './cli.ts';

const commands = ['install', 'uninstall', 'sql', 'adopt', 'redeliver', 'worker', 'dev', 'echo', 'status', 'doctor'];

describe('help', () => {
  test.each(commands)('%s has help with examples', async (command) => {
    const { status, stdout, stderr } = await runCli([command, '--help']);
    expect({ status, stderr }).toEqual({ status: 0, stderr: '' });
    expect(stdout).toContain(`Usage: pgfetch ${command}`);
    expect(stdout).toMatch(new RegExp(`Examples:\\n.*pgfetch ${command}`));
  });

  test('lists all commands', async () => {
    const { status, stdout } = await runCli(['--help']);
    expect(status).toBe(0);
    for (const command of commands) expect(stdout).toMatch(new RegExp(`^ {2}${command} `, 'm'));
  });

  test('is shown where no command is given, as a usage error', async () => {
    const { status, stderr } = await runCli([]);
    expect(status).toBe(2);
    expect(stderr).toContain('Usage: pgfetch');
  });

  test('--version prints the version of package.json', async () => {
    const manifest = JSON.parse(readFileSync(new URL('../../package.json', import.meta.url), 'utf8')) as {
      version: string;
    };
    expect(await runCli(['--version'])).toEqual({ status: 0, stdout: `${manifest.version}\n`, stderr: '' });
  });
});

describe('usage errors say what was meant, on stderr, with status 2', () => {
  test.each([
    { given: ['statsu'], says: /unknown command 'statsu'[\s\S]*Did you mean status/ },
    { given: ['status', '--jsn'], says: /unknown option '--jsn'[\s\S]*Did you mean --json/ },
    { given: ['adopt'], says: /required option '--queue/ },
    { given: ['adopt', '--queue', 'both'], says: /Allowed choices are keep, discard/ },
    { given: ['echo', '--port', '70000'], says: /whole number from 0 to 65535/ },
    { given: ['dev', '--engine', 'mysql'], says: /Allowed choices are postgres, pglite/ },
    { given: ['dev', '--database-url', 'postgres://localhost/x'], says: /pgfetch worker/ },
    { given: ['install', '--database-url', ''], says: /--database-url is empty/ },
    {
      given: ['status', '-d', 'mysql://root:tops3cret@localhost/x'],
      says: /--database-url must look like postgres:\/\//,
    },
    { given: ['status', '-d', 'host=localhost password=tops3cret'], says: /"key=value"/ },
    { given: ['status', '-d', 'postgres://app:tops3cret#x@localhost/x'], says: /percent-encoded/ },
    {
      given: ['worker', '--allow', '10.0.0.0/40', '--lease', '5', '--stop-timeout', 'soon'],
      says: /--allow "10\.0\.0\.0\/40" must be[\s\S]*--stop-timeout must be[\s\S]*--lease must be/,
    },
    {
      given: ['worker', '--only', 'loopback', '--ports', '443,99999', '--schemes', 'https,gopher'],
      says: /--only "loopback" must be[\s\S]*--ports "99999" must be a port[\s\S]*--schemes "gopher" must be "http" or/,
    },
    { given: ['worker', '--callback-url', ''], says: /--callback-url is empty/ },
    {
      given: ['worker', '--callback-url', 'mysql://root:tops3cret@h/x'],
      says: /--callback-url must look like postgres:/,
    },
    {
      given: ['worker', '-d', 'postgres://a/x', '-d', 'postgres://b/x', '--callback-url', 'postgres://hooks@a/'],
      says: /--callback-url is a login of one server/,
    },
    { given: ['worker', '--log-format', 'xml'], says: /Allowed choices are pretty, json/ },
  ])('$given', async ({ given, says }) => {
    const { status, stdout, stderr } = await runCli(given);
    expect({ status, stdout }).toEqual({ status: 2, stdout: '' });
    expect(stderr).toMatch(says);
    expect(stderr).not.toContain('tops3cret');
    expect(stderr).not.toMatch(/^\s+at /m);
  });

  test('a bad PGSSLMODE and a bad DATABASE_URL are named', async () => {
    const ssl = await runCli(['status'], { env: { PGSSLMODE: 'maybe' } });
    expect(ssl).toMatchObject({ status: 2, stderr: expect.stringMatching(/PGSSLMODE is "maybe"/) });
    const url = await runCli(['status'], { env: { DATABASE_URL: 'nonsense' } });
    expect(url).toMatchObject({ status: 2, stderr: expect.stringMatching(/DATABASE_URL must look like/) });
  });

  test.each([
    ['http_proxy', 'http://user:tops3cret#x@proxy.example:3128', /http_proxy must look like .* percent-encoded/],
    ['HTTPS_PROXY', 'ftp://user:tops3cret@proxy.example', /HTTPS_PROXY must look like/],
    ['all_proxy', 'socks5://user:tops3cret@proxy.example', /all_proxy is a SOCKS proxy, which is not supported/],
  ])('a bad %s is named', async (variable, value, says) => {
    const { status, stderr } = await runCli(['worker'], { env: { [variable]: value } });
    expect({ status, stderr }).toEqual({ status: 2, stderr: expect.stringMatching(says) });
    expect(stderr).not.toContain('tops3cret');
  });
});

test('sql prints a script for psql or a migration tool, without connecting', async () => {
  const whole = await runCli(['sql']);
  expect(whole).toMatchObject({ status: 0, stderr: '' });
  expect(whole.stdout).toMatch(/^begin;$/m);
  expect(whole.stdout).toMatch(/^commit;$/m);
  expect(whole.stdout).toContain('create function net.http_post(');
  expect(whole.stdout).not.toContain('"_RETURN"');
  const bare = await runCli(['sql', '--no-transaction', '--show-settings']);
  expect(bare.stdout).not.toMatch(/^commit;$/m);
  expect(bare.stdout).toContain('"_RETURN"');
});
