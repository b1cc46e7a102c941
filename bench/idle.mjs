// What an idle worker does: nothing. Counts its statements with pg_stat_statements, and its CPU time.
import { setTimeout as sleep } from 'node:timers/promises';
import { createWorker } from '../dist/index.js';
import { benchmark, rounded } from './stage.mjs';

await benchmark('idle', { seconds: { type: 'string', default: '60' } }, async ({ url, target, sql, number }) => {
  const seconds = number('seconds', 3);
  await sql.query('create extension if not exists pg_stat_statements');
  const worker = createWorker({ connectionString: url, allow: ['loopback'] });
  await worker.start();
  await sql.query(`select count(net.http_get($1)) from generate_series(1, 1000)`, [`${target}/`]);
  await worker.drain();
  // Falling silent takes its time: the last look comes when all has been quiet for a second.
  await sleep(4_000);
  await sql.query('select pg_stat_statements_reset()');
  const cpuBefore = process.cpuUsage();
  await sleep(seconds * 1_000);
  const { user, system } = process.cpuUsage(cpuBefore);
  const { rows } = await sql.query(
    `select query, calls::int from pg_stat_statements where query not like '%pg_stat_statements%'`,
  );
  await worker.stop();
  return {
    seconds,
    'statements while idle': rows.reduce((sum, row) => sum + row.calls, 0),
    ...(rows.length > 0 && { which: rows.map((row) => row.query.replaceAll(/\s+/g, ' ').slice(0, 60)) }),
    'CPU while idle, %': rounded((user + system) / seconds / 10_000, 3),
  };
});
