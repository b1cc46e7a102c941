// Whether the order of keys holds: real `pgfetch worker` processes, of which some are killed or stopped beyond their leases all the time,
// sessions that enqueue beside each other, and a receiver that writes down what arrives when. At the end every key is looked at:
//
//   inversion   a request arrived after one that was made when it had been committed already (or repeated after a later one)
//   overlap     a request arrived while another of its key was being answered
//   lost        a committed request never arrived, or has no response; one that was rolled back did
//
// A worker that dies may have the request that it was sending sent again; that one only.
//
//   npm run order -- --requests 100000 --keys 1000 --workers 8 --kills
import { chmodSync, mkdtempSync, rmSync } from 'node:fs';
import { createServer } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import pg from 'pg';
import { connectPg, install, startEmbeddedPostgres } from '../../dist/index.js';
import { optionsOf } from '../../soak/options.mjs';
import { randomOf } from '../../soak/random.mjs';
import { createWorkerProcess } from '../../soak/workers.mjs';
import { judge, shortened } from './judge.mjs';

const { values } = parseArgs({
  options: {
    requests: { type: 'string', default: '20000' },
    keys: { type: 'string', default: '200' },
    workers: { type: 'string', default: '4' },
    sessions: { type: 'string', default: '6' },
    // Workers are killed and stopped.
    kills: { type: 'boolean', default: false },
    // In milliseconds, between two of those.
    'kill-every': { type: 'string', default: '1000' },
    lease: { type: 'string', default: '3000' },
    // How long the receiver takes at most, in milliseconds.
    slowest: { type: 'string', default: '4' },
    'limit-minutes': { type: 'string', default: '30' },
    seed: { type: 'string', default: `${Math.floor(Math.random() * 2 ** 31)}` },
    json: { type: 'boolean', default: false },
  },
});
const { number, say } = optionsOf(values);
const requests = number('requests', 1);
const keys = number('keys', 1);
const seed = number('seed', 0);
const slowestMs = number('slowest', 0);
const closing = [];
const began = performance.now();
let rolledBack = 0;

for (const signal of ['SIGINT', 'SIGTERM']) process.once(signal, () => void close().finally(() => process.exit(2)));
try {
  const found = await run();
  process.stdout.write(`${values.json ? JSON.stringify(found) : JSON.stringify(found, null, 2)}\n`);
  process.exitCode = found.holds ? 0 : 1;
} catch (error) {
  process.stderr.write(`${error instanceof Error ? error.stack : error}\n`);
  process.exitCode = 2;
} finally {
  await close();
}

async function close() {
  while (closing.length > 0) await Promise.allSettled([closing.pop()()]);
}

async function run() {
  const directory = mkdtempSync(join(tmpdir(), 'pgfetch-order-'));
  chmodSync(directory, 0o755);
  closing.push(() => rmSync(directory, { recursive: true, force: true }));
  const server = await startEmbeddedPostgres({ directory, durable: false, settings: { max_connections: '100' } });
  closing.push(() => server.stop('fast'));
  const url = server.connectionString;
  const db = await connectPg({ connectionString: url, applicationName: 'pgfetch order', connectTimeoutMs: 10_000 });
  await install(db);
  await db.close();

  const receiver = await startReceiver();
  closing.push(() => receiver.close());
  const workers = Array.from({ length: number('workers', 1) }, (_, i) =>
    createWorkerProcess({
      name: `w${i}`,
      url,
      allow: 'loopback',
      leaseMs: number('lease', 1_000),
      sinceStart: () => performance.now() - began,
    }),
  );
  for (const worker of workers) worker.start();
  closing.push(() => Promise.all(workers.map((worker) => worker.stop())));

  const made = [];
  const sessions = await Promise.all(Array.from({ length: number('sessions', 1) }, () => session(url)));
  const enqueueing = Promise.all(
    sessions.map((sql, i) => enqueue(sql, randomOf(seed, `session ${i}`), receiver.url, made)),
  );
  let isOver = false;
  const disturbing = values.kills ? disturb(workers, () => isOver) : Promise.resolve({ kills: 0, pauses: 0 });
  disturbing.catch(() => {});
  await Promise.race([enqueueing, disturbing.then(() => enqueueing)]);
  say(`${made.length} requests made after ${seconds()} s`);
  const watch = await session(url);
  const limit = performance.now() + number('limit-minutes', 0.1) * 60_000;
  for (let told = 0; ; ) {
    const { rows } = await watch.query('select count(*)::int as waiting from net.http_request_queue');
    if (rows[0].waiting === 0) break;
    if (performance.now() > limit) throw new Error(`${rows[0].waiting} requests still wait`);
    if (performance.now() - told > 10_000) {
      told = performance.now();
      say(`${rows[0].waiting} wait after ${seconds()} s`);
    }
    await sleep(200);
  }
  isOver = true;
  const disturbed = await disturbing;
  await Promise.all(workers.map((worker) => worker.stop()));
  const recorded = await watch.query('select id::int, status_code from net._http_response');
  const found = judge(made, receiver.arrivals, new Map(recorded.rows.map((row) => [row.id, row.status_code])));
  return {
    seed,
    holds: Object.values(found.wrong).every((list) => list.length === 0),
    requests: made.filter(({ isCommitted }) => isCommitted).length,
    keys,
    seconds: Number(seconds()),
    ...disturbed,
    ...found,
    wrong: shortened(found.wrong),
    complaints: [...new Set(workers.flatMap(({ said, noise }) => [...said.keys(), ...noise]))],
  };
}

