// From commit to a response that another session can see: from idle, back to back, and at steady rates.
import { setTimeout as sleep } from 'node:timers/promises';
import { p50and99, percentile, rounded } from './numbers.mjs';
import { benchmark } from './stage.mjs';
import { openTraffic, recordedMs } from './traffic.mjs';

await benchmark(
  'latency',
  { requests: { type: 'string', default: '300' } },
  async ({ target, session, worker, number, say }) => {
    const requests = number('requests', 20);
    const asking = await session();
    const looking = await session();
    await worker();

    /** Enqueues, commits, and looks until the response is there. */
    const once = async () => {
      const { rows } = await asking.query({
        name: 'ask',
        text: 'select net.http_get($1) as id',
        values: [`${target.url}/`],
      });
      const committed = performance.now();
      for (;;) {
        const found = await looking.query({
          name: 'look',
          text: 'select from net._http_response where id = $1',
          values: [rows[0].id],
        });
        if (found.rowCount === 1) return performance.now() - committed;
        if (performance.now() - committed > 10_000) throw new Error(`no response to request ${rows[0].id}`);
      }
    };
    const measure = async (name, pauseMs, count) => {
      const took = [];
      for (let i = 0; i < count; i++) {
        took.push(await once());
        if (pauseMs > 0) await sleep(pauseMs);
      }
      say(`${name}: p50 ${rounded(percentile(took, 0.5))} ms`);
      return took;
    };
    await measure('warm-up', 0, 50);
    const idle = await measure('idle (one every 1.2 s)', 1_200, Math.max(3, Math.round(requests / 10)));
    const backToBack = await measure('back to back', 0, requests);
    const fifty = await measure('50/s', 18, requests);
    const traffic = await openTraffic(session, `${target.url}/`);
    const { sent, seconds, asked } = await traffic({ perSecond: 1_000, goesOn: (count) => count < requests * 10 });
    const thousand = await recordedMs(looking, asked);

    return {
      measured: {
        requests,
        'idle (one every 1.2 s), ms': p50and99(idle),
        'back to back, ms': p50and99(backToBack),
        '50/s, ms': p50and99(fifty),
        'steady rate, requests/s': Math.round(sent / seconds),
        'at that rate, ms (to the recording statement)': p50and99(thousand),
        plot: Object.fromEntries(
          Object.entries({ idle, 'back to back': backToBack, '50/s': fifty, '1,000/s': thousand }).map(
            ([name, took]) => [name, quantiles(took)],
          ),
        ),
      },
      rows: [
        row('commit to visible response, idle', idle, 'p50 2 ms, p99 10 ms', 'p50 1.4 ms, p99 2.4 ms'),
        row('the same, back to back', backToBack, 'as idle', 'p50 1,001 ms'),
        row('the same, 50/s', fifty, 'as idle', 'p50 507 ms'),
        row('commit to the recording of the response, 1,000/s', thousand),
      ],
    };
  },
);

function row(what, took, wanted, pgNet) {
  const { p50, p99 } = p50and99(took, 1);
  return { what, here: `p50 ${p50} ms, p99 ${p99} ms`, wanted, pgNet };
}

/** 0 % to 99 %: the shape of the distribution. */
function quantiles(took) {
  return Array.from({ length: 100 }, (_, percent) => rounded(percentile(took, percent / 100)));
}
