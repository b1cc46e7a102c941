// Puts millions of replies, sound and spoilt, to the HTTP client. See CONTRIBUTING.md.
import { availableParallelism } from 'node:os';
import { parseArgs } from 'node:util';
import { Worker } from 'node:worker_threads';
import { optionsOf } from '../soak/options.mjs';

const help = `Usage: npm run fuzz -- [options]

  --replies <n>    how many (default 10000000), each whole and in pieces
  --seconds <n>    ends earlier, after that time
  --seed <n>       repeats a run (default: a new one, printed)
  --at <n>         the number of the first reply (default 0): one that failed can be had alone
  --tcp <n>        one in so many goes through real sockets, too (default 100; 0: none)
  --threads <n>    default: one for each core
  --json           prints the result as JSON alone
`;

const rssGrowthMbMax = 64;
const rangeReplies = 10_000;
/** Until then memory may grow: code is compiled, heaps find their size. */
const warmUpShare = 0.2;
const warmUpReplies = { least: 30_000, most: 400_000 };
const failuresMax = 20;
const progressMs = 5_000;
/** A range takes a few seconds; where one takes longer than this, a reply has hung the client. */
const hungMs = 300_000;

const { values } = parseArgs({
  options: {
    replies: { type: 'string', default: '10000000' },
    seconds: { type: 'string', default: '1000000000' },
    seed: { type: 'string', default: String(Math.floor(Math.random() * 2 ** 31)) },
    at: { type: 'string', default: '0' },
    tcp: { type: 'string', default: '100' },
    threads: { type: 'string', default: String(availableParallelism()) },
    json: { type: 'boolean', default: false },
    help: { type: 'boolean', default: false },
  },
});

const { number, say } = optionsOf(values);

const rssMb = () => process.memoryUsage.rss() / 2 ** 20;

async function fuzz() {
  const replies = number('replies', 1);
  const seed = number('seed', 0);
  const first = number('at', 0);
  const tcpEvery = number('tcp', 0);
  const threads = Math.min(number('threads', 1), Math.ceil(replies / rangeReplies));
  const untilMs = performance.now() + number('seconds', 0.1) * 1_000;
  say(
    `seed ${seed}: to repeat, npm run fuzz -- --replies ${replies} --seed ${seed}${first > 0 ? ` --at ${first}` : ''}`,
  );
  const total = { replies: 0, overTcp: 0, bytesFed: 0, kinds: {}, latestMs: 0, failures: [], failed: 0 };
  const memory = { warmMb: 0, mostMb: 0 };
  const startMs = performance.now();
  let next = first;

  const takeRange = () => {
    const isOver = performance.now() > untilMs || total.failed >= failuresMax || next >= first + replies;
    if (isOver) return undefined;
    const range = { from: next, to: Math.min(next + rangeReplies, first + replies) };
    next = range.to;
    return range;
  };
  const sample = () => {
    const { least, most } = warmUpReplies;
    const isWarm = total.replies >= Math.max(least, Math.min(replies * warmUpShare, most));
    memory[isWarm ? 'mostMb' : 'warmMb'] = Math.max(memory[isWarm ? 'mostMb' : 'warmMb'], rssMb());
  };
  const progress = setInterval(() => {
    const seconds = (performance.now() - startMs) / 1_000;
    const rate = Math.round(total.replies / seconds);
    say(`${total.replies} replies, ${rate}/s, ${total.failed} failed, ${Math.round(rssMb())} MB`);
  }, progressMs);
  try {
    await Promise.all(Array.from({ length: threads }, () => work({ seed, tcpEvery, takeRange, total, sample })));
  } finally {
    clearInterval(progress);
  }
  const growthMb = Math.max(0, memory.mostMb - memory.warmMb);
  const complaints = growthMb > rssGrowthMbMax ? [`memory grew by ${Math.round(growthMb)} MB`] : [];
  return {
    seed,
    node: process.version,
    isSound: total.failed === 0 && complaints.length === 0,
    seconds: Math.round((performance.now() - startMs) / 1_000),
    replies: total.replies,
    'of them over TCP, too': total.overTcp,
    'MB fed': Math.round((2 * total.bytesFed) / 1e6),
    became: total.kinds,
    'settled after its deadline at most, ms': Math.round(total.latestMs),
    'RSS grew by, MB': Math.round(growthMb),
    failed: total.failed,
    complaints,
    failures: total.failures,
  };
}

/** Keeps one thread busy until there is nothing left to do. */
async function work({ seed, tcpEvery, takeRange, total, sample }) {
  const current = new Float64Array(new SharedArrayBuffer(8));
  const worker = new Worker(new URL('worker.mjs', import.meta.url), {
    workerData: { seed, tcpEvery, current },
    // A heap that may grow does, and looks like a leak.
    resourceLimits: { maxYoungGenerationSizeMb: 16, maxOldGenerationSizeMb: 256 },
  });
  try {
    for (let range = takeRange(); range !== undefined; range = takeRange()) {
      const said = await answerOf(worker, range, current);
      add(total, said);
      sample();
    }
  } finally {
    await worker.terminate();
  }
}

function answerOf(worker, range, current) {
  return new Promise((resolve, reject) => {
    const stop = (what) => reject(new Error(`${what}, at reply ${current[0]}`));
    const timer = setTimeout(() => stop('the client hung'), hungMs);
    worker.once('message', (said) => {
      clearTimeout(timer);
      worker.removeAllListeners('error');
      resolve(said);
    });
    worker.once('error', (error) => stop(`a thread died: ${error.stack ?? error}`));
    worker.postMessage(range);
  });
}

function add(total, { replies, overTcp, bytesFed, kinds, latestMs, failures }) {
  total.replies += replies;
  total.overTcp += overTcp;
  total.bytesFed += bytesFed;
  total.latestMs = Math.max(total.latestMs, latestMs);
  for (const [kind, count] of Object.entries(kinds)) total.kinds[kind] = (total.kinds[kind] ?? 0) + count;
  total.failed += failures.length;
  total.failures.push(...failures.slice(0, Math.max(0, failuresMax - total.failures.length)));
}

function describe(seed, { number, way, wrong, method, ending, isReused, isSound, sizes, reply, bytes }) {
  return [
    `reply ${number}, ${way}: npm run fuzz -- --replies 1 --seed ${seed} --at ${number} --tcp 1`,
    ...wrong.map((what) => `  ${what.slice(0, 1_000)}`),
    `  to a ${method}${isReused ? ' on a connection used before' : ''}, ${isSound ? 'sound' : 'spoilt'}, then: ${ending}`,
    `  ${bytes} bytes: ${reply}`,
    `  in pieces of ${sizes.join(', ')}`,
  ].join('\n');
}

async function main() {
  if (values.help) {
    process.stdout.write(help);
    return;
  }
  const result = await fuzz();
  if (values.json) {
    process.stdout.write(`${JSON.stringify(result, null, 2)}\n`);
  } else {
    const { failures, ...summary } = result;
    for (const failure of failures) process.stdout.write(`${describe(result.seed, failure)}\n\n`);
    process.stdout.write(`${JSON.stringify(summary, null, 2)}\n`);
    process.stdout.write(result.isSound ? 'Nothing was wrong.\n' : `${result.failed} replies were taken wrong.\n`);
  }
  process.exitCode = result.isSound ? 0 : 1;
}

main().catch((error) => {
  process.stderr.write(`seed ${values.seed}: ${error.stack ?? error}\n`);
  process.exitCode = 2;
});
