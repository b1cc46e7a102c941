// How fast 20,000 queued GETs drain by pgfetch's worker, Graphile Worker, pg-boss, and without any queue; and how long one alone
// takes from its commit to the target. Each on a fresh database of the same server, each consumer a fresh process, one after the
// other, every round. Timed from the order to consume until the last request is answered *and* recorded as done.
import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { grouped, median, p50and99, rounded } from './numbers.mjs';
import { now, Observed } from './processes.mjs';
import { benchmark } from './stage.mjs';

const rivalsDirectory = fileURLToPath(new URL('rivals', import.meta.url));
const nodeNeeded = [22, 18];

const graphileLeft = 'select $1::int * 0 + count(*)::int as left from graphile_worker._private_jobs';
const bossLeft = `select $1::int - count(*)::int as left from pgboss.job where state = 'completed'`;

/** How each database says that all is done. */
const consumers = {
  'bare undici client': { program: 'bare' },
  pgfetch: {
    program: 'pgfetch',
    left: 'select $1::int - count(*)::int as left from net._http_response',
    kept: 'select count(*)::int as kept from net._http_response where status_code = 200',
  },
  // pgfetch records every response. A job of these does so only if its code does; both are measured.
  'Graphile Worker': { program: 'graphile-worker', left: graphileLeft },
  'Graphile Worker, response kept': {
    program: 'graphile-worker',
    left: graphileLeft,
    keep: 'keep',
    kept: 'select count(*)::int as kept from public.response where status = 200',
  },
  'pg-boss': { program: 'pg-boss', left: bossLeft },
  'pg-boss, response kept': {
    program: 'pg-boss',
    left: bossLeft,
    keep: 'keep',
    kept: `select count(*)::int as kept from pgboss.job where output ->> 'status' = '200'`,
  },
};

await benchmark(
  'rivals',
  {
    requests: { type: 'string', default: '20000' },
    rounds: { type: 'string', default: '3' },
    singles: { type: 'string', default: '50' },
  },
  async ({ number, target, database, session, until, say }) => {
    const requests = number('requests', 500);
    const rounds = number('rounds', 1);
    const singles = number('singles', 5);
    const missing = prepareRivals(say);
    if (missing !== undefined) return { measured: { skipped: missing } };
    const rates = Object.fromEntries(Object.keys(consumers).map((name) => [name, []]));
    const latencies = {};

    for (let round = 0; round < rounds; round++) {
      for (const [name, { program, left, keep = '', kept }] of Object.entries(consumers)) {
        const url = left === undefined ? '' : await database();
        const start = () =>
          new Observed(fileURLToPath(new URL(`rivals/${program}.mjs`, import.meta.url)), [url, target.url, keep]);
        const enqueuing = start();
        await enqueuing.ask('enqueue', { count: requests });
        await enqueuing.stop();

        const consumer = start();
        await consumer.ask('connect');
        const looking = left === undefined ? undefined : await session(url);
        const answered = target.count(requests);
        const began = now();
        consumer.send({ ask: 'consume', count: requests });
        await Promise.race([answered.done, consumer.failed]);
        if (looking !== undefined) {
          await until(async () => (await looking.query(left, [requests])).rows[0].left === 0);
        }
        rates[name].push(requests / ((now() - began) / 1_000));
        if (kept !== undefined) {
          const { rows } = await looking.query(kept);
          if (rows[0].kept !== requests) throw new Error(`${name} kept ${rows[0].kept} of ${requests} responses`);
        }
        if (round === 0 && keep === '') latencies[name] = await oneByOne(consumer, target, singles);
        await consumer.stop();
        await looking?.end();
        say(`round ${round + 1}: ${name} ${grouped(rates[name][round])}/s`);
      }
    }
    return report({ requests, rounds, rates, latencies });
  },
);

/** From the commit of a single job, the consumer having nothing else to do, to its request at the target. */
async function oneByOne(consumer, target, count) {
  const took = [];
  for (let i = 0; i < count; i++) {
    await sleep(100);
    const answered = target.count(1);
    const { at } = await consumer.ask('one');
    took.push(Math.max(0, (await Promise.race([answered.done, consumer.failed])) - at));
  }
  return took;
}

function report({ requests, rounds, rates, latencies }) {
  const names = Object.keys(rates);
  const queues = Object.keys(latencies).filter((name) => name !== 'bare undici client');
  return {
    measured: {
      requests,
      rounds,
      'drain (medians)': names.map((name) => ({
        consumer: name,
        'requests/s': Math.round(median(rates[name])),
        'of pgfetch': rounded(median(rates[name].map((rate, i) => rate / rates.pgfetch[i]))),
      })),
      'one alone, commit to the target, ms': queues.map((name) => ({
        consumer: name,
        ...p50and99(latencies[name], 1),
      })),
      plot: { rates },
    },
    rows: [
      ...names.map((name) => ({
        what: `draining ${grouped(requests)} GETs in a fresh process: ${name}`,
        here: `${grouped(median(rates[name]))}/s`,
      })),
      ...queues.map((name) => ({
        what: `one alone, commit to the target: ${name}`,
        here: `p50 ${p50and99(latencies[name], 1).p50} ms, p99 ${p50and99(latencies[name], 1).p99} ms`,
      })),
    ],
  };
}

/** Installs the rivals, which nothing else needs. Returns why it cannot. */
function prepareRivals(say) {
  const [major, minor] = process.versions.node.split('.').map(Number);
  if (major < nodeNeeded[0] || (major === nodeNeeded[0] && minor < nodeNeeded[1])) {
    return `Graphile Worker and pg-boss need Node.js ${nodeNeeded.join('.')}: npx -p node@24 -- npm run bench:rivals`;
  }
  if (!existsSync(`${rivalsDirectory}/node_modules/.package-lock.json`)) {
    say('installing the rivals into bench/rivals/node_modules');
    const { status } = spawnSync('npm', ['ci', '--no-audit', '--no-fund', '--prefer-offline', '--fetch-retries=0'], {
      cwd: rivalsDirectory,
      stdio: ['ignore', 'ignore', 'inherit'],
      shell: process.platform === 'win32',
    });
    if (status !== 0) return 'the rivals could not be installed: npm ci in bench/rivals';
  }
  return undefined;
}
