// Whether slow requests hold up fast ones: 50 fast ones beside one of 5 s, and beside many to another host that never answers.
import { setTimeout as sleep } from 'node:timers/promises';
import { grouped, percentile, rounded } from './numbers.mjs';
import { benchmark } from './stage.mjs';

await benchmark(
  'blocking',
  { rounds: { type: 'string', default: '5' } },
  async ({ target, sql, worker, number, empty, recorded, until, smoke, say }) => {
    const rounds = number('rounds', 1);
    // Longer than the slow one takes; where the server's own worker has to get rid of them, a smoke run does not wait that long.
    const timeoutMs = smoke ? 1_500 : 6_000;
    const cases = [
      { name: 'one of 5 s', slow: `${target.url}/slow/5000`, count: 1, pgNet: '4.9 s' },
      { name: '100 to a host that never answers', slow: `${target.second}/never`, count: 100 },
      { name: '500 to a host that never answers', slow: `${target.second}/never`, count: 500 },
      { name: '10,000 to a host that never answers', slow: `${target.third}/never`, count: 10_000 },
    ].slice(0, smoke ? 2 : 4);
    const measured = { rounds };
    const rows = [];
    for (const { name, slow, count, pgNet } of cases) {
      const started = await worker();
      // A worker that has just started runs code that is not compiled yet: that is not what is measured.
      await sql.query('select count(net.http_get($1)) from generate_series(1, 1000)', [`${target.url}/`]);
      await recorded(1_000);
      await empty();
      const took = [];
      for (let round = 0; round < rounds; round++) {
        await sql.query(`select count(net.http_get($1, timeout_milliseconds := $3)) from generate_series(1, $2::int)`, [
          slow,
          count,
          timeoutMs,
        ]);
        const { rows: asked } = await sql.query(
          `select array_agg(net.http_get($1)) as ids, extract(epoch from clock_timestamp())::float8 * 1000 as at from generate_series(1, 50)`,
          [`${target.url}/`],
        );
        let answers = [];
        await until(async () => {
          ({ rows: answers } = await sql.query(
            'select extract(epoch from created)::float8 * 1000 as at, status_code from net._http_response where id = any($1)',
            [asked[0].ids],
          ));
          return answers.length === 50;
        });
        if (answers.some((answer) => answer.status_code !== 200)) throw new Error(`a fast one failed beside ${name}`);
        took.push(...answers.map((answer) => answer.at - asked[0].at));
      }
      const p99 = rounded(percentile(took, 0.99), 1);
      measured[`50 fast ones beside ${name}, p99 ms`] = p99;
      rows.push({ what: `50 fast requests beside ${name}`, here: `p99 ${grouped(p99)} ms`, wanted: '50 ms', pgNet });
      say(`beside ${name}: p99 ${p99} ms`);
      await empty();
      if (started !== undefined) await started.stop();
      else await sleep(timeoutMs + 1_000);
      await empty();
    }
    return { measured, rows };
  },
);
