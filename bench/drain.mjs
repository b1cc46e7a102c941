// How fast a long queue drains, beside what the bare HTTP client does in the same run.
import { Agent } from 'undici';
import { createWorker } from '../dist/index.js';
import { benchmark, median, rounded } from './stage.mjs';

await benchmark(
  'drain',
  {
    requests: { type: 'string', default: '100000' },
    rounds: { type: 'string', default: '3' },
    method: { type: 'string', default: 'get' },
  },
  async ({ url, target, sql, number, options, say }) => {
    const requests = number('requests', 2_000);
    const rounds = number('rounds', 1);
    const isPost = options.method === 'post';
    const body = isPost ? JSON.stringify({ text: 'x'.repeat(1_010) }) : undefined;
    const rates = [];
    const bareRates = [];
    const cpu = [];
    let rssBytes = 0;

    for (let round = 0; round < rounds; round++) {
      bareRates.push(await bare(target, requests, body));
      await sql.query('truncate net.http_request_queue, net._http_response');
      await sql.query(
        isPost
          ? `select count(net.http_post($1, $2::jsonb, timeout_milliseconds := 30000)) from generate_series(1, $3)`
          : `select count(net.http_get($1, timeout_milliseconds := 30000)) from generate_series(1, $2::int)`,
        isPost ? [`${target}/`, body, requests] : [`${target}/`, requests],
      );
      const worker = createWorker({ connectionString: url, allow: ['loopback'] });
      const began = performance.now();
      const cpuBefore = process.cpuUsage();
      await worker.start();
      await worker.drain();
      const seconds = (performance.now() - began) / 1_000;
      const { user, system } = process.cpuUsage(cpuBefore);
      rssBytes = Math.max(rssBytes, process.memoryUsage().rss);
      await worker.stop();
      const { rows } = await sql.query('select count(*)::int from net._http_response where status_code = 200');
      if (rows[0].count !== requests) throw new Error(`${rows[0].count} of ${requests} requests were answered`);
      rates.push(requests / seconds);
      cpu.push((user + system) / requests);
      say(`round ${round + 1}: ${Math.round(rates.at(-1))}/s, bare client ${Math.round(bareRates.at(-1))}/s`);
    }
    return {
      requests,
      method: options.method,
      'requests/s (median)': Math.round(median(rates)),
      'bare undici client, requests/s (median)': Math.round(median(bareRates)),
      'ratio (median of rounds)': rounded(median(rates.map((rate, i) => rate / bareRates[i]))),
      'worker CPU, µs/request (median)': rounded(median(cpu), 1),
      'worker RSS, MB (largest)': Math.round(rssBytes / 1e6),
    };
  },
);

/** The same requests by undici's dispatcher alone, 50 keep-alive connections. */
async function bare(target, requests, body) {
  const agent = new Agent({ connections: 50, pipelining: 1 });
  const began = performance.now();
  await new Promise((resolve, reject) => {
    let sent = 0;
    let done = 0;
    const next = () => {
      if (sent === requests) return;
      sent += 1;
      agent.dispatch(
        {
          origin: target,
          path: '/',
          method: body === undefined ? 'GET' : 'POST',
          headers: body === undefined ? [] : ['content-type', 'application/json'],
          body: body ?? null,
        },
        {
          onRequestStart() {},
          onResponseStart() {},
          onResponseData() {},
          onResponseEnd() {
            done += 1;
            if (done === requests) resolve();
            else next();
          },
          onResponseError: (_controller, error) => reject(error),
        },
      );
    };
    for (let i = 0; i < 50; i++) next();
  });
  const seconds = (performance.now() - began) / 1_000;
  await agent.close();
  return requests / seconds;
}
