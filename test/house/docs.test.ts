import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { chmodSync, existsSync, mkdirSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join, normalize } from 'node:path';
import pg from 'pg';
import { afterAll, beforeAll, describe, expect, onTestFinished, test, vi } from 'vitest';
import { createProgram } from '../../src/cli/program.ts';
import { readWorkerConfig } from '../../src/config/worker-config.ts';
import { type EchoServer, startEchoServer } from '../../src/embedded/echo.ts';
import { extensionFiles } from '../../src/schema/scripts.ts';
import { createWorker } from '../../src/worker/create.ts';
import { createDatabase, startTestPostgres, type TestServer, temporaryDirectory } from '../support/servers.ts';
import { anchorsOf, type Block, blocksOf, linksOf, pages, read, root } from './markdown.ts';
import { readShown, runLikePsql } from './psql.ts';

// What the pages show is run, and what they list is complete. Each page has a database of its own; its blocks run in their
// order, and before each one everything that was enqueued has its response.

vi.setConfig({ testTimeout: 60_000, hookTimeout: 60_000 });

/** What stands in the pages for something of the reader's, and what it is here. With {@link files} the only substitutions that are made. */
const substitutions: readonly (readonly [RegExp, (here: Here) => string])[] = [
  // Public hosts, and the echo server of `npm start`.
  [/https:\/\/(?:[a-z-]+\.)*(?:example\.com|postman-echo\.com|supabase\.co)/g, ({ echoUrl }) => echoUrl],
  [/http:\/\/localhost:26480/g, ({ echoUrl }) => echoUrl],
  // The reader's database.
  [/postgres:\/\/\S+/g, ({ databaseUrl }) => databaseUrl],
];

/** The reader's files, and which of the tests' stand in for them. */
const files: readonly (readonly [RegExp, string])[] = [
  [/\/etc\/pgfetch\/secrets\b/g, join(root, 'test/secrets/mounted')],
  [/\/etc\/pgfetch\/ca\.pem/g, join(root, 'test/http/tls/ca.pem')],
  [/\/etc\/pgfetch\/client\.pem/g, join(root, 'test/http/tls/localhost.cert.pem')],
  [/\/etc\/pgfetch\/client\.key/g, join(root, 'test/http/tls/server.key.pem')],
];

type Here = { readonly echoUrl: string; readonly databaseUrl: string };

/** Where nothing is installed when the page begins. */
const startsBare = new Set(['docs/install.md']);
/** SQL that has been run before the page begins. */
const beforehand: Readonly<Record<string, string>> = {
  'README.md': `select net.http_get('http://localhost:26480/get?hello=world')`, // the first request of `npm start`
};

/** Commands that are not run here, and why not. */
const notRun: readonly (readonly [command: RegExp, why: string])[] = [
  [/^npm (ci|test|start|install)\b|^npm run /, 'downloads, or runs the tests'],
  [/^sudo /, 'changes the system'],
  [/^(git|psql) /, 'another program'],
];

/** Commands that run until they are stopped: what they print when they are ready. */
const readyWhen: Readonly<Record<string, RegExp>> = {
  worker: /serving/,
  dev: /Ctrl-C stops everything/,
  echo: /Echo server:/,
};

const main = join(root, 'dist', 'cli', 'main.js');
/** Inside of the package, so that `import 'pgfetch'` finds it. */
const programs = join(root, '.cache', `house-docs-${process.pid}`);

/** That of the secret `webhooks`. */
const signingKey = 'whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw';

let server: TestServer;
let echo: EchoServer;

beforeAll(async () => {
  if (!existsSync(main)) throw new Error('dist/ is missing: run npm run build first');
  server = await startTestPostgres({ major: 18, extensionFiles: await extensionFiles({ showSettings: true }) });
  echo = await startEchoServer();
});
afterAll(async () => {
  rmSync(programs, { recursive: true, force: true });
  await echo?.close();
});

function substituted(text: string, here: Here): string {
  return substitutions.reduce((sofar, [pattern, by]) => sofar.replace(pattern, () => by(here)), withFiles(text));
}

function withFiles(text: string): string {
  return files.reduce((sofar, [pattern, file]) => sofar.replace(pattern, () => file), text);
}

