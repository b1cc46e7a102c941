import { execFile } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync, readFileSync, statSync, symlinkSync, writeFileSync } from 'node:fs';
import { dirname, join, normalize, relative } from 'node:path';
import { promisify } from 'node:util';
import { beforeAll, describe, expect, test, vi } from 'vitest';
import { temporaryDirectory } from '../support/servers.ts';
import { root } from './markdown.ts';

// What `npm publish` would publish, used as a user would: unpacked into the node_modules of a program.

vi.setConfig({ testTimeout: 60_000, hookTimeout: 60_000 });

const run = promisify(execFile);
const manifest = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as {
  readonly version: string;
  readonly exports: Readonly<Record<string, unknown>>;
};

let app: string;
let unpacked: string;
let files: readonly string[];

beforeAll(async () => {
  app = temporaryDirectory('package');
  // Without its scripts: what is built already is what the other tests use.
  await run('npm', ['pack', '--ignore-scripts', '--pack-destination', app], { cwd: root });
  mkdirSync(join(app, 'node_modules'));
  await run('tar', ['-xzf', `pgfetch-${manifest.version}.tgz`], { cwd: app });
  unpacked = join(app, 'node_modules', 'pgfetch');
  await run('mv', [join(app, 'package'), unpacked]);
  symlinkSync(join(root, 'node_modules'), join(unpacked, 'node_modules'));
  symlinkSync(join(root, 'node_modules', '@electric-sql'), join(app, 'node_modules', '@electric-sql'));
  symlinkSync(join(root, 'node_modules', '@types'), join(app, 'node_modules', '@types'));
  writeFileSync(join(app, 'package.json'), JSON.stringify({ name: 'app', private: true, type: 'module' }));
  files = readdirSync(unpacked, { recursive: true, encoding: 'utf8' })
    .filter((name) => !name.startsWith('node_modules') && statSync(join(unpacked, name)).isFile())
    .sort();
});

/** Runs a program of the user's that imports the package. */
async function runApp(source: string): Promise<string> {
  writeFileSync(join(app, 'main.js'), source);
  const { stdout } = await run(process.execPath, ['main.js'], { cwd: app });
  return stdout.trim();
}