function seconds() {
  return ((performance.now() - began) / 1_000).toFixed(1);
}

async function session(url) {
  const sql = new pg.Client(url);
  sql.on('error', () => {});
  await sql.connect();
  closing.push(() => sql.end());
  return sql;
}

/** Transactions of one to a few requests of any keys; some stay open for a while, some are rolled back. */
async function enqueue(sql, random, url, made) {
  const text = `select net.request('GET', $1, ordering_key := $2, timeout_milliseconds := 30000)::int as id`;
  while (made.length - rolledBack < requests) {
    const own = [];
    const beganMs = performance.now();
    await sql.query('begin');
    for (
      let left = random.weighted([
        [6, 1],
        [3, 3],
        [1, 20],
      ]);
      left > 0;
      left -= 1
    ) {
      const key = `k${random.between(0, keys - 1)}`;
      const tag = made.length;
      const request = {
        tag,
        key,
        transaction: own,
        place: own.length,
        beganMs,
        committedMs: Number.POSITIVE_INFINITY,
        isCommitted: false,
      };
      made.push(request);
      own.push(request);
      const { rows } = await sql.query({ name: 'ask', text, values: [`${url}/${key}/${tag}`, key] });
      request.id = rows[0].id;
    }
    if (random.chance(0.05)) await sleep(random.between(1, 100));
    if (random.chance(0.03)) {
      await sql.query('rollback');
      rolledBack += own.length;
    } else {
      await sql.query('commit');
      const committedMs = performance.now();
      for (const request of own) Object.assign(request, { committedMs, isCommitted: true });
    }
  }
}

async function startReceiver() {
  const arrivals = [];
  const server = createServer({ keepAliveTimeout: 60_000 }, (request, response) => {
    const [, key, tag] = (request.url ?? '').split('/');
    const arrival = {
      key,
      tag: Number(tag),
      beganMs: performance.now(),
      endedMs: Number.POSITIVE_INFINITY,
      isCut: false,
    };
    arrivals.push(arrival);
    const answer = () => {
      // From here on the next one may come.
      if (arrival.endedMs === Number.POSITIVE_INFINITY) arrival.endedMs = performance.now();
      response.end();
    };
    response.once('close', () => {
      if (arrival.endedMs !== Number.POSITIVE_INFINITY) return;
      arrival.endedMs = performance.now();
      arrival.isCut = true;
    });
    const takesMs = Math.random() * slowestMs;
    if (takesMs < 1) answer();
    else setTimeout(answer, takesMs);
  });
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  return {
    arrivals,
    url: `http://127.0.0.1:${server.address().port}`,
    close: () => {
      server.closeAllConnections();
      return new Promise((resolve) => server.close(resolve));
    },
  };
}

/** Kills a worker, or stops it until it must have been taken for dead; it comes back. */
async function disturb(workers, isOver) {
  const random = randomOf(seed, 'disturbances');
  const done = { kills: 0, pauses: 0 };
  const everyMs = number('kill-every', 1);
  const back = [];
  while (!isOver()) {
    await sleep(random.between(everyMs / 2, everyMs * 1.5));
    const up = workers.filter((worker) => worker.isRunning && worker.id !== null && !worker.isAway);
    // Somebody stays.
    if (up.length < 2 || isOver()) continue;
    const worker = random.pick(up);
    if (random.chance(0.7)) {
      done.kills += 1;
      await worker.kill();
      worker.start();
    } else {
      done.pauses += 1;
      worker.isAway = true;
      worker.signal('SIGSTOP');
      back.push(
        sleep(number('lease', 1_000) * (0.5 + random.next() * 1.5)).then(() => {
          worker.signal('SIGCONT');
          worker.isAway = false;
        }),
      );
    }
  }
  await Promise.all(back);
  return done;
}
