// What durable mode costs: the same transactions and the same drain with unlogged tables and with logged ones, in turn.
import { grouped, median, rounded } from './numbers.mjs';
import { openPgbench, pgbenchMissing, pgbenchOption } from './pgbench.mjs';
import { benchmark } from './stage.mjs';

const modes = { unlogged: false, logged: true };

await benchmark(
  'durable',
  {
    requests: { type: 'string', default: '50000' },
    seconds: { type: 'string', default: '4' },
    rounds: { type: 'string', default: '3' },
    ...pgbenchOption,
  },
  async ({ url, target, sql, number, options, smoke, empty, recorded, ownWorker, say }) => {
    const requests = number('requests', 1_000);
    const seconds = number('seconds', 1);
    const rounds = number('rounds', 1);
    const clientCounts = smoke ? [1] : [1, 16];
    const pgbench = await openPgbench(options.pgbench, {
      // No worker runs meanwhile: the promise of one is made by hand, as in the benchmark of enqueuing.
      enqueue: `select net.http_get('http://127.0.0.1:9/');\n`,
    });
    const drain = { unlogged: [], logged: [] };
    const tps = Object.fromEntries(clientCounts.map((clients) => [clients, { unlogged: [], logged: [] }]));
    try {
      for (let round = 0; round < rounds; round++) {
        for (const [mode, isDurable] of Object.entries(modes)) {
          await empty();
          await sql.query('select net.set_durable($1)', [isDurable]);
          drain[mode].push(await drained(requests));
          for (const clients of pgbench === undefined ? [] : clientCounts) {
            await sql.query(
              `select setval('net.wake_promise', (extract(epoch from clock_timestamp()) * 1000)::bigint + 3600000)`,
            );
            tps[clients][mode].push((await pgbench.drive('enqueue', { url, clients, seconds })).tps);
            await sql.query(`select setval('net.wake_promise', 1)`);
            await empty();
          }
        }
        say(
          `round ${round + 1}: drain ${grouped(drain.unlogged[round])}/s unlogged, ${grouped(drain.logged[round])}/s logged`,
        );
      }
    } finally {
      pgbench?.close();
    }
    await sql.query('select net.set_durable(false)');
    const compared = (of) => ({
      unlogged: Math.round(median(of.unlogged)),
      logged: Math.round(median(of.logged)),
      ratio: rounded(median(of.logged.map((value, i) => value / of.unlogged[i]))),
    });
    const row = (what, { unlogged, logged, ratio }, unit) => ({
      what,
      here: `${ratio} (${grouped(logged)} to ${grouped(unlogged)}${unit})`,
    });
    const enqueued = pgbench === undefined ? [] : clientCounts.map((clients) => [clients, compared(tps[clients])]);
    return {
      measured: {
        requests,
        rounds,
        'drain, requests/s': compared(drain),
        ...Object.fromEntries(enqueued.map(([clients, of]) => [`enqueue, ${clients} clients, tps`, of])),
        ...(pgbench === undefined && { skipped: pgbenchMissing }),
      },
      rows: [
        row('durable mode: drain, logged to unlogged', compared(drain), '/s'),
        ...enqueued.map(([clients, of]) =>
          row(`durable mode: enqueue, one per transaction, ${clients} clients`, of, ' tps'),
        ),
      ],
    };

    async function enqueue(count) {
      await sql.query(
        'select count(net.http_get($1, timeout_milliseconds := 30000)) from generate_series(1, $2::int)',
        [`${target.url}/`, count],
      );
    }

    /** @returns requests a second of a worker that runs already */
    async function drained(count) {
      const worker = await ownWorker();
      // The first requests of a process run code that is not compiled yet.
      await enqueue(count / 5);
      await recorded(count / 5);
      await empty();
      await sql.query('begin');
      await enqueue(count);
      const answered = target.count(count);
      const began = performance.now();
      await sql.query('commit');
      await answered.done;
      await recorded(count);
      const rate = (count / (performance.now() - began)) * 1_000;
      await worker.stop();
      await empty();
      return rate;
    }
  },
);
