// Real `pgfetch worker` processes, and what they say.
import { spawn } from 'node:child_process';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';

const program = fileURLToPath(new URL('../dist/cli/main.js', import.meta.url));
const endMsMax = 20_000;

/**
 * A worker process that can be killed and started again under the same name.
 *
 * @param {{ name: string, url: string, allow: string, leaseMs: number, namespace?: string, sinceStart: () => number, isQuiet?: boolean }} options
 */
export function createWorkerProcess({ name, url, allow, leaseMs, namespace, sinceStart }) {
  let child;
  let exited = Promise.resolve();
  const said = new Map();
  const worker = {
    name,
    namespace,
    /** Its registration, as it last said; null until it serves. */
    id: null,
    servingSince: -1,
    /** When it said that it had been taken for dead. */
    fencedAt: [],
    /** Every warning and error, with how often it was said. */
    said,
    /** Lines that are no log: a crash. */
    noise: [],
    start() {
      const own = [program, 'worker', '-d', url, '--allow', allow, '--lease', `${leaseMs}`, '--name', name];
      const [command, ...before] =
        namespace === undefined ? [process.execPath] : ['ip', 'netns', 'exec', namespace, process.execPath];
      // A group of its own: Ctrl-C in the terminal reaches the run, which then stops them.
      child = spawn(command, [...before, ...own, '--log-format', 'json'], {
        stdio: ['ignore', 'ignore', 'pipe'],
        detached: true,
      });
      worker.id = null;
      const started = child;
      createInterface({ input: child.stderr }).on('line', (line) => started === child && hear(line));
      exited = new Promise((resolve) => child.once('exit', (code, signal) => resolve({ code, signal })));
    },
    signal: (signal) => child.kill(signal),
    get isRunning() {
      return child !== undefined && child.exitCode === null && child.signalCode === null;
    },
    async kill() {
      child?.kill('SIGKILL');
      await exited;
    },
    /** Asks it to stop; resolves with how it ended. */
    async stop() {
      if (!worker.isRunning) return await exited;
      child.kill('SIGCONT');
      child.kill('SIGTERM');
      const timer = setTimeout(() => child.kill('SIGKILL'), endMsMax);
      const end = await exited;
      clearTimeout(timer);
      return end;
    },
  };

  function hear(line) {
    let entry;
    try {
      entry = JSON.parse(line);
    } catch {
      if (worker.noise.length < 50) worker.noise.push(line);
      return;
    }
    if (entry.msg.startsWith('serving')) {
      worker.id = String(entry.worker);
      worker.servingSince = sinceStart();
    }
    if (entry.msg.startsWith('the registration of this worker is gone')) worker.fencedAt.push(sinceStart());
    if (entry.level === 'info') return;
    const text = entry.msg.replace(/\d+/g, 'N');
    said.set(text, (said.get(text) ?? 0) + 1);
  }
  return worker;
}
