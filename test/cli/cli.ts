import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { closeSync, existsSync, mkdirSync, openSync, readdirSync, rmSync, statSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { afterEach } from 'vitest';

const root = join(dirname(fileURLToPath(import.meta.url)), '..', '..');
const program = join(root, 'dist', 'cli', 'main.js');
const buildTimeoutMs = 60_000;

/** What a command left when it ended. */
export type Ended = { readonly status: number | null; readonly stdout: string; readonly stderr: string };

/** A command that runs. */
export type Running = {
  readonly pid: number;
  readonly stdout: () => string;
  readonly stderr: () => string;
  /** Resolves with the match once the output (stdout, then stderr) has it; rejects if the command ends without. */
  output(pattern: RegExp): Promise<RegExpExecArray>;
  signal(name: NodeJS.Signals): void;
  readonly ended: Promise<Ended>;
};

export type CliOptions = {
  /** Added to an environment that has nothing of PostgreSQL's. */
  readonly env?: Readonly<Record<string, string>>;
  readonly cwd?: string;
};

const running = new Set<ChildProcess>();

afterEach(async () => {
  const left = [...running];
  for (const child of left) child.kill('SIGKILL');
  await Promise.all(left.map((child) => new Promise((resolve) => child.once('close', resolve))));
});

/** Starts the command line as a user would. What a test leaves running is killed after it. */
export async function startCli(commandArguments: readonly string[], options: CliOptions = {}): Promise<Running> {
  await ensureBuilt();
  const { PATH = '', HOME = '' } = process.env;
  const child = spawn(process.execPath, [program, ...commandArguments], {
    cwd: options.cwd ?? root,
    env: { PATH, HOME, ...options.env },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  running.add(child);
  let stdout = '';
  let stderr = '';
  const listeners = new Set<() => void>();
  child.stdout.setEncoding('utf8').on('data', (text: string) => {
    stdout += text;
    for (const listener of listeners) listener();
  });
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    stderr += text;
    for (const listener of listeners) listener();
  });
  const ended = new Promise<Ended>((resolve) => {
    child.once('close', (status) => {
      running.delete(child);
      resolve({ status, stdout, stderr });
    });
  });
  return {
    pid: child.pid ?? 0,
    stdout: () => stdout,
    stderr: () => stderr,
    output: (pattern) =>
      new Promise((resolve, reject) => {
        const look = (): void => {
          const match = pattern.exec(stdout) ?? pattern.exec(stderr);
          if (match === null) return;
          listeners.delete(look);
          resolve(match);
        };
        listeners.add(look);
        look();
        void ended.then(() => reject(new Error(`ended without printing ${pattern}: ${stdout}\n${stderr}`)));
      }),
    signal: (name) => {
      child.kill(name);
    },
    ended,
  };
}

/** Runs a command to its end. */
export async function runCli(commandArguments: readonly string[], options: CliOptions = {}): Promise<Ended> {
  return await (await startCli(commandArguments, options)).ended;
}

let built: Promise<void> | undefined;

/** `npm test` builds first; whoever runs vitest alone gets a build when a source is newer than the last one. */
function ensureBuilt(): Promise<void> {
  built ??= build();
  return built;
}

async function build(): Promise<void> {
  const lock = join(root, '.cache', 'cli-test-build.lock');
  mkdirSync(dirname(lock), { recursive: true });
  const deadline = performance.now() + buildTimeoutMs;
  while (isStale()) {
    try {
      closeSync(openSync(lock, 'wx'));
    } catch {
      // Another test file builds.
      if (performance.now() > deadline) throw new Error(`Nobody seems to build; remove ${lock}`);
      await sleep(50);
      continue;
    }
    try {
      if (!isStale()) return;
      const result = spawnSync(process.execPath, [join(root, 'scripts', 'build.mjs')], { cwd: root, encoding: 'utf8' });
      if (!existsSync(program)) throw new Error(`The build failed: ${result.stdout}${result.stderr}`);
      return;
    } finally {
      rmSync(lock, { force: true });
    }
  }
}

function isStale(): boolean {
  const marker = join(root, 'dist', 'pglite', 'pg_net.tar.gz');
  if (!existsSync(program) || !existsSync(marker)) return true;
  const builtAtMs = statSync(marker).mtimeMs;
  return ['src', 'sql'].some((directory) =>
    readdirSync(join(root, directory), { recursive: true, withFileTypes: true }).some(
      (entry) => entry.isFile() && statSync(join(entry.parentPath, entry.name)).mtimeMs > builtAtMs,
    ),
  );
}
