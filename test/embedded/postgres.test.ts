import { spawn } from 'node:child_process';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { join } from 'node:path';
import pg from 'pg';
import { afterEach, describe, expect, test } from 'vitest';
import {
  type EmbeddedPostgres,
  type EmbeddedPostgresOptions,
  EmbeddedServerError,
  EmbeddedServerRunningError,
  startEmbeddedPostgres,
} from '../../src/embedded/postgres.ts';
import { processIsPostgres } from '../../src/embedded/processes.ts';
import { availableMajors, temporaryDirectory, testNativeDirectory } from '../support/servers.ts';

const servers: EmbeddedPostgres[] = [];

afterEach(async () => {
  await Promise.all(servers.splice(0).map((server) => server.stop('immediate')));
});

async function start(directory: string, options: Partial<EmbeddedPostgresOptions> = {}): Promise<EmbeddedPostgres> {
  const server = await startEmbeddedPostgres({ directory, durable: false, ...options });
  servers.push(server);
  return server;
}

async function ask(server: { connectionString: string }, statement: string): Promise<unknown> {
  const client = new pg.Client({ connectionString: server.connectionString });
  client.on('error', () => {});
  await client.connect();
  try {
    const result = await client.query<unknown[]>({ text: statement, rowMode: 'array' });
    return result.rows?.[0]?.[0];
  } finally {
    await client.end().catch(() => {});
  }
}

describe.each(availableMajors())('PostgreSQL %i', (major) => {
  const nativeDirectory = testNativeDirectory(major);

  test('starts, keeps its data over stop and restart, and is gone after stop', async () => {
    const directory = temporaryDirectory('life');
    const first = await start(directory, { nativeDirectory });
    expect(first.major).toBe(major);
    expect(first.connectionString).toBe(`postgres://postgres@127.0.0.1:${first.port}/postgres`);
    expect(await ask(first, 'SHOW server_encoding')).toBe('UTF8');
    expect(await ask(first, "SELECT current_setting('server_version_num')::int / 10000")).toBe(major);
    await ask(first, 'CREATE TABLE kept AS SELECT 1 AS value');

    const firstPid = first.pid;
    await first.restart();
    expect(first.pid).not.toBe(firstPid);
    expect(await ask(first, 'SELECT value FROM kept')).toBe(1);

    const { pid } = first;
    await first.stop();
    await first.stop();
    await first.exited;
    expect(processIsPostgres(pid)).toBe(false);
    await expect(ask(first, 'SELECT 1')).rejects.toThrow('ECONNREFUSED');

    const second = await start(directory, { nativeDirectory });
    expect(await ask(second, 'SELECT value FROM kept')).toBe(1);
  });

  test('recovers what was committed after a crash, on the same port', async () => {
    const server = await start(temporaryDirectory('crash'), { nativeDirectory });
    const { port } = server;
    await ask(server, 'CREATE TABLE kept AS SELECT 1 AS value');
    await server.restart('immediate');
    expect(await ask(server, 'SELECT value FROM kept')).toBe(1);

    const { exited } = server;
    process.kill(server.pid, 'SIGKILL');
    await exited;
    await server.restart();
    expect(server.port).toBe(port);
    expect(await ask(server, 'SELECT value FROM kept')).toBe(1);
  });

  test('takes another encoding, settings and extension files', async () => {
    const directory = temporaryDirectory('options');
    const extension = (version: string, body: string): Record<string, string> => ({
      'pgfetch_dummy.control': `default_version = '${version}'\nrelocatable = true\n`,
      [`pgfetch_dummy--${version}.sql`]: body,
    });
    const options = { nativeDirectory, encoding: 'LATIN1', settings: { work_mem: '5MB', 'pg_net.ttl': '1 hour' } };
    const first = await start(directory, {
      ...options,
      extensionFiles: extension('1', "CREATE FUNCTION dummy() RETURNS text LANGUAGE sql AS $$SELECT 'one'$$;"),
    });
    expect(await ask(first, 'SHOW server_encoding')).toBe('LATIN1');
    expect(await ask(first, 'SHOW work_mem')).toBe('5MB');
    expect(await ask(first, "SELECT current_setting('pg_net.ttl')")).toBe('1 hour');
    await ask(first, 'CREATE EXTENSION pgfetch_dummy');
    expect(await ask(first, 'SELECT dummy()')).toBe('one');
    await first.stop();

    const second = await start(directory, {
      ...options,
      extensionFiles: extension('2', "CREATE FUNCTION dummy() RETURNS text LANGUAGE sql AS $$SELECT 'two'$$;"),
    });
    await ask(second, 'DROP EXTENSION pgfetch_dummy');
    await ask(second, 'CREATE EXTENSION pgfetch_dummy');
    expect(await ask(second, 'SELECT dummy()')).toBe('two');
  });
});

