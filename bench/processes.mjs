// The processes that a benchmark starts beside its own: the target, the workers, and whatever consumes a rival's queue.
import { fork } from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';

const path = (name) => fileURLToPath(new URL(name, import.meta.url));

/** Milliseconds that processes of one machine can compare. */
export const now = () => performance.timeOrigin + performance.now();

/** A program in a process of its own that can be asked what it uses. */
export class Observed {
  #child;
  #isStopping = false;
  /** Rejects when the process ends before it was told to. */
  failed;

  constructor(program, programArguments, { stderr = 'inherit' } = {}) {
    this.#child = fork(program, programArguments, {
      execArgv: ['--import', new URL('./observed.mjs', import.meta.url).href],
      stdio: ['ignore', 'ignore', stderr, 'ipc'],
    });
    this.failed = new Promise((_, reject) => {
      this.#child.once('exit', (code, signal) => {
        if (!this.#isStopping) reject(new Error(`${program} ended by itself (${signal ?? code})`));
      });
    });
    // It is looked at while something is awaited of the process; nothing being awaited is no reason to crash.
    this.failed.catch(() => {});
  }

  get stderr() {
    return this.#child.stderr;
  }

  send(message) {
    this.#child.send(message);
  }

  /** The next message that answers this. */
  answer(name) {
    const answered = new Promise((resolve) => {
      const look = (message) => {
        if (message?.answer !== name) return;
        this.#child.off('message', look);
        resolve(message);
      };
      this.#child.on('message', look);
    });
    return Promise.race([answered, this.failed]);
  }

  ask(name, more = {}) {
    const answer = this.answer(name);
    this.send({ ask: name, ...more });
    return answer;
  }

  /** @returns {Promise<{ rssBytes: number, rssBytesMax: number, cpuMicroseconds: number }>} */
  usage() {
    return this.ask('usage');
  }

  async stop() {
    this.#isStopping = true;
    if (this.#child.exitCode !== null || this.#child.signalCode !== null) return;
    const ended = once(this.#child, 'exit');
    this.#child.kill('SIGTERM');
    await ended;
  }
}

/** `pgfetch worker` as users run it. Resolves when it serves. */
export async function startWorker(url, say) {
  const worker = new Observed(
    path('../dist/cli/main.js'),
    ['worker', '-d', url, '--allow', 'loopback', '--log-format', 'json', '--stop-timeout', '100'],
    { stderr: 'pipe' },
  );
  const serving = new Promise((resolve) => {
    let rest = '';
    worker.stderr.setEncoding('utf8').on('data', (data) => {
      const lines = `${rest}${data}`.split('\n');
      rest = lines.pop() ?? '';
      for (const line of lines) {
        if (!line.startsWith('{')) {
          process.stderr.write(`${line}\n`);
          continue;
        }
        const { level, msg } = JSON.parse(line);
        if (level === 'info' && msg.startsWith('serving')) resolve();
        // What stopping breaks off in these benchmarks is told to nobody.
        else if (level !== 'info' && !msg.startsWith('stopped with')) say(`worker: ${msg}`);
      }
    });
  });
  await Promise.race([serving, worker.failed]);
  return worker;
}

/** A worker that can be asked how many responses it has `recorded`. */
export async function startCountedWorker(url) {
  const worker = new Observed(path('counted-worker.mjs'), [url]);
  await worker.answer('ready');
  return worker;
}

/**
 * The receiver, on three ports: three origins. `count` starts counting anew: the returned `samples` grow by one entry each `every`
 * requests answered, and `done` resolves with the instant of the last one.
 */
export async function startTarget(host) {
  const child = fork(path('target.mjs'), [host === '127.0.0.1' ? host : '0.0.0.0'], { stdio: 'inherit' });
  let counting;
  const [{ ports }] = await once(child, 'message');
  child.on('message', ({ round, answered, at }) => {
    // What was still under way of an earlier count is not of this one.
    if (round !== counting?.round) return;
    counting.samples.push({ answered, at });
    counting.onSample?.(answered);
    if (answered >= counting.upTo) counting.resolve(at);
  });
  const [url, second, third] = ports.map((port) => `http://${host}:${port}`);
  return {
    url,
    second,
    third,
    count(upTo, every = upTo, onSample = undefined) {
      const { promise, resolve, reject } = deferred();
      const timer = setTimeout(
        () => reject(new Error('not all were answered in 15 minutes: is there a worker?')),
        900_000,
      );
      promise.then(
        () => clearTimeout(timer),
        () => {},
      );
      timer.unref();
      counting = { round: (counting?.round ?? 0) + 1, upTo, samples: [], onSample, resolve };
      child.send({ count: { round: counting.round, every, upTo } });
      return { samples: counting.samples, done: promise };
    },
    async stop() {
      const ended = once(child, 'exit');
      child.kill('SIGTERM');
      await ended;
    },
  };
}

/** What Promise.withResolvers gives, which Node.js 20 lacks. */
function deferred() {
  let resolve = () => {};
  let reject = () => {};
  const promise = new Promise((resolvePromise, rejectPromise) => {
    resolve = resolvePromise;
    reject = rejectPromise;
  });
  return { promise, resolve, reject };
}
