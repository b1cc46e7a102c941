// The ledger test: enqueues while workers are killed and paused, the server crashes, and connections are cut; then compares
// what was committed with what arrived and what was recorded. See CONTRIBUTING.md.
import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import pg from 'pg';
import { enqueue, Pace } from './enqueuers.mjs';
import { drawPlan, happen, kindNames } from './faults.mjs';
import { balance, Ledger } from './ledger.mjs';
import { optionsOf } from './options.mjs';
import { feelPulse, stall } from './pulse.mjs';
import { randomOf } from './random.mjs';
import { openStage } from './stage.mjs';

const help = `Usage: npm run soak -- [options]

  --requests <n>     how many to enqueue (default 1000000)
  --faults <n>       how many things go wrong meanwhile (default 200)
  --workers <n>      worker processes (default 3); one alone has nobody to take over from it
  --lease <ms>       their lease (default 1000)
  --seed <n>         repeats a run's faults and numbers (default: a new one, printed)
  --minutes <n>      begins no further faults and requests after that time (default 60)
  --only <kind>      only such faults; repeatable: ${kindNames.join(', ')}
  --no-namespaces    workers on this machine's own network even where they could have one each (root, Linux, iproute2)
  --json             prints the result as JSON alone
`;

const rateMax = 12_000;
const rateMin = 50;
/** Asked and not yet done: with more than this the enqueuers wait. */
const backlogMax = 15_000;
const firstRoundMsGuess = 3_000;
const drainMsMax = 120_000;
const progressMs = 5_000;
const leftMax = 1_000;

const { values } = parseArgs({
  allowNegative: true,
  options: {
    requests: { type: 'string', default: '1000000' },
    faults: { type: 'string', default: '200' },
    workers: { type: 'string', default: '3' },
    lease: { type: 'string', default: '1000' },
    seed: { type: 'string', default: String(Math.floor(Math.random() * 2 ** 31)) },
    minutes: { type: 'string', default: '60' },
    only: { type: 'string', multiple: true },
    namespaces: { type: 'boolean', default: true },
    json: { type: 'boolean', default: false },
    help: { type: 'boolean', default: false },
  },
});

const { number, say } = optionsOf(values);

async function soak() {
  const requests = number('requests', 1);
  const faults = number('faults', 0);
  const seed = number('seed', 0);
  const leaseMs = number('lease', 1_000);
  const minutes = number('minutes', 0.1);
  for (const kind of values.only ?? []) {
    if (!kindNames.includes(kind)) throw new Error(`--only ${kind}: there are ${kindNames.join(', ')}`);
  }
  say(`seed ${seed}: to repeat, npm run soak -- --requests ${requests} --faults ${faults} --seed ${seed}`);
  const complaints = [];
  const complain = (text) => {
    complaints.push(text);
    say(`!! ${text}`);
  };
  // Those that roll back use numbers, too.
  const ledger = new Ledger(Math.ceil(requests * 1.5) + 20_000);
  const stage = await openStage({
    seed,
    workers: number('workers', 1),
    leaseMs,
    capacity: ledger.capacity,
    wantsNamespaces: values.namespaces,
    complain,
  });
  const interrupted = new AbortController();
  const interrupt = () => interrupted.abort(new Error('interrupted'));
  process.once('SIGINT', interrupt).once('SIGTERM', interrupt);
  try {
    if (stage.whyNotHosts !== undefined) say(`no network of its own for each worker: ${stage.whyNotHosts}`);
    else if (stage.whyNotNetem !== undefined) say(`no delay and loss by tc netem: ${stage.whyNotNetem}`);
    const plan = drawPlan(randomOf(seed, 'faults'), {
      faults,
      workers: stage.workers.length,
      leaseMs,
      hasHosts: stage.network !== undefined,
      hasNetem: stage.whyNotNetem === undefined,
      only: values.only,
    });
    const course = await Promise.race([
      run({ stage, ledger, plan, requests, faults, seed, leaseMs, untilMs: minutes * 60_000 }),
      new Promise((_, reject) => {
        interrupted.signal.addEventListener('abort', () => reject(interrupted.signal.reason));
      }),
    ]);
    const seconds = stage.sinceStart() / 1_000;
    await endWorkers(stage);
    await readBooks(stage, ledger);
    const result = balance(ledger);
    const happened = ledger.faults.filter(({ kind }) => kind !== stall);
    for (const worker of stage.workers) {
      if (worker.noise.length > 0) complain(`${worker.name} wrote: ${worker.noise.join(' | ').slice(0, 500)}`);
    }
    return {
      seed,
      node: process.version,
      balances: result.balances && complaints.length === 0,
      seconds: Math.round(seconds),
      'requests/s': Math.round(result.totals.arrived / seconds),
      ...course,
      ...result.totals,
      wrong: result.wrong,
      complaints,
      'faults that happened': counted(happened.map(({ kind }) => kind)),
      'how often the machine stood still': ledger.faults.length - happened.length,
      'sent twice, by the fault that explains it': result.explained.resent,
      'failed, by the fault that explains it': result.explained.failed,
      'share of the time with no fault and nothing to recover from': calmShare(ledger.faults, stage.sinceStart()),
      'leases lost without a fault': fencedWithoutFault(stage.workers, ledger.faults),
      ...result.times,
      slowest: result.slowest,
      namespaces: stage.whyNotHosts ?? 'one for each worker',
      netem: stage.whyNotNetem ?? 'used',
      'what the workers said': saidBy(stage.workers),
      'memory of this process, MB': Math.round(process.memoryUsage().rss / 1e6),
    };
  } finally {
    process.off('SIGINT', interrupt).off('SIGTERM', interrupt);
    await stage.close();
  }
}