describe('a second start of a directory', () => {
  test('says where the running server answers', async () => {
    const directory = temporaryDirectory('second');
    const running = await start(directory);
    const error: unknown = await start(directory).catch((reason: unknown) => reason);
    expect(error).toBeInstanceOf(EmbeddedServerRunningError);
    expect(error).toBeInstanceOf(EmbeddedServerError);
    expect(error).toMatchObject({ connectionString: running.connectionString, port: running.port, pid: running.pid });
    expect(String(error)).toContain(`already running at ${running.connectionString}, pid ${running.pid}`);
    expect(await ask(running, 'SELECT 1')).toBe(1);
  });

  test('at the same moment gives one server, and the other start says where it is', async () => {
    const directory = temporaryDirectory('race');
    const results = await Promise.allSettled([start(directory), start(directory)]);
    const started = results.flatMap((result) => (result.status === 'fulfilled' ? [result.value] : []));
    const refused = results.flatMap((result): unknown[] => (result.status === 'rejected' ? [result.reason] : []));
    expect(started).toHaveLength(1);
    expect(refused).toHaveLength(1);
    expect(refused[0]).toBeInstanceOf(EmbeddedServerRunningError);
    expect(refused[0]).toMatchObject({ connectionString: started[0]?.connectionString });
  });

  test('goes on where the pid file is stale, even if the process id is somebody else’s by now', async () => {
    const directory = temporaryDirectory('stale');
    const first = await start(directory);
    const pidFile = join(first.dataDirectory, 'postmaster.pid');
    const content = readFileSync(pidFile, 'utf8');
    await first.stop();

    const other = spawn('sleep', ['60'], { stdio: 'ignore' });
    try {
      writeFileSync(pidFile, content.replace(/^\d+/, String(other.pid)));
      const second = await start(directory);
      expect(await ask(second, 'SELECT 1')).toBe(1);
      expect(other.exitCode).toBeNull();
    } finally {
      other.kill();
    }
  });

  test('replaces a server that was left behind by a starter that is gone', async () => {
    const directory = temporaryDirectory('left-behind');
    const left = await start(directory);
    const { pid, exited } = left;
    const gone = spawn('true', { stdio: 'ignore' });
    await new Promise((resolve) => gone.once('exit', resolve));
    writeFileSync(join(directory, `postgres-${left.major}.starter.json`), JSON.stringify({ pid: gone.pid }));

    const next = await start(directory);
    await exited;
    expect(next.pid).not.toBe(pid);
    expect(await ask(next, 'SELECT 1')).toBe(1);
  });
});

