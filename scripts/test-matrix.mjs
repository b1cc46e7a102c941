// Runs the contract suite on every PostgreSQL major that is supported. The binaries of those that `npm install` does not bring
// (about 60 MB each) are installed into .cache/postgres-matrix first, or into the directory that PGFETCH_TEST_POSTGRES_DIR names.
// Arguments go to vitest: `npm run test:matrix -- -t wake`.
import { spawnSync } from 'node:child_process';
import { copyFileSync, mkdirSync } from 'node:fs';
import { dirname, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const cache = resolve(process.env.PGFETCH_TEST_POSTGRES_DIR ?? join(root, '.cache', 'postgres-matrix'));

function run(command, commandArguments, options = {}) {
  // On Windows npm and npx are command files, which only a shell starts.
  const result = spawnSync(command, commandArguments, {
    cwd: root,
    stdio: 'inherit',
    shell: process.platform === 'win32',
    ...options,
  });
  if (result.error !== undefined) throw result.error;
  if (result.status !== 0) process.exit(result.status ?? 1);
}

mkdirSync(cache, { recursive: true });
copyFileSync(join(root, 'test', 'matrix', 'package.json'), join(cache, 'package.json'));
run(
  'npm',
  ['install', '--prefix', cache, '--no-save', '--no-package-lock', '--ignore-scripts', '--no-audit', '--no-fund'],
  {
    cwd: cache,
  },
);
run('npx', ['vitest', 'run', 'test/contract', ...process.argv.slice(2)], {
  env: {
    ...process.env,
    PGFETCH_TEST_POSTGRES_DIR: cache,
    PGFETCH_TEST_MAJORS: process.env.PGFETCH_TEST_MAJORS ?? '13,14,15,16,17,18',
  },
});