/** The course of a run, until the queue is empty. */
async function run({ stage, ledger, plan, requests, faults, seed, leaseMs, untilMs }) {
  const { sinceStart } = stage;
  const pulse = feelPulse({
    sql: stage.openMonitor(),
    sinceStart,
    leaseMs,
    onStall: (fault) => ledger.faults.push(fault),
  });
  const pace = new Pace();
  let faultsHappened = 0;
  let roundMs = firstRoundMsGuess;
  let left = 0;
  let current = '';

  const regulate = async () => {
    while (!pace.isOver) {
      const rows = await stage.sql('select count(*)::int as rows from net.http_request_queue').catch(() => undefined);
      left = rows?.[0].rows ?? left;
      const toAsk = requests - ledger.acknowledged;
      if (toAsk <= 0 || sinceStart() > untilMs || ledger.isFull) pace.end();
      // So that the last request is asked for when the last fault has passed.
      const secondsLeft = ((faults - faultsHappened) * roundMs) / 1_000;
      const even = secondsLeft > 0 ? toAsk / secondsLeft : rateMax;
      pace.rate = left > backlogMax ? rateMin : Math.min(Math.max(even, rateMin), rateMax);
      await sleep(100);
    }
  };
  const progress = setInterval(() => {
    const seconds = (sinceStart() / 1_000).toFixed(0).padStart(5);
    say(
      `${seconds} s  acknowledged ${ledger.acknowledged}  arrived ${stage.receiver.distinct}  in the queue ${left}  ` +
        `faults ${faultsHappened}/${faults}  ${current}`,
    );
  }, progressMs);
  try {
    const sessions = [1, 1, 1, 1, 200, 1_500].map((rowsMax, i) =>
      enqueue({
        url: i % 2 === 0 ? stage.directUrl : stage.proxiedUrl,
        ledger,
        pace,
        random: randomOf(seed, `enqueuer ${i}`),
        rowsMax,
        sinceStart,
      }).catch((error) => {
        stage.complain(`an enqueuer was refused: ${error.message}`);
      }),
    );
    const regulated = regulate();
    const beganMs = sinceStart();
    for (const [i, round] of plan.entries()) {
      if (sinceStart() > untilMs) break;
      current = round.faults.map(({ kind, target }) => `${kind} (${target})`).join(' + ');
      await sleep(round.pauseMs);
      ledger.faults.push(...(await happen(stage, round)));
      faultsHappened += round.faults.length;
      roundMs = (sinceStart() - beganMs) / faultsHappened;
      if (i === plan.length - 1) current = '';
    }
    await regulated;
    await Promise.all(sessions);
    await drained(stage);
    await pulse.end();
  } finally {
    pace.end();
    clearInterval(progress);
  }
  return { 'ended early': sinceStart() > untilMs };
}

