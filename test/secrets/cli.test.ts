import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { runCli, startCli } from '../cli/cli.ts';
import { createDatabase, startTestPostgres, temporaryDirectory } from '../support/servers.ts';

const bound = ['--secret', 'stripe=api.stripe.com@billing'];

test('pgfetch worker says which declared secrets cannot be used, and serves', async () => {
  const database = await createDatabase(await startTestPostgres({ major: 18 }));
  await runCli(['install', '-d', database.url]);
  const directory = temporaryDirectory('secrets');
  writeFileSync(join(directory, 'in-a-file'), 'a value in a file\n');
  writeFileSync(join(directory, 'short'), 'short\n');
  mkdirSync(join(directory, 'dir'));
  const names = ['in-a-file', 'in-a-variable', 'short', 'nowhere', 'dir'];
  const env = { PGFETCH_SECRET_IN_A_VARIABLE: 'a value in a variable', PGFETCH_SECRET_SHORT: 'not this one' };
  const given = names.flatMap((name) => [
    '--secret',
    `${name}=*.example.com, http://10.0.0.1@secrets_cli_nobody, public`,
  ]);
  const worker = await startCli(
    ['worker', '-d', database.url, '--log-format', 'json', '--secrets-dir', directory, ...given],
    { env },
  );
  await worker.output(/"msg":"serving"/);
  worker.signal('SIGTERM');
  const { stderr } = await worker.ended;
  const warnings = stderr.split('\n').filter((line) => line.includes('"level":"warn"'));
  expect(warnings.map((line) => JSON.parse(line).msg)).toEqual([
    `the secret "short" cannot be used: it has fewer than 8 characters; it is read from ${directory}/short, else from $PGFETCH_SECRET_SHORT`,
    `the secret "nowhere" has no value; it is read from ${directory}/nowhere, else from $PGFETCH_SECRET_NOWHERE`,
    `the secret "dir" could not be read (EINVAL); it is read from ${directory}/dir, else from $PGFETCH_SECRET_DIR`,
    'there is no role "secrets_cli_nobody" here: the secrets that are bound to it are for nobody by that',
  ]);
  expect(stderr).not.toMatch(/a value in|not this one/);
});

test('pgfetch worker says that values in a directory are of no use without --secret', async () => {
  const directory = temporaryDirectory('secrets');
  const worker = await startCli(
    ['worker', '-d', 'postgres://127.0.0.1:1/x', '--log-format', 'json', '--secrets-dir', directory],
    {},
  );
  await worker.output(/"level":"warn".*--secrets-dir is given and no --secret/);
  worker.signal('SIGTERM');
  await worker.ended;
});

describe('a command line that makes no sense', () => {
  test.each<[readonly string[], RegExp]>([
    [['--secret', 'stripe'], /--secret must be NAME=HOSTS@ROLES/],
    [
      ['--secret', 'stripe=sk_live_12345678'],
      /--secret "stripe" must be NAME=HOSTS@ROLES.*Its value does not belong there/,
    ],
    [['--secret', 'stripe=api.stripe.com@'], /--secret "stripe" must be NAME=HOSTS@ROLES/],
    [['--secret', 'stripe=@billing'], /--secret "stripe" must be NAME=HOSTS@ROLES/],
    [['--secret', 'Stripe=api.stripe.com@billing'], /--secret "Stripe" cannot be the name of a secret/],
    [
      ['--secret', 'stripe=https://api.stripe.com@billing'],
      /--secret "stripe" has as host 1 what is none: it must be a host name .* "http:\/\/" before it/,
    ],
    [['--secret', 'stripe=api.stripe.com,@billing'], /--secret "stripe" has as host 2 what is none/],
    [['--secret', 'stripe=sk_live_12345678/+=@billing'], /--secret "stripe" has as host 1 what is none/],
    [['--secret', 'stripe=api.stripe.com@billing,'], /--secret "stripe" has a role without a name/],
    [['--secret', 'stripe=api.stripe.com@@public'], /--secret "stripe" has the role "@public": every role is "public"/],
    [[...bound, ...bound], /--secret "stripe" is declared twice/],
    [['--secret', 'a-b=x.example@public', '--secret', 'a_b=x.example@public'], /the same variable, PGFETCH_SECRET_A_B/],
    [[...bound, '--secrets-dir', '/nowhere'], /--secrets-dir: there is no directory "\/nowhere"/],
  ])('%j', async (given, message) => {
    for (const mode of [[], ['--all-databases']]) {
      const { status, stderr } = await runCli(['worker', '-d', 'postgres://127.0.0.1:1/x', ...mode, ...given]);
      expect({ status, stderr }).toEqual({ status: 2, stderr: expect.stringMatching(message) });
      expect(stderr).not.toContain('sk_live_12345678');
    }
  });
});
