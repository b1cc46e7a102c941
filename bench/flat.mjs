// Whether the cost of a request stays what it is: in a deep queue, while a transaction holds the xmin horizon (no dead row can be
// vacuumed), and while a million old responses expire beside live traffic.
import { setTimeout as sleep } from 'node:timers/promises';
import { grouped, median, percentile, rounded } from './numbers.mjs';
import { now } from './processes.mjs';
import { benchmark } from './stage.mjs';
import { openTraffic } from './traffic.mjs';

const enqueueStatement =
  'select count(net.http_get($1, timeout_milliseconds := 60000)) from generate_series(1, $2::int)';

await benchmark(
  'flat',
  {
    queued: { type: 'string', default: '1000000' },
    drained: { type: 'string', default: '20000' },
    held: { type: 'string', default: '1000000' },
    expiring: { type: 'string', default: '1000000' },
    rate: { type: 'string', default: '500' },
    rounds: { type: 'string', default: '3' },
    only: { type: 'string', default: 'depth,horizon,expiry' },
  },
  async (stage) => {
    const parts = `${stage.options.only}`.split(',');
    const measured = {};
    const rows = [];
    const plot = {};
    if (parts.includes('depth')) await depth(stage, measured, rows);
    if (parts.includes('horizon')) plot.horizon = await horizon(stage, measured, rows);
    if (parts.includes('expiry')) await expiry(stage, measured, rows);
    return { measured: { ...measured, plot }, rows };
  },
);

/** The same number of requests out of a shallow and out of a deep queue, whose depth is kept: for what is answered, as many come. */
async function depth(stage, measured, rows) {
  const { target, sql, session, number, empty, ownWorker, say } = stage;
  const rounds = number('rounds', 1);
  const portion = 500;
  const drained = Math.ceil(number('drained', 2_000) / (2 * portion)) * 2 * portion;
  const depths = { shallow: 1_000, deep: number('queued', 5_000) };
  const worker = await ownWorker();
  const feeding = await session();
  const seconds = { shallow: [], deep: [] };
  const cpu = { shallow: [], deep: [] };
  const warmUp = drained / 2;
  for (let round = 0; round < rounds; round++) {
    for (const state of ['shallow', 'deep']) {
      await empty();
      let fed = Promise.resolve();
      let before;
      const answered = target.count(warmUp + drained, portion, (count) => {
        if (count === warmUp) before = worker.usage();
        fed = fed.then(() => feeding.query(enqueueStatement, [`${target.url}/`, portion]));
      });
      await sql.query(enqueueStatement, [`${target.url}/`, depths[state]]);
      await answered.done;
      const after = await worker.usage();
      const at = (count) => answered.samples.find((sample) => sample.answered === count).at;
      seconds[state].push((at(warmUp + drained) - at(warmUp)) / 1_000);
      cpu[state].push((after.cpuMicroseconds - (await before).cpuMicroseconds) / drained);
      await fed;
      say(`${grouped(depths[state])} queued: ${grouped(drained / seconds[state][round])}/s`);
    }
  }
  await empty();
  await worker.stop();
  const ratio = rounded(median(seconds.deep.map((deep, i) => deep / seconds.shallow[i])));
  measured[`requests/s with ${grouped(depths.shallow)} queued (median)`] = Math.round(
    drained / median(seconds.shallow),
  );
  measured[`requests/s with ${grouped(depths.deep)} queued (median)`] = Math.round(drained / median(seconds.deep));
  measured['time per request, deep / shallow (median of rounds)'] = ratio;
  measured['worker CPU per request, deep / shallow (median of rounds)'] = rounded(
    median(cpu.deep.map((deep, i) => deep / cpu.shallow[i])),
  );
  rows.push({
    what: `time per request with ${grouped(depths.deep)} queued, to that with ${grouped(depths.shallow)}`,
    here: `${ratio}`,
    wanted: 'at most 1.2',
  });
}

