import { mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createConnection } from 'node:net';
import { join, resolve } from 'node:path';
import type { PGlite } from '@electric-sql/pglite';
import { EmbeddedServerError, EmbeddedServerRunningError, errorCode, errorText } from './errors.ts';
import { gatePglite } from './pglite-gate.ts';
import { choosePort } from './ports.ts';
import { processIsAlive } from './processes.ts';

/** How to start a PGlite that programs can connect to. */
export type EmbeddedPgliteOptions = {
  /** Where the data lives: in `pglite` below it. Created if missing. */
  readonly directory: string;
  /** TCP port on 127.0.0.1. Default 0: any free one. A port that is taken is an {@link EmbeddedServerError}. */
  readonly port?: number;
};

/** A PGlite served on a socket. All its clients share one session: settings, roles and temporary tables too. */
export type EmbeddedPglite = {
  /** `postgres://postgres@127.0.0.1:PORT/postgres?sslmode=disable` */
  readonly connectionString: string;
  readonly port: number;
  /** Disconnects the clients, closes the data directory, and frees it for others. Safe to call twice. */
  stop(): Promise<void>;
};

const connectionsMax = 100;
const answerTimeoutMs = 1_000;

/**
 * Starts PGlite on 127.0.0.1, with the extension `pg_net` at hand (CREATE EXTENSION pg_net). There is no worker in it: commits of
 * socket clients wake nobody in-process, so start one with this connection string, which then polls.
 *
 * A second start of the same directory throws {@link EmbeddedServerRunningError}: PGlite itself would open it twice, and ruin it.
 *
 * @throws {@link EmbeddedServerError} with what was wrong and what to do.
 */
export async function startEmbeddedPglite(options: EmbeddedPgliteOptions): Promise<EmbeddedPglite> {
  const { PGlite, PGLiteSocketServer } = await importPglite();
  const home = resolve(options.directory);
  const lock = await takeLock(home);
  try {
    const port = await choosePort(options.port ?? 0);
    const db = await open(PGlite, join(home, 'pglite'));
    const server = new PGLiteSocketServer({ db: gatePglite(db), port, maxConnections: connectionsMax });
    try {
      await server.start();
    } catch (cause) {
      await db.close();
      throw new EmbeddedServerError(`PGlite could not be served on port ${port} (${errorText(cause)}).`, { cause });
    }
    const connectionString = connectionStringOf(port);
    lock.announce(port);
    let stopped: Promise<void> | undefined;
    const stop = async (): Promise<void> => {
      await server.stop();
      await db.close();
      lock.release();
    };
    return {
      connectionString,
      port,
      stop: () => {
        stopped ??= stop();
        return stopped;
      },
    };
  } catch (error) {
    lock.release();
    throw error;
  }
}

function connectionStringOf(port: number): string {
  return `postgres://postgres@127.0.0.1:${port}/postgres?sslmode=disable`;
}

async function importPglite(): Promise<{
  PGlite: typeof PGlite;
  PGLiteSocketServer: typeof import('@electric-sql/pglite-socket').PGLiteSocketServer;
}> {
  try {
    const [pglite, socket] = await Promise.all([import('@electric-sql/pglite'), import('@electric-sql/pglite-socket')]);
    return { PGlite: pglite.PGlite, PGLiteSocketServer: socket.PGLiteSocketServer };
  } catch (cause) {
    if (errorCode(cause) !== 'ERR_MODULE_NOT_FOUND') throw cause;
    throw new EmbeddedServerError(
      'PGlite is not installed: it is an optional part. Run: npm install @electric-sql/pglite @electric-sql/pglite-socket',
      { cause },
    );
  }
}

async function open(Pglite: typeof PGlite, dataDirectory: string): Promise<PGlite> {
  try {
    return await Pglite.create({
      dataDir: dataDirectory,
      extensions: {
        pg_net: {
          name: 'pg_net',
          setup: async (_pg, emscriptenOpts) => ({ emscriptenOpts, bundlePath: bundleUrl(import.meta.url) }),
        },
      },
    });
  } catch (cause) {
    throw new EmbeddedServerError(
      `PGlite could not open ${dataDirectory}: ${errorText(cause)}. If another version of PGlite made it, or it is damaged, move it away.`,
      { cause },
    );
  }
}

/** What the build makes; sources run by a test runner use the same. */
function bundleUrl(moduleUrl: string): URL {
  return new URL(moduleUrl.endsWith('.ts') ? '../../dist/pglite/pg_net.tar.gz' : '../pglite/pg_net.tar.gz', moduleUrl);
}

type Lock = { announce(port: number): void; release(): void };

/** PGlite has no lock of its own. The file names our process and, once it answers, the port. */
async function takeLock(home: string): Promise<Lock> {
  const path = join(home, 'pglite.lock');
  try {
    mkdirSync(home, { recursive: true });
    for (let attempt = 1; ; attempt += 1) {
      try {
        writeFileSync(path, JSON.stringify({ pid: process.pid }), { flag: 'wx' });
        break;
      } catch (error) {
        if (errorCode(error) !== 'EEXIST' || attempt > 1) throw error;
        await refuseHolder(home, path);
        rmSync(path, { force: true });
      }
    }
  } catch (cause) {
    if (cause instanceof EmbeddedServerError) throw cause;
    throw new EmbeddedServerError(
      `${home} cannot be written (${errorText(cause)}). Choose another directory, or correct its owner.`,
      { cause },
    );
  }
  const release = (): void => rmSync(path, { force: true });
  process.once('exit', release);
  return {
    announce: (port) => writeFileSync(path, JSON.stringify({ pid: process.pid, port })),
    release: () => {
      process.off('exit', release);
      release();
    },
  };
}

/** Throws if the process that holds the directory lives; returns where the lock was left behind. */
async function refuseHolder(home: string, path: string): Promise<void> {
  const { pid, port } = readLock(path);
  if (pid === undefined || (pid === process.pid && port === undefined) || !processIsAlive(pid)) return;
  if (port === undefined) {
    throw new EmbeddedServerError(
      `${home} is being opened by another process (pid ${pid}). Wait for it; or, if that process is something else, remove ${path}.`,
    );
  }
  // Process ids are reused: only one that answers counts.
  if (await answers(port)) {
    throw new EmbeddedServerRunningError(home, { connectionString: connectionStringOf(port), port, pid });
  }
}

function readLock(path: string): { pid: number | undefined; port: number | undefined } {
  try {
    const content: unknown = JSON.parse(readFileSync(path, 'utf8'));
    const field = (name: string): number | undefined => {
      const value = typeof content === 'object' && content !== null ? Reflect.get(content, name) : undefined;
      return Number.isInteger(value) ? Number(value) : undefined;
    };
    return { pid: field('pid'), port: field('port') };
  } catch {
    return { pid: undefined, port: undefined };
  }
}

function answers(port: number): Promise<boolean> {
  return new Promise((done) => {
    const socket = createConnection({ port, host: '127.0.0.1', timeout: answerTimeoutMs });
    const end = (result: boolean) => (): void => {
      socket.destroy();
      done(result);
    };
    socket.once('connect', end(true)).once('error', end(false)).once('timeout', end(false));
  });
}
