// Whether slow requests hold up fast ones: 50 fast ones beside one of 5 s, and beside 100 to a host that never answers.
import { createWorker } from '../dist/index.js';
import { benchmark, percentile, rounded } from './stage.mjs';

await benchmark('blocking', { rounds: { type: 'string', default: '5' } }, async ({ url, target, sql, number }) => {
  const rounds = number('rounds', 1);
  const worker = createWorker({ connectionString: url, allow: ['loopback'], stopTimeoutMs: 100 });
  await worker.start();
  const result = {};
  try {
    for (const [name, path, count] of [
      ['beside one of 5 s', '/slow/5000', 1],
      ['beside 100 that never answer', '/never', 100],
    ]) {
      const took = [];
      for (let round = 0; round < rounds; round++) {
        await sql.query(
          `select count(net.http_get($1, timeout_milliseconds := 8000)) from generate_series(1, $2::int)`,
          [`${target}${path}`, count],
        );
        const { rows } = await sql.query(
          `select array_agg(net.http_get($1)) as ids, extract(epoch from clock_timestamp())::float8 * 1000 as at from generate_series(1, 50)`,
          [`${target}/`],
        );
        let answered = [];
        while (answered.length < 50) {
          ({ rows: answered } = await sql.query(
            'select extract(epoch from created)::float8 * 1000 as at from net._http_response where id = any($1)',
            [rows[0].ids],
          ));
        }
        took.push(...answered.map((row) => row.at - rows[0].at));
      }
      result[`50 fast ones ${name}, p99 ms`] = rounded(percentile(took, 0.99), 1);
    }
  } finally {
    await worker.stop();
  }
  return { rounds, ...result };
});