/** A database with a worker, as the reader has it; what it left on the server is removed afterwards. */
async function openDatabase(options: { bare: boolean }): Promise<{
  here: Here;
  client: pg.Client;
  /** Resolves when everything that was enqueued has its response. */
  settled(): Promise<void>;
}> {
  const database = await createDatabase(server, 'docs');
  const client = new pg.Client({ connectionString: database.url });
  client.on('error', () => {});
  await client.connect();
  const { rows: roles } = await client.query<{ name: string }>('select rolname as name from pg_roles');
  onTestFinished(async () => {
    await client.end();
    await database.drop();
    await restoreServer(roles.map(({ name }) => name));
  });
  const here = { echoUrl: echo.url, databaseUrl: database.url };
  if (options.bare) return { here, client, settled: async () => {} };
  await client.query('create extension pg_net; create role docs_callbacks login in role net_callback');
  const worker = createWorker({
    connectionString: database.url,
    callbackDatabaseUrl: Object.assign(new URL(database.url), { username: 'docs_callbacks' }).href,
    allow: ['loopback'],
    secrets: {
      stripe: { hosts: ['http://127.0.0.1'], roles: ['billing'] },
      webhooks: { hosts: ['http://127.0.0.1'], roles: ['public'] },
    },
    secretSource: { read: async (name) => (name === 'webhooks' ? signingKey : 'sk_live_of_the_documentation') },
  });
  onTestFinished(() => worker.stop());
  await worker.start();
  return { here, client, settled: () => worker.drain() };
}

async function restoreServer(rolesBefore: readonly string[]): Promise<void> {
  const admin = new pg.Client({ connectionString: server.connectionString });
  await admin.connect();
  try {
    const { rows } = await admin.query<{ name: string }>(
      'select rolname as name from pg_roles where rolname <> all ($1)',
      [rolesBefore],
    );
    for (const { name } of rows) await admin.query(`drop role ${pg.escapeIdentifier(name)}`);
    await admin.query('alter role postgres reset all');
    await admin.query('alter system reset all');
    await admin.query('select pg_reload_conf()');
  } finally {
    await admin.end();
  }
}

/** pg_cron's function, which here runs the command once, at once. The real pg_cron is in test/contract. */
const cronStandIn = `
  create schema if not exists cron;
  create or replace function cron.schedule(job_name text, schedule text, command text) returns bigint
  language plpgsql as $$
  begin
    execute command;
    return 1;
  end $$`;

describe('what the pages show works', () => {
  beforeAll(compilePrograms);

  test.each(pages().filter((page) => blocksOf(page).some(isRun)))('%s', async (page) => {
    const { here, client, settled } = await openDatabase({ bare: startsBare.has(page) });
    const shell = new Shell(here);
    const before = beforehand[page];
    if (before !== undefined) await client.query(substituted(before, here));
    for (const block of blocksOf(page)) {
      await settled();
      try {
        await runBlock(page, block, { here, client, shell });
      } catch (error) {
        throw new Error(`${page}:${block.line}: ${error instanceof Error ? error.message : String(error)}`, {
          cause: error,
        });
      }
    }
  });

  test('the examples', async () => {
    const { here, client, settled } = await openDatabase({ bare: false });
    const env = { DATABASE_URL: here.databaseUrl, ECHO_URL: here.echoUrl };
    await runLikePsql(client, substituted(read('examples/trigger.sql'), here));
    await settled();
    const { rows } = await client.query(
      `select content::jsonb -> 'json' -> 'record' ->> 'customer' as customer from net._http_response`,
    );
    expect(rows).toEqual([{ customer: 'Ada' }]);
    expect(await runProgram(join(root, 'examples/first-request.mjs'), env)).toMatch(/hello: 'world'/);
    await startAndStop([join(root, 'examples/worker.mjs')], /serving docs/, env);
    const [, workerArguments = ''] = /main\.js (worker .*)$/m.exec(read('examples/pgfetch-worker.service')) ?? [];
    await startAndStop([main, ...workerArguments.split(' ')], /serving/, env);
  });
});

function isRun({ language, mark }: Block): boolean {
  return ['sql', 'sh', 'bash', 'ts'].includes(language) && mark !== 'signature';
}

