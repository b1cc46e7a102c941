// How fast a long queue drains, GETs and POSTs in turn, beside what the bare HTTP client does in the same run. Timed from the
// commit that brings the queue until the last response is recorded; the worker runs already.
import { bare } from './bare.mjs';
import { grouped, median, megabytes, rounded } from './numbers.mjs';
import { benchmark } from './stage.mjs';

const body = JSON.stringify({ text: 'x'.repeat(1_010) });
const methods = {
  GET: {
    text: 'select count(net.http_get($1, timeout_milliseconds := 30000)) from generate_series(1, $2::int)',
    more: [],
  },
  POST: {
    text: 'select count(net.http_post($1, $3::jsonb, timeout_milliseconds := 30000)) from generate_series(1, $2::int)',
    more: [body],
  },
};

await benchmark(
  'drain',
  { requests: { type: 'string', default: '100000' }, rounds: { type: 'string', default: '3' } },
  async ({ target, sql, worker, number, empty, recorded, say }) => {
    const requests = number('requests', 2_000);
    const rounds = number('rounds', 1);
    const rates = { GET: [], POST: [] };
    const bareRates = [];
    const cpu = [];
    const started = await worker();

    for (let round = 0; round < rounds; round++) {
      bareRates.push(await bare(target.url, requests));
      for (const [method, { text, more }] of Object.entries(methods)) {
        await empty();
        await sql.query('begin');
        await sql.query(text, [`${target.url}/`, requests, ...more]);
        const answered = target.count(requests);
        const before = await started?.usage();
        const began = performance.now();
        await sql.query('commit');
        await answered.done;
        await recorded(requests);
        const seconds = (performance.now() - began) / 1_000;
        const after = await started?.usage();
        await checkAnswers(sql, requests);
        rates[method].push(requests / seconds);
        if (method === 'GET' && after !== undefined) {
          cpu.push((after.cpuMicroseconds - before.cpuMicroseconds) / requests);
        }
      }
      say(
        `round ${round + 1}: GET ${grouped(rates.GET[round])}/s, POST ${grouped(rates.POST[round])}/s, bare client ${grouped(bareRates[round])}/s`,
      );
    }
    const usage = await started?.usage();
    const ofBare = rounded(median(rates.GET.map((rate, i) => rate / bareRates[i])));
    const postOfGet = rounded(median(rates.POST.map((rate, i) => rate / rates.GET[i])));
    return {
      measured: {
        requests,
        rounds,
        'requests/s (median)': Math.round(median(rates.GET)),
        'bare undici client, requests/s (median)': Math.round(median(bareRates)),
        'ratio to the bare client (median of rounds)': ofBare,
        'POST of 1 kB, requests/s (median)': Math.round(median(rates.POST)),
        'POST / GET (median of rounds)': postOfGet,
        ...(usage !== undefined && {
          'worker CPU, µs/request (median)': rounded(median(cpu), 1),
          'worker RSS, MB (largest)': megabytes(usage.rssBytesMax),
        }),
        plot: { rates, bareRates },
      },
      rows: [
        {
          what: `draining ${grouped(requests)} GETs`,
          here: `${grouped(median(rates.GET))}/s${usage === undefined ? '' : `, ${rounded(median(cpu), 0)} µs of worker CPU each`}`,
          wanted: '20,000/s',
          pgNet: '218/s; 3,900/s at its best setting',
        },
        {
          what: 'the same, beside the bare HTTP client in the same run',
          here: `${ofBare} of ${grouped(median(bareRates))}/s`,
          wanted: '0.4',
        },
        {
          what: `draining ${grouped(requests)} POSTs of 1 kB, beside the GETs`,
          here: `${grouped(median(rates.POST))}/s, ${postOfGet}`,
          wanted: '0.7',
        },
      ],
    };
  },
);

async function checkAnswers(sql, requests) {
  const { rows } = await sql.query('select count(*)::int from net._http_response where status_code = 200');
  if (rows[0].count !== requests) throw new Error(`${rows[0].count} of ${requests} requests were answered`);
}
