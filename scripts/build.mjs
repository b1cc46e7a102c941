// Builds what the package ships beside its sources: dist/, the extension's files, and PGlite's bundle of them.
import { spawnSync } from 'node:child_process';
import { chmodSync, existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { gzipSync } from 'node:zlib';

const root = join(dirname(fileURLToPath(import.meta.url)), '..');
const at = (...parts) => join(root, ...parts);

refuseOldNode();
makeRoom();
// Not before: on an older Node.js, or without rights, these would fail with less to say.
const { pack } = await import('tar-stream');
compile();

// The compiled code itself says what the files hold, so that install, extension and PGlite cannot differ.
const { extensionFiles } = await import(pathToFileURL(at('dist/schema/scripts.js')).href);
for (const [name, content] of Object.entries(await extensionFiles())) writeFileSync(at('extension', name), content);
mkdirSync(at('dist/pglite'), { recursive: true });
writeFileSync(at('dist/pglite/pg_net.tar.gz'), await bundle(await extensionFiles({ showSettings: true })));

/** `npm start` comes here first, and TypeScript itself may not run on an older Node.js. */
function refuseOldNode() {
  const { engines } = JSON.parse(readFileSync(at('package.json'), 'utf8'));
  const [major, minor] = engines.node.match(/\d+/g).map(Number);
  const [ownMajor, ownMinor] = process.versions.node.split('.').map(Number);
  if (ownMajor > major || (ownMajor === major && ownMinor >= minor)) return;
  stop(`pgfetch needs Node.js ${major}.${minor} or newer (this is ${process.versions.node}).`);
}

/** Removes what an earlier build made, and sees that there is a place to write to. */
function makeRoom() {
  try {
    for (const made of ['dist', 'extension']) {
      rmSync(at(made), { recursive: true, force: true });
      mkdirSync(at(made));
    }
  } catch (error) {
    if (!['EACCES', 'EPERM', 'EROFS'].includes(error.code)) throw error;
    stop(
      `pgfetch cannot be built here: ${error.path} cannot be written (${error.code}). Run this as the user that owns ` +
        `the directory ${root}, or in a copy of your own.`,
    );
  }
}

function stop(message) {
  process.stderr.write(`${message}\n`);
  process.exit(1);
}

function compile() {
  const tsc = at('node_modules/typescript/bin/tsc');
  const { status, error } = spawnSync(process.execPath, [tsc, '-p', 'tsconfig.build.json'], {
    cwd: root,
    stdio: 'inherit',
  });
  if (error !== undefined) throw error;
  // tsc emits what it can; the rest of the build does not depend on the types, and the status tells of them.
  process.exitCode = status ?? 1;
  // tsc does not keep the executable bit of a script that starts with `#!`.
  const cli = at('dist/cli/main.js');
  if (existsSync(cli)) chmodSync(cli, 0o755);
}

/** The same files give the same bytes: no times, owners or order of the machine that builds. */
async function bundle(files) {
  const tar = pack();
  for (const name of Object.keys(files).sort()) {
    tar.entry({ name: `share/postgresql/extension/${name}`, mode: 0o644, mtime: new Date(0) }, files[name]);
  }
  tar.finalize();
  const chunks = [];
  for await (const chunk of tar) chunks.push(chunk);
  const bytes = gzipSync(Buffer.concat(chunks), { level: 9 });
  // Byte 9 of a gzip header names the operating system (RFC 1952); 255 is "unknown".
  bytes[9] = 255;
  return bytes;
}
