// One, two and three workers on one queue: whether they share it, and whether they are in each other's way. Where there are fewer
// cores than processes, none of them makes it faster.
import { grouped, median, rounded } from './numbers.mjs';
import { startCountedWorker } from './processes.mjs';
import { benchmark } from './stage.mjs';

await benchmark(
  'workers',
  { requests: { type: 'string', default: '50000' }, rounds: { type: 'string', default: '3' } },
  async ({ target, sql, number, smoke, empty, recorded, ownWorker, say }) => {
    const requests = number('requests', 2_000);
    const rounds = number('rounds', 1);
    const counts = smoke ? [1, 2] : [1, 2, 3];
    const rates = Object.fromEntries(counts.map((count) => [count, []]));
    const shares = Object.fromEntries(counts.map((count) => [count, []]));
    for (let round = 0; round < rounds; round++) {
      for (const count of counts) {
        const workers = await Promise.all(Array.from({ length: count }, () => ownWorker(startCountedWorker)));
        const ofEach = () => Promise.all(workers.map(async (worker) => (await worker.ask('recorded')).recorded));
        // The first requests of a process run code that is not compiled yet.
        await drained(requests / 5);
        const before = await ofEach();
        rates[count].push(await drained(requests));
        const after = await ofEach();
        await Promise.all(workers.map((worker) => worker.stop()));
        shares[count].push(after.map((all, i) => rounded((all - before[i]) / requests)).sort((a, b) => b - a));
        say(
          `round ${round + 1}: ${count} workers ${grouped(rates[count][round])}/s, shares ${shares[count][round].join(', ')}`,
        );
      }
    }
    const typical = counts.map((count) => ({
      workers: count,
      'requests/s (median)': Math.round(median(rates[count])),
      'to one worker (median of rounds)': rounded(median(rates[count].map((rate, i) => rate / rates[1][i]))),
      'share of each (medians)': Array.from({ length: count }, (_, i) =>
        rounded(median(shares[count].map((share) => share[i]))),
      ).join(', '),
    }));
    return {
      measured: { requests, rounds, 'draining one queue': typical },
      rows: typical.slice(1).map((row) => ({
        what: `${row.workers} workers on one queue, to one`,
        here: `${row['to one worker (median of rounds)']} of the rate; shares ${row['share of each (medians)']}`,
        wanted: 'no collapse',
      })),
    };

    /** @returns requests a second */
    async function drained(count) {
      await empty();
      await sql.query('begin');
      await sql.query(
        'select count(net.http_get($1, timeout_milliseconds := 30000)) from generate_series(1, $2::int)',
        [`${target.url}/`, count],
      );
      const answered = target.count(count);
      const began = performance.now();
      await sql.query('commit');
      await answered.done;
      await recorded(count);
      return (count / (performance.now() - began)) * 1_000;
    }
  },
);
