// What being tried again costs a long queue: every tenth request fails once (503) and is sent again a millisecond later, its
// attempts are rows of net.attempts, and each carries an Idempotency-Key; beside the same queue of plain requests in the same run.
import { grouped, median, rounded } from './numbers.mjs';
import { benchmark } from './stage.mjs';

const ways = {
  plain: `select count(net.http_get($1 || '/flaky/' || n || '1', timeout_milliseconds := 30000)) from generate_series(1, $2::int) n`,
  retried: `select count(net.request('GET', $1 || '/flaky/' || n, timeout_milliseconds := 30000, retry_policy := 'bench'))
    from generate_series(1, $2::int) n`,
};

await benchmark(
  'retries',
  { requests: { type: 'string', default: '100000' }, rounds: { type: 'string', default: '3' } },
  async ({ target, sql, worker, number, empty, recorded, say }) => {
    const requests = number('requests', 2_000);
    const rounds = number('rounds', 1);
    const rates = { plain: [], retried: [] };
    await sql.query(`
      insert into net.retry_policy (name, max_attempts, first_delay, max_delay)
      values ('bench', 3, '1 millisecond', '1 millisecond')
      on conflict do nothing`);
    await worker();
    for (let round = 0; round < rounds; round++) {
      for (const [way, text] of Object.entries(ways)) {
        await empty();
        await sql.query('truncate net.attempts');
        await sql.query('begin');
        await sql.query(text, [target.url, requests]);
        const answered = target.count(requests);
        const began = performance.now();
        await sql.query('commit');
        await answered.done;
        await recorded(requests);
        rates[way].push((requests / (performance.now() - began)) * 1_000);
        await checkAttempts(sql, requests, way === 'plain' ? 0 : Math.floor(requests / 10));
      }
      say(`round ${round + 1}: plain ${grouped(rates.plain[round])}/s, retried ${grouped(rates.retried[round])}/s`);
    }
    const ratio = rounded(median(rates.retried.map((rate, i) => rate / rates.plain[i])));
    await sql.query(`delete from net.retry_policy where name = 'bench'; truncate net.attempts`);
    return {
      measured: {
        requests,
        rounds,
        'plain, requests/s (median)': Math.round(median(rates.plain)),
        'with retries, requests/s (median)': Math.round(median(rates.retried)),
        'with retries / plain (median of rounds)': ratio,
      },
      rows: [
        {
          what: `draining ${grouped(requests)} requests of which a tenth fails once and is tried again, to plain ones`,
          here: `${ratio} of ${grouped(median(rates.plain))}/s`,
          wanted: '0.6',
        },
      ],
    };
  },
);

async function checkAttempts(sql, requests, retried) {
  const { rows } = await sql.query(`
    select (select count(*)::int from net._http_response where status_code = 200) as answered,
      (select count(*)::int from net.attempts) as attempts`);
  const [{ answered, attempts }] = rows;
  if (answered !== requests || attempts !== 2 * retried) {
    throw new Error(`${answered} of ${requests} requests were answered, with ${attempts} rows in net.attempts`);
  }
}