async function runBlock(
  page: string,
  block: Block,
  { here, client, shell }: { here: Here; client: pg.Client; shell: Shell },
): Promise<void> {
  if (!isRun(block)) return;
  if (block.language === 'sql') {
    if (block.mark === 'pg_cron') await client.query(cronStandIn);
    else expect(block.mark, 'a mark that is known').toBe('');
    const shown = await runLikePsql(client, substituted(block.text, here));
    const after = blocksOf(page).find((other) => other.follows?.line === block.line && other.language === 'text');
    const documented = after === undefined ? undefined : readShown(after.text, (cell) => substituted(cell, here));
    if (documented !== undefined) expect(shown).toEqual(documented);
    else if (shown?.kind === 'error') throw new Error(shown.lines.join('\n'));
  } else if (block.language === 'ts') {
    await runCompiled(page, block, here);
  } else {
    for (const line of block.text.split('\n')) await shell.run(line);
  }
}

// --- Programs ---

function programName(page: string, line: number): string {
  return `${page.replace(/\W+/g, '-')}-${line}`;
}

/** Type-checks every ts block, under the project's own strict options, and makes JavaScript of it. */
async function compilePrograms(): Promise<void> {
  mkdirSync(programs, { recursive: true });
  for (const page of pages()) {
    for (const { language, text, line } of blocksOf(page)) {
      if (language !== 'ts') continue;
      writeFileSync(join(programs, `${programName(page, line)}.ts`), `${withFiles(text)}\nexport {};\n`);
    }
  }
  const options = { noEmit: false, allowImportingTsExtensions: false, rootDir: '.', outDir: 'js' };
  const config = { extends: '../../tsconfig.json', compilerOptions: options, include: ['*.ts'] };
  writeFileSync(join(programs, 'tsconfig.json'), JSON.stringify(config));
  const tsc = join(root, 'node_modules/typescript/bin/tsc');
  const { status, stdout } = await finished(process.execPath, [tsc, '-p', programs]);
  if (status !== 0) throw new Error(`the ts blocks do not compile:\n${stdout}`);
}

