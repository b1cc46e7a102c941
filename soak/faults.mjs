// What goes wrong in a run: the kinds of faults, a plan of them drawn from the seed, and how to tell that all has recovered.
import { setTimeout as sleep } from 'node:timers/promises';

const recoveryMsMax = 60_000;
const lookMs = 50;
/** How long after everything has recovered there may be something on its way that the fault has put there. */
const aftermathMs = 500;

/**
 * Every kind: how often it is drawn, what it hits (`worker`, `host`: a worker's network, `server`, `receiver`, `enqueuers`), whose
 * being sent twice and whose failing it explains, whether the workers that it hits must connect anew, and what it does.
 * `amount` is drawn from the given range, in milliseconds; `leases`, in thousandths of a lease.
 */
const kinds = {
  kill: {
    weight: 14,
    hits: 'worker',
    amount: [0, 1_500],
    resends: 'everything',
    reconnects: true,
    async run({ worker, amount }) {
      await worker.kill();
      await sleep(amount);
      worker.start();
    },
  },
  // Past its lease, with margin: the others take what it held.
  'stop past the lease': {
    weight: 10,
    hits: 'worker',
    leases: [1_300, 3_500],
    resends: 'everything',
    // What it sees first when it goes on is that the time is over.
    fails: 'via proxy',
    async run({ worker, amount }) {
      worker.signal('SIGSTOP');
      await sleep(amount);
      worker.signal('SIGCONT');
    },
  },
  'stop within the lease': {
    weight: 3,
    hits: 'worker',
    leases: [50, 300],
    async run({ worker, amount }) {
      worker.signal('SIGSTOP');
      await sleep(amount);
      worker.signal('SIGCONT');
    },
  },
  // In order: nothing may be sent twice.
  'worker stopped and started': {
    weight: 4,
    hits: 'worker',
    amount: [0, 500],
    reconnects: true,
    async run({ worker, amount }) {
      const { code, signal } = await worker.stop();
      if (code !== 0) throw new Error(`${worker.name} ended with ${code ?? signal} when it was told to stop`);
      await sleep(amount);
      worker.start();
    },
  },
  'worker_restart()': {
    weight: 3,
    hits: 'server',
    reconnects: true,
    async run({ stage }) {
      await stage.sql('select net.worker_restart()');
    },
  },
  'server restarted (fast)': {
    weight: 7,
    hits: 'server',
    resends: 'everything',
    reconnects: true,
    run: ({ stage }) => stage.server.restart('fast'),
  },
  'server crashed (immediate)': {
    weight: 9,
    hits: 'server',
    resends: 'everything',
    reconnects: true,
    run: ({ stage }) => stage.server.restart('immediate'),
  },
  'database connection reset': {
    weight: 12,
    hits: 'worker',
    resends: 'everything',
    reconnects: true,
    async run({ stage, target }) {
      stage.workerProxies[target].reset();
    },
  },
  'database connection silent': {
    weight: 9,
    hits: 'worker',
    leases: [200, 3_000],
    resends: 'everything',
    run: ({ stage, target, amount }) => during(stage.workerProxies[target], 'silence', amount),
  },
  'database connection half open': {
    weight: 7,
    hits: 'worker',
    amount: [300, 3_000],
    resends: 'everything',
    reconnects: true,
    run: ({ stage, target, amount }) => during(stage.workerProxies[target], 'halfOpen', amount),
  },
  'database connection slow': {
    weight: 4,
    hits: 'worker',
    amount: [500, 2_000],
    run: ({ stage, target, amount }) => during(stage.workerProxies[target], 'delay', amount, 2 + (amount % 13)),
  },
  'receiver reset': {
    weight: 8,
    hits: 'receiver',
    resends: 'via proxy',
    fails: 'via proxy',
    async run({ stage }) {
      stage.receiverProxy.reset();
    },
  },
  'receiver silent': {
    weight: 5,
    hits: 'receiver',
    amount: [500, 4_500],
    resends: 'via proxy',
    fails: 'via proxy',
    run: ({ stage, amount }) => during(stage.receiverProxy, 'silence', amount),
  },
  'receiver half open': {
    weight: 3,
    hits: 'receiver',
    amount: [500, 4_500],
    resends: 'via proxy',
    fails: 'via proxy',
    run: ({ stage, amount }) => during(stage.receiverProxy, 'halfOpen', amount),
  },
  'receiver slow': {
    weight: 4,
    hits: 'receiver',
    amount: [500, 2_000],
    run: ({ stage, amount }) => during(stage.receiverProxy, 'delay', amount, 5 + (amount % 95)),
  },
  'enqueuers reset': {
    weight: 6,
    hits: 'enqueuers',
    async run({ stage }) {
      stage.enqueuerProxy.reset();
    },
  },
  'enqueuers half open': {
    weight: 3,
    hits: 'enqueuers',
    amount: [100, 1_500],
    run: ({ stage, amount }) => during(stage.enqueuerProxy, 'halfOpen', amount),
  },
  unplugged: {
    weight: 8,
    hits: 'host',
    leases: [300, 4_000],
    resends: 'everything',
    fails: 'everything',
    async run({ host, amount }) {
      host.unplug();
      await sleep(amount);
      host.plugIn();
    },
  },
  'delay and loss': {
    weight: 5,
    hits: 'host',
    needsNetem: true,
    amount: [500, 3_000],
    resends: 'everything',
    fails: 'everything',
    async run({ host, amount }) {
      host.disturb('delay', '20ms', '10ms', 'loss', '3%');
      await sleep(amount);
      host.calm();
    },
  },
};

