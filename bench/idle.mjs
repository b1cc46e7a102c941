// What an idle worker does: nothing. Counts its statements with pg_stat_statements, and its CPU time.
import { setTimeout as sleep } from 'node:timers/promises';
import { rounded } from './numbers.mjs';
import { benchmark } from './stage.mjs';

await benchmark(
  'idle',
  { seconds: { type: 'string', default: '60' } },
  async ({ target, sql, ownWorker, recorded, number }) => {
    const seconds = number('seconds', 3);
    await sql.query('create extension if not exists pg_stat_statements');
    const worker = await ownWorker();
    await sql.query(`select count(net.http_get($1)) from generate_series(1, 1000)`, [`${target.url}/`]);
    await recorded(1_000);
    // Falling silent takes its time: the last look comes when all has been quiet for a second.
    await sleep(4_000);
    await sql.query('select pg_stat_statements_reset()');
    const before = await worker.usage();
    await sleep(seconds * 1_000);
    const after = await worker.usage();
    const { rows } = await sql.query(
      `select query, calls::int from pg_stat_statements where query not like '%pg_stat_statements%'`,
    );
    const statements = rows.reduce((sum, row) => sum + row.calls, 0);
    return {
      measured: {
        seconds,
        'statements while idle': statements,
        ...(rows.length > 0 && { which: rows.map((row) => row.query.replaceAll(/\s+/g, ' ').slice(0, 60)) }),
        'CPU while idle, %': rounded((after.cpuMicroseconds - before.cpuMicroseconds) / seconds / 10_000, 3),
      },
      rows: [{ what: `statements in ${seconds} s without traffic`, here: `${statements}`, wanted: '0', pgNet: '0' }],
    };
  },
);