describe('the program that started it', () => {
  /** Starts `parent.mjs` in a process group of its own and reads what it prints, a JSON value a line. */
  function startParent(directory: string): {
    pid: number;
    next(): Promise<Record<string, unknown>>;
    end(): void;
    exit: Promise<void>;
  } {
    const child = spawn(process.execPath, [join(import.meta.dirname, 'parent.mjs'), directory], {
      stdio: ['pipe', 'pipe', 'inherit'],
      detached: true,
    });
    const exit = new Promise<void>((resolve) => child.once('exit', () => resolve()));
    const lines = (async function* (): AsyncGenerator<string> {
      let text = '';
      for await (const chunk of child.stdout.setEncoding('utf8')) {
        text += String(chunk);
        const parts = text.split('\n');
        text = parts.pop() ?? '';
        yield* parts;
      }
    })();
    return {
      pid: child.pid ?? 0,
      exit,
      end: () => child.stdin.end('end\n'),
      next: async () => {
        const line = await lines.next();
        if (line.done === true) throw new Error('the parent ended without saying anything');
        return JSON.parse(line.value) as Record<string, unknown>;
      },
    };
  }

  test('can be interrupted without the server noticing, and killed without blocking the next start', async () => {
    const directory = temporaryDirectory('killed');
    const parent = startParent(directory);
    const { pid, url } = await parent.next();
    await ask({ connectionString: String(url) }, 'CREATE TABLE kept AS SELECT 1 AS value');

    process.kill(-parent.pid, 'SIGINT');
    expect(await parent.next()).toEqual({ interrupted: true });
    expect(await ask({ connectionString: String(url) }, 'SELECT value FROM kept')).toBe(1);

    process.kill(parent.pid, 'SIGKILL');
    await parent.exit;
    const next = await start(directory);
    expect(processIsPostgres(Number(pid)) && next.pid === Number(pid)).toBe(false);
    expect(await ask(next, 'SELECT value FROM kept')).toBe(1);
  });

  test.each(['is killed', 'exits'])('leaves nothing running when it %s', async (how) => {
    const parent = startParent(temporaryDirectory('exit'));
    const { pid } = await parent.next();
    if (how === 'exits') parent.end();
    else process.kill(parent.pid, 'SIGKILL');
    await parent.exit;
    await expect.poll(() => processIsPostgres(Number(pid)), { timeout: 10_000 }).toBe(false);
  });
});

describe('a start that cannot work says why', () => {
  test('a port that is taken', async () => {
    const other = createServer();
    await new Promise<void>((resolve) => other.listen(0, '127.0.0.1', resolve));
    try {
      const address = other.address();
      const port = typeof address === 'object' && address !== null ? address.port : 0;
      const error: unknown = await start(temporaryDirectory('port'), { port }).catch((reason: unknown) => reason);
      expect(error).toBeInstanceOf(EmbeddedServerError);
      expect(String(error)).toMatch(`Port ${port} on 127.0.0.1 is taken by another program.`);
    } finally {
      other.close();
    }
  });

  test('a directory with another major version, untouched', async () => {
    const directory = temporaryDirectory('major');
    const old = await start(directory, { nativeDirectory: testNativeDirectory(15) });
    await old.stop();
    await expect(start(directory)).rejects.toThrow(/holds a cluster of PostgreSQL 15.*binaries are PostgreSQL 18/);
    expect(existsSync(join(directory, 'postgres-18'))).toBe(false);
  });

  test('a data directory given as the directory', async () => {
    const server = await start(temporaryDirectory('inside'));
    await server.stop();
    await expect(start(server.dataDirectory)).rejects.toThrow(/is itself a PostgreSQL data directory/);
  });

  test('a file in the place of the directory', async () => {
    const file = join(temporaryDirectory('file'), 'taken');
    writeFileSync(file, '');
    await expect(start(file)).rejects.toThrow(`The directory ${file} cannot be used`);
  });

  test('binaries that are not there', async () => {
    const directory = temporaryDirectory('binaries');
    await expect(start(directory, { nativeDirectory: directory })).rejects.toThrow(/There is no PostgreSQL in/);
  });

  test('a setting the server refuses, in the server’s words', async () => {
    const directory = temporaryDirectory('setting');
    await expect(start(directory, { settings: { shared_buffers: 'plenty' } })).rejects.toThrow(
      /last lines of its log[\s\S]*invalid value for parameter "shared_buffers": "plenty"/,
    );
  });

  test('an encoding that does not exist, in initdb’s words', async () => {
    const directory = temporaryDirectory('encoding');
    await expect(start(directory, { encoding: 'LATIN99' })).rejects.toThrow(/initdb[\s\S]*LATIN99/);
    expect(existsSync(join(directory, 'postgres-18'))).toBe(false);
  });
});