async function drained(stage) {
  const began = stage.sinceStart();
  let rows = -1;
  while (stage.sinceStart() - began < drainMsMax) {
    const answer = await stage.sql('select count(*)::int as rows from net.http_request_queue').catch(() => undefined);
    rows = answer?.[0].rows ?? rows;
    if (rows === 0) return;
    await sleep(50);
  }
  stage.complain(`${rows} requests are still in the queue ${drainMsMax / 1_000} s after the last fault`);
}

async function endWorkers(stage) {
  for (const worker of stage.workers) {
    const { code, signal } = await worker.stop();
    if (code !== 0) stage.complain(`${worker.name} ended with ${code ?? signal} when it was told to stop`);
  }
}

/** Fills the ledger from the receiver and the database. */
async function readBooks(stage, ledger) {
  const { counts, firstAt, repeats, wrong } = await stage.receiver.report();
  Object.assign(ledger, { counts, firstAt, repeats, sentWrongly: wrong });
  const client = new pg.Client(stage.directUrl);
  await client.connect();
  try {
    await eachRow(client, 'select a.n from soak.asked a', ({ n }) => {
      ledger.committed[n] += 1;
    });
    const responses = `
      select a.n, r.status_code, r.content, extract(epoch from r.created)::float8 * 1000 as created_ms
      from soak.asked a join net._http_response r on r.id = a.id`;
    await eachRow(client, responses, ({ n, status_code, content, created_ms }) => {
      ledger.noteRow(n, status_code, content, Math.max(0, created_ms - stage.epochMs));
    });
    const ids = async (text) => (await client.query({ text, values: [leftMax], rowMode: 'array' })).rows.flat();
    ledger.unaskedIds = await ids(`
      select r.id from net._http_response r where not exists (select from soak.asked a where a.id = r.id) limit $1`);
    ledger.leftIds = await ids('select q.id from net.http_request_queue q limit $1');
  } finally {
    await client.end();
  }
}

/** Rows of a result that need not fit into memory. */
async function eachRow(client, text, take) {
  await client.query('begin');
  await client.query(`declare books no scroll cursor for ${text}`);
  for (;;) {
    const { rows } = await client.query('fetch 20000 from books');
    if (rows.length === 0) break;
    for (const row of rows) take(row);
  }
  await client.query('commit');
}

function counted(words) {
  const counts = {};
  for (const word of words) counts[word] = (counts[word] ?? 0) + 1;
  return counts;
}

/** How much of a run the faults cannot explain anything in: the more, the more the classification says. */
function calmShare(faults, totalMs) {
  let covered = 0;
  let coveredUntil = 0;
  for (const { from, until } of faults.toSorted((a, b) => a.from - b.from)) {
    covered += Math.max(0, until - Math.max(from, coveredUntil));
    coveredUntil = Math.max(coveredUntil, until);
  }
  return Number((1 - covered / totalMs).toFixed(2));
}

/** A lease that ran out with no fault about: the machine was too busy for it. What it makes be sent twice is not explained. */
function fencedWithoutFault(workers, faults) {
  const isCalm = (at) =>
    !faults.some(({ from, until, resends }) => resends === 'everything' && from <= at && at <= until);
  return workers.flatMap(({ fencedAt }) => fencedAt.filter(isCalm)).length;
}

function saidBy(workers) {
  const all = {};
  for (const { said } of workers) for (const [text, times] of said) all[text] = (all[text] ?? 0) + times;
  return all;
}

function print(result) {
  process.stdout.write(`\n${result.balances ? 'The ledger balances.' : 'THE LEDGER DOES NOT BALANCE.'}\n`);
  for (const [key, value] of Object.entries(result)) {
    if (typeof value !== 'object' || value === null) process.stdout.write(`  ${key.padEnd(62)} ${value}\n`);
    else if (Object.keys(value).length > 0) {
      process.stdout.write(`  ${key}\n`);
      for (const [name, inner] of Object.entries(value)) {
        process.stdout.write(`    ${name.padEnd(60)} ${typeof inner === 'object' ? JSON.stringify(inner) : inner}\n`);
      }
    }
  }
}

if (values.help) process.stdout.write(help);
else {
  try {
    const result = await soak();
    if (values.json) process.stdout.write(`${JSON.stringify(result)}\n`);
    else print(result);
    process.exitCode = result.balances ? 0 : 1;
  } catch (error) {
    process.stderr.write(`${error.message}\n`);
    // What was under way when it broke off waits for processes that are gone.
    process.exit(2);
  }
}
