import { spawnSync } from 'node:child_process';
import { chmodSync, cpSync, mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { nodeProblem } from '../../src/cli/node-version.ts';
import { temporaryDirectory } from '../support/servers.ts';
import { read, root } from './markdown.ts';

test('an older Node.js is told which one it takes, and package.json says the same', () => {
  for (const version of ['18.20.8', '20.18.3', '19.9.0', '4.0.0']) {
    expect(nodeProblem(version)).toMatch(`pgfetch needs Node.js 20.19 or newer (this is ${version})`);
  }
  for (const version of ['20.19.0', '20.20.2', '21.0.0', '24.1.0', process.versions.node]) {
    expect(nodeProblem(version)).toBeUndefined();
  }
  expect(JSON.parse(read('package.json'))).toMatchObject({ engines: { node: '>=20.19' } });
});

test('what the command line loads before it has looked at the version needs nothing else', () => {
  const imports = [...read('src/cli/main.ts').matchAll(/^import .*$/gm)].map(([line]) => line);
  expect(imports).toEqual(["import { nodeProblem } from './node-version.ts';"]);
  expect(read('src/cli/node-version.ts')).not.toMatch(/^import /m);
});

test.skipIf(process.platform === 'win32')('building where nothing can be written is one readable paragraph', () => {
  const checkout = temporaryDirectory('checkout');
  mkdirSync(join(checkout, 'scripts'));
  for (const file of ['package.json', 'scripts/build.mjs']) cpSync(join(root, file), join(checkout, file));
  chmodSync(checkout, 0o555);
  // To root nothing is forbidden.
  const other = process.getuid?.() === 0 ? { uid: 65_534, gid: 65_534 } : {};
  const { status, stdout, stderr } = spawnSync(process.execPath, [join(checkout, 'scripts/build.mjs')], {
    encoding: 'utf8',
    cwd: checkout,
    ...other,
  });
  chmodSync(checkout, 0o755);
  expect({ status, stdout }).toEqual({ status: 1, stdout: '' });
  expect(stderr).toMatch(/^pgfetch cannot be built here: .*dist cannot be written \(EACCES\)\. Run this as .*\.\n$/);
});