export const kindNames = Object.keys(kinds);

async function during(proxy, what, ms, argument) {
  proxy[what](argument);
  await sleep(ms);
  proxy.heal();
}

/**
 * Draws the faults, in rounds: one after a pause, sometimes two at once that hit different things.
 *
 * @param {object} random
 * @param {{ faults: number, workers: number, leaseMs: number, hasHosts: boolean, hasNetem: boolean, only?: readonly string[] }} options
 */
export function drawPlan(random, { faults, workers, leaseMs, hasHosts, hasNetem, only }) {
  const possible = Object.entries(kinds)
    .filter(([kind]) => only === undefined || only.includes(kind))
    .filter(([, { hits, needsNetem }]) => (hits !== 'host' || hasHosts) && (!needsNetem || hasNetem))
    .map(([kind, { weight }]) => [weight, kind]);
  const draw = () => {
    const kind = random.weighted(possible);
    const { hits, amount = [0, 0], leases } = kinds[kind];
    const [least, most] = leases?.map((each) => Math.round((each * leaseMs) / 1_000)) ?? amount;
    const isOfWorker = hits === 'worker' || hits === 'host';
    return { kind, target: isOfWorker ? random.between(0, workers - 1) : hits, amount: random.between(least, most) };
  };
  const rounds = [];
  for (let drawn = 0; drawn < faults; ) {
    const round = { pauseMs: random.between(aftermathMs, 2_500), faults: [draw()] };
    const second = draw();
    if (faults - drawn > 1 && random.chance(0.15) && second.target !== round.faults[0].target) {
      round.faults.push({ ...second, afterMs: random.between(0, 500) });
    }
    rounds.push(round);
    drawn += round.faults.length;
  }
  return rounds;
}

/**
 * Lets the faults of a round happen, waits until everything has recovered, and returns what they may explain.
 *
 * @returns {Promise<import('./ledger.mjs').Fault[]>}
 */
export async function happen(stage, round) {
  const faults = await Promise.all(
    round.faults.map(async ({ kind, target, amount, afterMs = 0 }) => {
      await sleep(afterMs);
      const { run, resends = 'nothing', fails = 'nothing', reconnects = false, hits } = kinds[kind];
      const worker = typeof target === 'number' ? stage.workers[target] : undefined;
      const host = typeof target === 'number' ? stage.network?.hosts[target] : undefined;
      const from = stage.sinceStart();
      await run({ stage, target, worker, host, amount });
      const hit = worker !== undefined ? [worker] : hits === 'server' ? stage.workers : [];
      return { kind, target: worker?.name ?? hits, from, until: 0, resends, fails, hit: reconnects ? hit : [] };
    }),
  );
  await recovered(stage, faults);
  const until = stage.sinceStart() + aftermathMs;
  return faults.map(({ hit: _, ...fault }) => ({ ...fault, until }));
}

/**
 * Whether a worker serves: its process runs, its registration stands with a living session, and its lease, unless it holds
 * nothing and needs none.
 */
const servingStatement = `
  select w.id::text as id
  from net.worker w
  where net._session_lives(w.pid, w.backend_start, w.lease_until)
    and (
      w.lease_until > clock_timestamp()
      or not exists (select from net.http_request_queue q where q.claimed_by = w.id)
    )`;

async function recovered(stage, faults) {
  const began = stage.sinceStart();
  let missing = [];
  while (stage.sinceStart() - began < recoveryMsMax) {
    let serving;
    try {
      serving = new Set((await stage.sql(servingStatement)).map(({ id }) => id));
    } catch {
      serving = new Set();
    }
    missing = stage.workers.filter(
      (worker) =>
        !serving.has(worker.id) || faults.some(({ hit, from }) => hit.includes(worker) && worker.servingSince < from),
    );
    if (missing.length === 0) return;
    await sleep(lookMs);
  }
  const kindsOf = faults.map(({ kind, target }) => `${kind} (${target})`).join(' and ');
  stage.complain(`${missing.map(({ name }) => name).join(', ')} did not serve again after ${kindsOf}`);
}
