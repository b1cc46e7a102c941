// What enqueuing costs a transaction, beside the plain INSERT of the same row into the same table: pgbench drives both, in turn.
// No worker runs: the promise that a busy one would keep, and that spares the transactions NOTIFY, is made by hand, so that the
// receiving side takes no part. With `--worker none` the server's own is left to do as it does.
import { grouped, median, rounded } from './numbers.mjs';
import { openPgbench, pgbenchMissing, pgbenchOption } from './pgbench.mjs';
import { benchmark } from './stage.mjs';

const url = 'http://127.0.0.1:9/';

await benchmark(
  'enqueue',
  {
    seconds: { type: 'string', default: '4' },
    rounds: { type: 'string', default: '5' },
    long: { type: 'string', default: '20' },
    rows: { type: 'string', default: '100000' },
    ...pgbenchOption,
  },
  async (stage) => {
    const { sql, options, number } = stage;
    const measured = { seconds: number('seconds', 1), rounds: number('rounds', 1) };
    const rows = [];
    const statements = await statementsFor(sql, options.worker !== 'none');
    const { insert, enqueue } = statements;
    const durable = "insert into public.pgfetch_bench_order (note) values ('a row that must not be lost');\n";
    const pgbench = await openPgbench(options.pgbench, {
      insert,
      enqueue,
      'durable-insert': `begin;\n${durable}${insert}end;\n`,
      'durable-enqueue': `begin;\n${durable}${enqueue}end;\n`,
    });
    try {
      await sql.query('create table public.pgfetch_bench_order (id bigserial primary key, note text)');
      if (statements.promise !== undefined) await sql.query(statements.promise);
      if (pgbench === undefined) measured.skipped = pgbenchMissing;
      else {
        await besideTheInsert(stage, pgbench, measured, rows);
        await inOneSession(stage, pgbench, measured, rows);
      }
      await inBulk(stage, statements, measured, rows);
    } finally {
      pgbench?.close();
      if (statements.promise !== undefined) await sql.query(`select setval('net.wake_promise', 1)`);
      await sql.query('drop table if exists public.pgfetch_bench_order');
      await stage.empty();
    }
    return { measured, rows };
  },
);

/** The plain INSERT says of a row what the function says of it. pg_net's table has the documented columns only, and no promise. */
async function statementsFor(sql, makesPromise) {
  const { rows } = await sql.query(`
    select
      to_regclass('net.wake_promise') is not null as promises,
      (select oid::text from pg_roles where rolname = current_user) as role`);
  const [{ promises, role }] = rows;
  const [column, value] = promises ? [', login_role', `, ${role}`] : ['', ''];
  const columns = `(method, url, headers, body, timeout_milliseconds${column})`;
  return {
    insert: `insert into net.http_request_queue ${columns} values ('GET', '${url}', '{}', null, 2000${value}) returning id;\n`,
    enqueue: `select net.http_get('${url}');\n`,
    bulkInsert: `insert into net.http_request_queue ${columns} select 'POST', '${url}', '{"Content-Type": "application/json"}', convert_to('{"a": 1}'::jsonb::text, 'UTF8'), 2000${value} from generate_series(1, $1::int)`,
    bulkEnqueue: `select count(net.http_post('${url}', '{"a": 1}')) from generate_series(1, $1::int)`,
    promise:
      promises && makesPromise
        ? `select setval('net.wake_promise', (extract(epoch from clock_timestamp()) * 1000)::bigint + 3600000)`
        : undefined,
  };
}

/** One request in each transaction, alone and beside a row of a logged table. */
async function besideTheInsert({ url: database, smoke, empty, say }, pgbench, measured, rows) {
  const { seconds, rounds } = measured;
  const clientCounts = smoke ? [1] : [1, 4, 16];
  for (const [prefix, what] of [
    ['', 'enqueue, one per transaction, to the plain INSERT'],
    ['durable-', 'the same, beside a durable row in the same transaction'],
  ]) {
    const found = [];
    for (const clients of clientCounts) {
      const ratios = [];
      for (let round = 0; round < rounds; round++) {
        const tps = {};
        const arms = ['insert', 'enqueue'];
        for (const arm of round % 2 === 0 ? arms : arms.reverse()) {
          await empty();
          ({ tps: tps[arm] } = await pgbench.drive(`${prefix}${arm}`, { url: database, clients, seconds }));
        }
        ratios.push(tps.enqueue / tps.insert);
        say(`${prefix}${clients} clients: INSERT ${grouped(tps.insert)}/s, http_get ${grouped(tps.enqueue)}/s`);
      }
      found.push(rounded(median(ratios)));
      const beside = prefix === '' ? '' : ' beside a durable row';
      measured[`http_get / INSERT${beside}, ${clients} clients (median)`] = found.at(-1);
    }
    rows.push({
      what: `${what}: ${clientCounts.join(', ')} clients`,
      here: found.join(', '),
      wanted: '0.85',
      pgNet: prefix === '' ? '0.84, 0.39, –' : '',
    });
  }
}

/** Whether a session that has enqueued for long enqueues as fast as in its first seconds. */
async function inOneSession({ url, number, empty, say }, pgbench, measured, rows) {
  const seconds = number('long', 3);
  await empty();
  const { bySecond } = await pgbench.drive('enqueue', { url, clients: 1, seconds });
  const some = Math.min(3, Math.ceil(bySecond.length / 2));
  const ratio = rounded(median(bySecond.slice(-some)) / median(bySecond.slice(0, some)));
  measured[`last ${some} of ${seconds} s of one session / first ${some} (medians)`] = ratio;
  say(`one session: ${bySecond.map(grouped).join(', ')}/s`);
  rows.push({
    what: `enqueue, the last of ${seconds} s in one session to the first`,
    here: `${ratio}`,
    wanted: '1',
    pgNet: '0.25',
  });
}

/** Many requests by one statement. */
async function inBulk({ sql, number, empty, say }, { bulkInsert, bulkEnqueue }, measured, rows) {
  const count = number('rows', 1_000);
  const rates = { insert: [], enqueue: [] };
  for (let round = 0; round < measured.rounds; round++) {
    for (const [name, text] of [
      ['insert', bulkInsert],
      ['enqueue', bulkEnqueue],
    ]) {
      await empty();
      const began = performance.now();
      await sql.query(text, [count]);
      rates[name].push((count / (performance.now() - began)) * 1_000);
    }
  }
  const ratio = rounded(median(rates.enqueue.map((rate, i) => rate / rates.insert[i])));
  measured['bulk http_post from generate_series, rows/s (median)'] = Math.round(median(rates.enqueue));
  measured['bulk http_post / INSERT ... SELECT (median)'] = ratio;
  say(`bulk: INSERT ${grouped(median(rates.insert))}/s, http_post ${grouped(median(rates.enqueue))}/s`);
  rows.push({
    what: 'bulk `http_post` from `generate_series`, to `INSERT ... SELECT`',
    here: `${grouped(median(rates.enqueue))} rows/s, ${ratio}`,
  });
}
