// Builds what the package ships beside its sources: dist/, the extension's files, and PGlite's bundle of them.
import { spawnSync } from 'node:child_process';
import { chmodSync, existsSync, mkdirSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { gzipSync } from 'node:zlib';
import { pack } from 'tar-stream';

const root = join(dirname(fileURLToPath(import.meta.url)), '..');
const at = (...parts) => join(root, ...parts);

for (const made of ['dist', 'extension']) rmSync(at(made), { recursive: true, force: true });
compile();

// The compiled code itself says what the files hold, so that install, extension and PGlite cannot differ.
const { extensionFiles } = await import(pathToFileURL(at('dist/schema/scripts.js')).href);
mkdirSync(at('extension'));
for (const [name, content] of Object.entries(await extensionFiles())) writeFileSync(at('extension', name), content);
mkdirSync(at('dist/pglite'), { recursive: true });
writeFileSync(at('dist/pglite/pg_net.tar.gz'), await bundle(await extensionFiles({ showSettings: true })));

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
