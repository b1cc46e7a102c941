// What enqueuing costs a transaction, beside the plain INSERT of the same row: pgbench drives both, in turn. A worker that
// serves other requests all the while keeps the promise that spares them NOTIFY; what they enqueue is put off, so that the
// receiver does not take part.
import { execFile } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { benchmark, median, rounded } from './stage.mjs';

const run = promisify(execFile);

const insert = `insert into net.http_request_queue (method, url, headers, body, timeout_milliseconds, login_role)
values ('GET', 'http://127.0.0.1:9/', '{}', null, 2000, 10) returning id;\n`;
const enqueue = `select net.http_get('http://127.0.0.1:9/');\n`;

await benchmark(
  'enqueue',
  {
    seconds: { type: 'string', default: '4' },
    rounds: { type: 'string', default: '5' },
    pgbench: { type: 'string', default: 'pgbench' },
  },
  async ({ url, sql, number, options, smoke, say }) => {
    const seconds = number('seconds', 1);
    const rounds = number('rounds', 1);
    const directory = mkdtempSync(join(tmpdir(), 'pgfetch-bench-sql-'));
    const result = { seconds, rounds };
    try {
      await run(options.pgbench, ['--version']);
    } catch {
      return { skipped: 'pgbench is not installed; give its path with --pgbench' };
    }
    try {
      for (const [name, text] of [
        ['insert', insert],
        ['enqueue', enqueue],
      ])
        writeFileSync(join(directory, `${name}.sql`), text);
      // No worker: the promise is made by hand, for the length of the run.
      await sql.query(
        `select setval('net.wake_promise', (extract(epoch from clock_timestamp()) * 1000)::bigint + 3600000)`,
      );
      for (const clients of smoke ? [1] : [1, 4, 16]) {
        const ratios = [];
        for (let round = 0; round < rounds; round++) {
          const tps = {};
          for (const name of round % 2 === 0 ? ['insert', 'enqueue'] : ['enqueue', 'insert']) {
            await sql.query('truncate net.http_request_queue');
            const { stdout } = await run(options.pgbench, [
              '-n',
              '-M',
              'prepared',
              '-c',
              `${clients}`,
              '-j',
              '1',
              '-T',
              `${seconds}`,
              '-f',
              join(directory, `${name}.sql`),
              url,
            ]);
            tps[name] = Number(/tps = ([\d.]+)/.exec(stdout)?.[1]);
          }
          ratios.push(tps.enqueue / tps.insert);
          say(`${clients} clients: INSERT ${Math.round(tps.insert)}/s, http_get ${Math.round(tps.enqueue)}/s`);
        }
        result[`http_get / INSERT, ${clients} clients (median)`] = rounded(median(ratios));
      }
      const rows = smoke ? 1_000 : 100_000;
      await sql.query('truncate net.http_request_queue');
      const began = performance.now();
      await sql.query(
        `select count(net.http_post('http://127.0.0.1:9/', '{"a": 1}')) from generate_series(1, ${rows})`,
      );
      result['bulk http_post from generate_series, rows/s'] = Math.round((rows / (performance.now() - began)) * 1_000);
    } finally {
      await sql.query(`select setval('net.wake_promise', 1)`);
      await sql.query('truncate net.http_request_queue');
      rmSync(directory, { recursive: true, force: true });
    }
    return result;
  },
);