describe('the package holds', () => {
  test('what it needs', () => {
    const needed = [
      'README.md',
      'LICENSE',
      'CHANGELOG.md',
      'SECURITY.md',
      'dist/index.js',
      'dist/index.d.ts',
      'dist/cli/main.js',
      'dist/pglite/index.js',
      'dist/pglite/pg_net.tar.gz',
      'extension/pg_net.control',
      `extension/pg_net--${manifest.version}.sql`,
      'docs/getting-started.md',
    ];
    expect(needed.filter((name) => !files.includes(name))).toEqual([]);
    const topics = readdirSync(join(root, 'sql'), { recursive: true, encoding: 'utf8' }).filter((name) =>
      name.endsWith('.sql'),
    );
    expect(files.filter((name) => name.startsWith('sql/'))).toEqual(topics.map((name) => join('sql', name)).sort());
  });

  test('nothing else: no tests, no sources, no data', () => {
    const strange = files.filter(
      (name) =>
        !/^(dist|sql|extension|docs|examples)\/|^(README|CHANGELOG|SECURITY)\.md$|^LICENSE$|^package\.json$/.test(name),
    );
    expect(strange).toEqual([]);
    expect(files.filter((name) => /test|\.log$|\.env/.test(name) && name !== 'docs/testing.md')).toEqual([]);
  });

  test('no code of files that are gone: dist is what src makes', () => {
    const orphans = files.filter(
      (name) => /^dist\/.*\.js$/.test(name) && !existsSync(join(root, name.replace(/^dist\/(.*)\.js$/, 'src/$1.ts'))),
    );
    expect(orphans).toEqual([]);
  });

  test('source maps only to what is there', () => {
    const astray = files
      .filter((name) => name.endsWith('.map'))
      .filter((name) => {
        const map = JSON.parse(readFileSync(join(unpacked, name), 'utf8')) as {
          sources: string[];
          sourcesContent?: string[];
        };
        return map.sources.some((source, index) => {
          const target = relative('.', normalize(join(dirname(name), source)));
          return map.sourcesContent?.[index] === undefined && !files.includes(target);
        });
      });
    expect(astray.slice(0, 3), `${astray.length} maps`).toEqual([]);
  });

  test('links of its README to files that go along', () => {
    const targets = [...readFileSync(join(unpacked, 'README.md'), 'utf8').matchAll(/\]\(((?:docs|CHANGELOG)[^)#]*)/g)];
    expect(targets.length).toBeGreaterThan(10);
    for (const [, target = ''] of targets) expect(existsSync(join(unpacked, target)), target).toBe(true);
  });
});

describe('a program can', () => {
  test('import everything, and nothing but the declared paths', async () => {
    const names = await runApp(`
      import * as main from 'pgfetch';
      import * as pglite from 'pgfetch/pglite';
      console.log(JSON.stringify([Object.keys(main).sort(), Object.keys(pglite).sort()]));
    `);
    const [main, pglite] = JSON.parse(names) as [string[], string[]];
    expect(main).toEqual(
      expect.arrayContaining([
        'adopt',
        'connectPg',
        'createWorker',
        'install',
        'startEchoServer',
        'startEmbeddedPostgres',
        'uninstall',
      ]),
    );
    expect(pglite).toEqual(['pgNet', 'pg_net']);
    expect(Object.keys(manifest.exports).sort()).toEqual(['.', './package.json', './pglite']);
    await expect(runApp(`import 'pgfetch/dist/http/client.js';`)).rejects.toThrow(/ERR_PACKAGE_PATH_NOT_EXPORTED/);
  });

  test('use it: a request from PGlite, with the bundle that is inside', async () => {
    const printed = await runApp(`
      import { PGlite } from '@electric-sql/pglite';
      import { startEchoServer } from 'pgfetch';
      import { pgNet } from 'pgfetch/pglite';
      const echo = await startEchoServer();
      const db = await PGlite.create({ extensions: { pg_net: pgNet({ allow: ['loopback'] }) } });
      await db.exec('create extension pg_net');
      await db.query('select net.http_get($1)', [echo.url + '/status/418']);
      await db.pg_net.drain();
      console.log((await db.query('select status_code from net._http_response')).rows[0].status_code);
      await db.close();
      await echo.close();
    `);
    expect(printed).toBe('418');
  });

  test('be type-checked against it', async () => {
    const source = `
      import { PGlite } from '@electric-sql/pglite';
      import { type CreateWorkerOptions, createWorker, type Worker } from 'pgfetch';
      import { pg_net, pgNet } from 'pgfetch/pglite';
      const options: CreateWorkerOptions = { connectionString: 'postgres://localhost/app', allow: ['loopback'], leaseMs: 5_000 };
      export const worker: Worker = createWorker(options);
      worker.on('recorded', (ids) => console.log(ids.map((id: bigint) => id)));
      export const db = await PGlite.create({ extensions: { pg_net } });
      await db.pg_net.drain();
      export const other = pgNet({ deny: ['api.internal'] });
      // @ts-expect-error: an option that does not exist
      createWorker({ leasMs: 1 });
    `;
    writeFileSync(join(app, 'main.ts'), source);
    const options = {
      module: 'nodenext',
      target: 'es2023',
      strict: true,
      exactOptionalPropertyTypes: true,
      noEmit: true,
      types: ['node'],
      skipLibCheck: true,
    };
    writeFileSync(join(app, 'tsconfig.json'), JSON.stringify({ compilerOptions: options, files: ['main.ts'] }));
    const tsc = join(root, 'node_modules', 'typescript', 'bin', 'tsc');
    const { stdout } = await run(process.execPath, [tsc, '-p', app]).catch((error: { stdout: string }) => error);
    expect(stdout).toBe('');
  });

  test('run the command', async () => {
    const main = join(unpacked, 'dist', 'cli', 'main.js');
    expect(statSync(main).mode & 0o111, 'it is executable').not.toBe(0);
    const { stdout } = await run(main, ['--version']);
    expect(stdout.trim()).toBe(manifest.version);
    expect((await run(main, ['sql'])).stdout).toContain('create schema net;');
  });
});
