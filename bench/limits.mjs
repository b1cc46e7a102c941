// Eight workers and the limits of net.limits: whether they hold in sum, second by second, and are used up while there is work.
import http from 'node:http';
import { setTimeout as sleep } from 'node:timers/promises';
import { rounded } from './numbers.mjs';
import { benchmark } from './stage.mjs';

await benchmark(
  'limits',
  {
    workers: { type: 'string', default: '8' },
    seconds: { type: 'string', default: '10' },
    rate: { type: 'string', default: '200' },
    concurrency: { type: 'string', default: '10' },
  },
  async ({ sql, number, smoke, empty, ownWorker, say }) => {
    const workers = number('workers', 2);
    const seconds = number('seconds', 0.5);
    const rate = number('rate', 200);
    const concurrency = number('concurrency', 10);
    const answerMs = 100;
    await sql.query('create extension if not exists pg_stat_statements');
    const receiver = await startReceiver();
    try {
      const rates = await underLimits({ count: workers, rate });
      const atATime = await underLimits({ count: workers, concurrency });
      const one = smoke ? rates : await underLimits({ count: 1, rate });
      const oneAtATime = smoke ? atATime : await underLimits({ count: 1, concurrency });
      return {
        measured: {
          workers,
          seconds,
          'requests/s, to the limit': { 'one worker': one.toLimit, [`${workers} workers`]: rates.toLimit },
          'most in any second, to the limit': {
            'one worker': one.mostToLimit,
            [`${workers} workers`]: rates.mostToLimit,
          },
          'statements/s for a rate': { 'one worker': one.statements, [`${workers} workers`]: rates.statements },
          'at a time, at most': atATime.most,
          'of what so many at a time can do': { 'one worker': oneAtATime.used, [`${workers} workers`]: atATime.used },
          'statements/s for so many at a time': {
            'one worker': oneAtATime.statements,
            [`${workers} workers`]: atATime.statements,
          },
        },
        rows: [
          {
            what: `${workers} workers, ${rate} requests/s in net.limits`,
            here: `${rates.toLimit} of it over ${seconds} s, ${rates.mostToLimit} in the fullest second`,
            wanted: '0.95 to 1.05',
          },
          {
            what: `${workers} workers, ${concurrency} at a time in net.limits`,
            here: `${atATime.most} at most, ${rounded(atATime.used / oneAtATime.used)} of what one worker does with as many`,
            wanted: `${concurrency} at most`,
          },
        ],
      };
    } finally {
      receiver.close();
    }

    /** Measures from the first arrival on, while more waits than can be sent. */
    async function underLimits({ count, rate: limit, concurrency: atATime }) {
      await empty();
      await sql.query('delete from net.limits');
      await sql.query('insert into net.limits (host, requests_per_second, concurrency) values ($1, $2, $3)', [
        '127.0.0.1',
        limit ?? null,
        atATime ?? null,
      ]);
      const started = await Promise.all(Array.from({ length: count }, () => ownWorker()));
      const expected = limit === undefined ? (atATime * 1_000) / answerMs : limit;
      await sql.query(
        'select count(net.http_get($1, timeout_milliseconds := 30000)) from generate_series(1, $2::int)',
        [`${receiver.url}/${limit === undefined ? answerMs : 0}`, Math.ceil(expected * (seconds + 3) * 1.2)],
      );
      // What comes while the workers begin is not what is asked about.
      await sleep(smoke ? 300 : 2_500);
      const before = await statements();
      const { arrivals, most } = await receiver.record(seconds * 1_000);
      const made = (await statements()) - before;
      await empty();
      await Promise.all(started.map((worker) => worker.stop()));
      const measured = {
        toLimit: rounded(arrivals.length / seconds / expected),
        mostToLimit: rounded(fullest(arrivals) / expected),
        used: rounded(arrivals.length / seconds / expected),
        most,
        statements: Math.round(made / seconds),
      };
      say(`${count} workers: ${JSON.stringify(measured)}`);
      return measured;
    }

    /** How many questions about limits the database has answered so far. */
    async function statements() {
      const { rows } = await sql.query(
        `select coalesce(sum(calls), 0)::int as calls from pg_stat_statements
         where query ~ 'net\\._(take_tokens|hold_permits|lock_meters)' and toplevel`,
      );
      return rows[0].calls;
    }
  },
);

/** The most arrivals within any second. */
function fullest(arrivals) {
  let first = 0;
  let most = 0;
  for (const [place, at] of arrivals.entries()) {
    while (arrivals[first] <= at - 1_000) first += 1;
    most = Math.max(most, place - first + 1);
  }
  return most;
}

/** Answers after as many milliseconds as the path says, and writes down what arrives while it is asked to. */
async function startReceiver() {
  let arrivals = [];
  let open = 0;
  let most = 0;
  const server = http.createServer((request, response) => {
    arrivals.push(performance.now());
    open += 1;
    most = Math.max(most, open);
    const answer = () => {
      open -= 1;
      response.end('ok');
    };
    const afterMs = Number(request.url.slice(1));
    if (afterMs === 0) answer();
    else setTimeout(answer, afterMs);
  });
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  return {
    url: `http://127.0.0.1:${server.address().port}`,
    async record(forMs) {
      arrivals = [];
      most = open;
      await sleep(forMs);
      return { arrivals, most };
    },
    close() {
      server.closeAllConnections();
      server.close();
    },
  };
}
