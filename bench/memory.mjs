// What a worker process takes: with a long queue, under traffic for minutes or an hour (`--minutes 60`), and with large bodies.
import { setTimeout as sleep } from 'node:timers/promises';
import { grouped, median, megabytes, rounded, slope, thinned } from './numbers.mjs';
import { benchmark } from './stage.mjs';
import { openTraffic } from './traffic.mjs';

const mib = 1024 * 1024;

await benchmark(
  'memory',
  {
    queued: { type: 'string', default: '1000000' },
    minutes: { type: 'string', default: '2' },
    rate: { type: 'string', default: '500' },
    bodies: { type: 'string', default: '64' },
  },
  async (stage) => {
    const measured = {};
    const rows = [];
    const plot = {};
    await longQueue(stage, measured, rows);
    plot.traffic = await underTraffic(stage, measured, rows);
    await largeBodies(stage, measured, rows);
    return { measured: { ...measured, plot }, rows };
  },
);

/** How much a worker that serves a queue of this length takes at most, from the commit on until all is done. */
async function longQueue({ target, sql, number, empty, recorded, ownWorker, say }, measured, rows) {
  const queued = number('queued', 5_000);
  const worker = await ownWorker();
  const idle = await worker.usage();
  const answered = target.count(queued);
  await sql.query('select count(net.http_get($1, timeout_milliseconds := 60000)) from generate_series(1, $2::int)', [
    `${target.url}/`,
    queued,
  ]);
  await answered.done;
  await recorded(queued);
  const { rssBytesMax } = await worker.usage();
  await worker.stop();
  await empty();
  measured['RSS, idle, MB'] = megabytes(idle.rssBytes);
  measured[`RSS at most, draining ${grouped(queued)} queued, MB`] = megabytes(rssBytesMax);
  say(`draining ${grouped(queued)}: at most ${megabytes(rssBytesMax)} MB, idle ${megabytes(idle.rssBytes)} MB`);
  rows.push({
    what: `memory of the worker, ${grouped(queued)} queued`,
    here: `${megabytes(rssBytesMax)} MB at most (idle: ${megabytes(idle.rssBytes)} MB)`,
    wanted: '150 MB',
    pgNet: '300 MB at 20,000',
  });
}

/** One sample a second. Growth is what the last quarter takes more than the second one, when what is loaded once has been loaded. */
async function underTraffic({ target, session, number, smoke, empty, ownWorker, say }, measured, rows) {
  const minutes = number('minutes', 0.05);
  const perSecond = number('rate', 200);
  const worker = await ownWorker();
  const traffic = await openTraffic(session, `${target.url}/`);
  const samples = [];
  let isOver = false;
  const began = performance.now();
  const sampled = (async () => {
    while (!isOver) {
      const { rssBytes } = await worker.usage();
      samples.push([(performance.now() - began) / 60_000, rssBytes / 1e6]);
      await sleep(smoke ? 250 : 1_000);
    }
  })();
  const { sent } = await traffic({ perSecond, goesOn: (count) => count < minutes * 60 * perSecond });
  isOver = true;
  await sampled;
  await worker.stop();
  await empty();
  const quarter = samples.length / 4;
  const of = (from, to) =>
    median(samples.slice(Math.floor(from * quarter), Math.ceil(to * quarter)).map(([, rss]) => rss));
  const growth = rounded(of(3, 4) - of(1, 2), 1);
  // Of a short run a slope says nothing.
  const perHour = minutes < 10 ? undefined : rounded(slope(samples.slice(samples.length >> 1)) * 60, 1);
  const largest = Math.max(...samples.map(([, rss]) => rss));
  const series = thinned(samples, 20).map(([minute, rss]) => ({ minute: rounded(minute), 'RSS, MB': Math.round(rss) }));
  measured[`RSS under ${perSecond}/s`] = series;
  measured['RSS, last quarter to the second, MB (medians)'] = growth;
  if (perHour !== undefined) measured['RSS, slope of the second half, MB/hour'] = perHour;
  say(`under ${perSecond}/s for ${minutes} min: at most ${Math.round(largest)} MB, ${growth} MB more at the end`);
  rows.push({
    what: `memory under ${perSecond}/s for ${minutes} min (${grouped(sent)} requests)`,
    here: `${Math.round(largest)} MB at most, ${growth} MB more at the end${perHour === undefined ? '' : `, ${perHour} MB/hour`}`,
    wanted: 'flat',
  });
  return thinned(samples, 240).map(([minute, rss]) => ({ minute: rounded(minute, 3), rss: rounded(rss, 1) }));
}

/** So many responses of 8 MiB, the most that is kept, at the same time. */
async function largeBodies({ target, sql, number, empty, recorded, ownWorker, say }, measured, rows) {
  const bodies = number('bodies', 4);
  const worker = await ownWorker();
  await sql.query('select count(net.http_get($1, timeout_milliseconds := 600000)) from generate_series(1, $2::int)', [
    `${target.url}/bytes/${8 * mib}`,
    bodies,
  ]);
  await recorded(bodies);
  const { rssBytesMax } = await worker.usage();
  const { rows: found } = await sql.query(
    'select count(*)::int from net._http_response where octet_length(content) = $1 and status_code = 200',
    [8 * mib],
  );
  if (found[0].count !== bodies) throw new Error(`${found[0].count} of ${bodies} bodies were kept whole`);
  await worker.stop();
  await empty();
  measured[`RSS at most, ${bodies} bodies of 8 MiB at once, MB`] = megabytes(rssBytesMax);
  say(`${bodies} bodies of 8 MiB: at most ${megabytes(rssBytesMax)} MB`);
  rows.push({
    what: `memory with ${bodies} responses of 8 MiB at once (${Math.round((bodies * 8 * mib) / 1e6)} MB)`,
    here: `${grouped(megabytes(rssBytesMax))} MB at most`,
    wanted: 'bounded',
  });
}