/** A queue is drained while a transaction that began before holds the horizon, and an id below all of its rows. */
async function horizon(stage, measured, rows) {
  const { target, sql, session, number, empty, recorded, ownWorker, say } = stage;
  const held = number('held', 5_000);
  const portion = held / 20;
  const worker = await ownWorker();
  // What a worker is slow at first for is not what is looked at.
  await sql.query(enqueueStatement, [`${target.url}/`, portion]);
  await recorded(portion);
  await empty();
  const holding = await session();
  await holding.query('begin isolation level repeatable read');
  await holding.query('select pg_current_xact_id()');
  const answered = target.count(held, portion);
  await sql.query('begin');
  await sql.query(enqueueStatement, [`${target.url}/`, held]);
  await sql.query('commit');
  const committed = now();
  await answered.done;
  await recorded(held);
  await holding.query('rollback');
  await empty();
  await worker.stop();
  const rates = answered.samples.map(({ answered: count, at }, i) => ({
    answered: count,
    'requests/s': Math.round((portion / (at - (answered.samples[i - 1]?.at ?? committed))) * 1_000),
  }));
  // Equal portions: the mean rate is the harmonic one.
  const rate = (some) => some.length / some.reduce((sum, sample) => sum + 1 / sample['requests/s'], 0);
  const ratio = rounded(rate(rates.slice(-2)) / rate(rates.slice(0, 2)));
  say(`horizon held: ${rates.map((sample) => grouped(sample['requests/s'])).join(', ')}/s`);
  measured[`requests/s while the horizon is held`] = rates;
  measured['the last tenth to the first, horizon held'] = ratio;
  rows.push({
    what: `drain of ${grouped(held)} with the xmin horizon held, the last ${grouped(held / 10)} to the first`,
    here: `${ratio}`,
    wanted: '0.8',
  });
  return rates;
}

/** Live traffic alone, and the same while old responses expire. */
async function expiry(stage, measured, rows) {
  const { target, sql, session, number, empty, ownWorker, smoke, say } = stage;
  const expiring = number('expiring', 5_000);
  const perSecond = number('rate', 200);
  const aloneSeconds = smoke ? 1 : 20;
  const traffic = await openTraffic(session, `${target.url}/`);
  const looking = await session();

  // The first seconds of a worker, in which its code is compiled, count for neither.
  const watchFrom = (smoke ? 0.2 : 3) * perSecond;
  const alone = async () => {
    const worker = await ownWorker();
    const last = watchFrom + perSecond * aloneSeconds;
    const { visibleMs } = await traffic({ perSecond, watchFrom, goesOn: (sent) => sent < last });
    await worker.stop();
    await empty();
    return visibleMs;
  };
  const before = await alone();

  // Six hours is the time that responses are kept.
  await sql.query(
    `insert into net._http_response (id, status_code, content_type, headers, content, timed_out, created)
     select -i, 200, 'text/plain', '{"content-type": "text/plain"}', 'ok', false, now() - interval '8 hours' + i * interval '1 hour' / $1::int
     from generate_series(1, $1::int) i`,
    [expiring],
  );
  // A worker that starts meets them as one does that was away for long.
  const next = await ownWorker();
  const began = performance.now();
  let left = true;
  const looks = (async () => {
    while (left) {
      const { rows: found } = await looking.query(
        `select exists (select from net._http_response where created < now() - interval '6 hours') as left`,
      );
      left = found[0].left;
      await sleep(smoke ? 100 : 500);
    }
  })();
  const beside = await traffic({ perSecond, watchFrom, goesOn: (sent) => left || sent < 2 * watchFrom });
  await looks;
  const seconds = (performance.now() - began) / 1_000;
  await next.stop();
  await empty();
  const after = await alone();
  const p99 = {
    alone: (percentile(before, 0.99) + percentile(after, 0.99)) / 2,
    beside: percentile(beside.visibleMs, 0.99),
  };
  const ratio = rounded(p99.beside / p99.alone);
  say(`expiry: p99 ${rounded(p99.beside)} ms beside it, ${rounded(p99.alone)} ms alone`);
  measured['responses expired a second, beside traffic'] = Math.round(expiring / seconds);
  measured[`commit to visible response at ${perSecond}/s, p99 ms`] = {
    alone: rounded(p99.alone),
    'beside expiry': rounded(p99.beside),
    requests: beside.visibleMs.length,
  };
  measured['p99 beside expiry / alone'] = ratio;
  rows.push({
    what: `p99 at ${perSecond}/s beside the expiry of ${grouped(expiring)} responses, to that without`,
    here: `${ratio} (${rounded(p99.beside, 1)} ms to ${rounded(p99.alone, 1)} ms)`,
    wanted: 'at most 1.2',
  });
}