async function runCompiled(page: string, { line, mark, text }: Block, here: Here): Promise<void> {
  const program = join(programs, 'js', `${programName(page, line)}.js`);
  const env = { DATABASE_URL: here.databaseUrl };
  if (mark === 'service') {
    await startAndStop([program], /serving/, env);
    return;
  }
  expect(mark, 'a mark that is known').toBe('');
  const printed = await runProgram(program, env);
  // What a comment right below console.log says is printed.
  const said = [...text.matchAll(/^console\.log\(.*\n((?:\/\/ .*\n?)+)/gm)].map(([, comment = '']) =>
    comment.replace(/^\/\/ /gm, ''),
  );
  if (said.length > 0) expect(printed.trim()).toBe(said.join('\n').trim());
}

async function runProgram(path: string, env: Readonly<Record<string, string>>): Promise<string> {
  const { status, stdout, stderr } = await finished(process.execPath, [path], { env });
  expect(status, `${stdout}\n${stderr}`).toBe(0);
  return stdout;
}

type Finished = { readonly status: number | string | null; readonly stdout: string; readonly stderr: string };

/** Runs a program to its end. Not synchronously: the worker and the echo server that it needs live in this process. */
function finished(
  program: string,
  programArguments: readonly string[],
  options: { env?: Readonly<Record<string, string>>; cwd?: string } = {},
): Promise<Finished> {
  const { env = {}, cwd = root } = options;
  return new Promise((resolve) => {
    execFile(
      program,
      programArguments,
      { cwd, env: { ...process.env, ...env }, timeout: 30_000, killSignal: 'SIGKILL' },
      (error, stdout, stderr) => resolve({ status: error === null ? 0 : (error.code ?? null), stdout, stderr }),
    );
  });
}

/** Starts a program, waits until it says that it is ready, stops it as an operator would, and expects a clean end. */
async function startAndStop(
  command: readonly string[],
  ready: RegExp,
  env: Readonly<Record<string, string>>,
  cwd: string = root,
): Promise<void> {
  const child: ChildProcess = spawn(process.execPath, command, { cwd, env: { ...process.env, ...env } });
  const ended = new Promise<number | string | null>((resolve) => {
    child.once('exit', (code, signal) => resolve(code ?? signal));
  });
  let said = '';
  const isReady = new Promise<void>((resolve) => {
    const hear = (chunk: Buffer): void => {
      said += chunk.toString();
      if (ready.test(said)) resolve();
    };
    child.stdout?.on('data', hear);
    child.stderr?.on('data', hear);
  });
  try {
    await Promise.race([
      isReady,
      ended.then((status) => {
        throw new Error(`it ended (${status}) and said:\n${said}`);
      }),
    ]);
    child.kill('SIGTERM');
    expect(await ended, said).toBe(0);
  } finally {
    child.kill('SIGKILL');
  }
}

// --- Commands ---

/** A terminal in an empty directory where `pgfetch` and `npx pgfetch` are what was built. */
class Shell {
  readonly #here: Here;
  readonly #directory: string = temporaryDirectory('docs');
  readonly #env: Record<string, string>;

  constructor(here: Here) {
    this.#here = here;
    const bin = join(this.#directory, 'bin');
    mkdirSync(bin);
    const run = `exec '${process.execPath}' '${main}' "$@"\n`;
    writeFileSync(join(bin, 'pgfetch'), `#!/bin/sh\n${run}`);
    writeFileSync(join(bin, 'npx'), `#!/bin/sh\n[ "$1" = pgfetch ] || exit 127\nshift\n${run}`);
    for (const name of ['pgfetch', 'npx']) chmodSync(join(bin, name), 0o755);
    this.#env = { DATABASE_URL: here.databaseUrl, PATH: `${bin}:${process.env['PATH']}` };
  }

  async run(line: string): Promise<void> {
    const command = substituted(line.replace(/(^|\s)#.*$/, ''), this.#here).trim();
    if (command === '' || notRun.some(([pattern]) => pattern.test(command))) return;
    const setting = /^export (\w+)=(\S+)$/.exec(command);
    if (setting !== null) {
      this.#env[setting[1] ?? ''] = setting[2] ?? '';
      return;
    }
    const [, words = ''] = /^(?:npx )?pgfetch\b ?(.*)$/.exec(command) ?? [];
    expect(command, 'a command that can be checked').toMatch(/^(npx )?pgfetch\b/);
    const given = words.split(' ');
    const ready = readyWhen[given[0] ?? ''];
    if (ready === undefined) {
      const options = { cwd: this.#directory, env: this.#env };
      const { status, stdout, stderr } = await finished('bash', ['-o', 'pipefail', '-c', command], options);
      expect(status, `${command}\n${stdout}\n${stderr}`).toBe(0);
    } else {
      await startAndStop([main, ...given, ...freePorts(given)], ready, this.#env, this.#directory);
    }
  }
}

/** The default ports may be taken where the tests run. */
function freePorts(given: readonly string[]): readonly string[] {
  const options = { dev: ['--port', '--echo-port'], echo: ['--port'] }[given[0] ?? ''] ?? [];
  return options.filter((option) => !given.includes(option)).flatMap((option) => [option, '0']);
}

// --- Completeness ---

/** Whether a page has a text; a failure shows which, and not the whole page. */
function expectIn(page: string, part: string, within: string = read(page)): void {
  expect(within.includes(part), `${page} has ${part}`).toBe(true);
}

describe('what the pages list is complete', () => {
  test.each(pages())('the links of %s lead somewhere', (page) => {
    for (const [path, anchor] of linksOf(page)) {
      const target = path === '' ? page : normalize(join(dirname(page), path));
      expect(existsSync(join(root, target)), `${path} exists`).toBe(true);
      if (anchor !== '') expect(anchorsOf(target), `${target} has the heading #${anchor}`).toContain(anchor);
    }
  });

  test('docs/settings.md names every command and option', () => {
    for (const command of createProgram().commands) {
      const name = command.name();
      expectIn('docs/settings.md', `\`${name === 'worker' ? 'pgfetch worker' : name}`);
      const row = new RegExp(`^\\| \`${name}\` .*$`, 'm').exec(read('docs/settings.md'))?.[0];
      for (const { long } of command.options) expectIn('docs/settings.md', `${long}`, row);
    }
  });

  test('docs/settings.md names every option of the library with its default', () => {
    const text = read('docs/settings.md');
    for (const [name, value] of Object.entries(readWorkerConfig())) {
      const row = text.split('\n').find((line) => line.startsWith('|') && line.includes(`\`${name}`));
      expect(row, name).toBeDefined();
      if (typeof value === 'number') expect(row).toContain(value.toLocaleString('en-US'));
    }
  });

  test('docs/settings.md names every setting with its default', async () => {
    const { client } = await openDatabase({ bare: false });
    const { rows } = await client.query<{ name: string; boot_val: string }>('select name, boot_val from net.settings');
    expect(rows.length).toBeGreaterThan(0);
    for (const { name, boot_val } of rows) {
      const row = read('docs/settings.md').match(new RegExp(`^\\| \`${name.replace('.', '\\.')}\` .*$`, 'm'))?.[0];
      expect(row, name).toBeDefined();
      if (name !== 'pg_net.database_name') expect(row).toContain(boot_val);
    }
  });

  test('docs/errors.md has a row for every code, with a text and what to do, and for no other', () => {
    const [, union = ''] = /export type FailureCode =([^;]*);/.exec(read('src/core/outcome.ts')) ?? [];
    const codes = [...union.matchAll(/'(\w+)'/g)].map(([, code = '']) => code);
    expect(codes.length).toBeGreaterThan(10);
    const rows = [...read('docs/errors.md').matchAll(/^\| `(\w+)` \| \S.* \| \S.* \|$/gm)].map(([, code = '']) => code);
    const documented = rows.filter((code) => code !== 'error_code');
    expect([...new Set(documented)].sort()).toEqual([...codes].sort());
  });

  test('docs/errors.md has the texts that never vary, each beside its code', () => {
    const problems = [...read('src/http/failures.ts').matchAll(/problem\('(\w+)', (?:'([^']*)'|"([^"]*)")\)/g)].map(
      ([, code = '', single, double]) => [code, single ?? double ?? ''] as const,
    );
    expect(problems.length).toBeGreaterThan(10);
    for (const [code, message] of problems) {
      if (message !== 'The HTTP client was closed') expectIn('docs/errors.md', `| \`${code}\` | \`${message}\``);
    }
  });

  test('docs/sql.md has the signatures as they are, and every column', async () => {
    const { client } = await openDatabase({ bare: false });
    const { rows: functions } = await client.query<{ name: string; signature: string }>(`
      select p.proname as name, format('net.%s(%s) returns %s', p.proname, pg_get_function_arguments(p.oid), pg_get_function_result(p.oid)) as signature
      from pg_proc p where p.pronamespace = 'net'::regnamespace`);
    const documented = blocksOf('docs/sql.md')
      .filter(({ mark }) => mark === 'signature')
      .flatMap(({ text }) => [...text.replace(/--.*$/gm, '').matchAll(/net\.[\s\S]*?\) returns (?:setof )?\S+/g)])
      .map(([signature]) => normalised(signature));
    expect(documented.length).toBeGreaterThan(5);
    for (const signature of documented)
      expect(
        functions.map((each) => each.signature.replace(/NULL::(timestamp with time zone|\w+)/g, 'NULL')),
      ).toContain(signature);
    const { rows: columns } = await client.query<{ name: string }>(`
      select attname as name from pg_attribute
      where attrelid in ('net.http_request_queue'::regclass, 'net._http_response'::regclass) and attnum > 0`);
    for (const { name } of columns) expectIn('docs/sql.md', `\`${name}\``);
  });

  test('docs/sql.md names every object that is marked public', () => {
    for (const topic of readdirSync(join(root, 'sql')).filter((name) => name.endsWith('.sql'))) {
      for (const [, name = ''] of read(`sql/${topic}`).matchAll(/^-- API: public\ncreate [a-z ]*(net\.\w+)/gm)) {
        expectIn('docs/sql.md', name);
      }
    }
  });
});

/** As PostgreSQL writes it. */
function normalised(signature: string): string {
  return signature
    .replace(/\s+/g, ' ')
    .replace(/\( /g, '(')
    .replace(/ \)/g, ')')
    .replace(/\bdefault\b/g, 'DEFAULT')
    .replace(/\bnull\b/g, 'NULL')
    .replace(/\bint\b/g, 'integer')
    .replace(/\bbool\b/g, 'boolean')
    .replace(/\btimestamptz\b/g, 'timestamp with time zone')
    .replace(/\bsetof\b/g, 'SETOF');
}
