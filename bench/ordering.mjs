// How fast a queue drains whose requests belong to ordering keys, each key's one after another, beside one of requests without a key
// in the same run. Timed as bench/drain.mjs is.
import { grouped, median, rounded } from './numbers.mjs';
import { benchmark } from './stage.mjs';

const kinds = {
  plain: `select count(net.request('GET', $1, timeout_milliseconds := 30000)) from generate_series(1, $2::int) n where $3::int > 0`,
  ordered: `select count(net.request('GET', $1, timeout_milliseconds := 30000, ordering_key := 'key ' || n % $3::int)) from generate_series(1, $2::int) n`,
};

await benchmark(
  'ordering',
  {
    requests: { type: 'string', default: '30000' },
    keys: { type: 'string', default: '1000' },
    rounds: { type: 'string', default: '3' },
  },
  async ({ target, sql, worker, number, empty, recorded, say }) => {
    const requests = number('requests', 2_000);
    const keys = number('keys', 100);
    const rounds = number('rounds', 1);
    const rates = { plain: [], ordered: [] };
    const cpu = { plain: [], ordered: [] };
    const started = await worker();
    for (let round = 0; round < rounds; round++) {
      for (const [kind, text] of Object.entries(kinds)) {
        await empty();
        await sql.query('begin');
        await sql.query(text, [`${target.url}/`, requests, keys]);
        const answered = target.count(requests);
        const before = await started?.usage();
        const began = performance.now();
        await sql.query('commit');
        await answered.done;
        await recorded(requests);
        rates[kind].push((requests * 1_000) / (performance.now() - began));
        const after = await started?.usage();
        if (after !== undefined) cpu[kind].push((after.cpuMicroseconds - before.cpuMicroseconds) / requests);
      }
      say(
        `round ${round + 1}: plain ${grouped(rates.plain[round])}/s, by ${grouped(keys)} keys ${grouped(rates.ordered[round])}/s`,
      );
    }
    const ratio = rounded(median(rates.ordered.map((rate, i) => rate / rates.plain[i])));
    return {
      measured: {
        requests,
        keys,
        rounds,
        'plain, requests/s (median)': Math.round(median(rates.plain)),
        'ordered, requests/s (median)': Math.round(median(rates.ordered)),
        'ordered / plain (median of rounds)': ratio,
        ...(started !== undefined && {
          'worker CPU, µs/request (median): plain': rounded(median(cpu.plain), 1),
          'worker CPU, µs/request (median): ordered': rounded(median(cpu.ordered), 1),
        }),
      },
      rows: [
        {
          what: `draining ${grouped(requests)} requests by ${grouped(keys)} ordering keys, beside as many without`,
          here: `${grouped(median(rates.ordered))}/s, ${ratio}`,
          wanted: '0.5',
        },
      ],
    };
  },
);
