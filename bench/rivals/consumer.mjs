// What each consumer of the comparison is: a process that is told to install, to enqueue, to connect, to consume, and to enqueue
// one request by itself. `node <consumer>.mjs DATABASE_URL ORIGIN [keep]`: with `keep` a job records its response in the database.
import { Agent } from 'undici';

/** Requests that a consumer has under way at once, for those that can be told. */
export const concurrency = 100;

const [, , databaseUrl = '', origin = '', keep] = process.argv;

/**
 * @param {(where: { url: string, origin: string, keeps: boolean, get: () => Promise<{ status: number, headers: object, body: string }> }) => {
 *   enqueue(count: number): Promise<void>, connect(): Promise<void>, consume(count: number): Promise<void>, one(): Promise<void>,
 * }} make `get` is what a job does: `GET /` with undici's dispatcher, at the same cost for everybody.
 */
export function serve(make) {
  const agent = new Agent({ connections: concurrency, pipelining: 1 });
  const get = () =>
    new Promise((resolve, reject) => {
      const response = { status: 0, headers: {}, body: '' };
      agent.dispatch(
        { origin, path: '/', method: 'GET' },
        {
          onRequestStart() {},
          onResponseStart(_controller, status, headers) {
            response.status = status;
            response.headers = headers;
          },
          onResponseData(_controller, data) {
            response.body += data;
          },
          onResponseEnd: () => resolve(response),
          onResponseError: (_controller, error) => reject(error),
        },
      );
    });
  const steps = make({ url: databaseUrl, origin, keeps: keep === 'keep', get });
  process.on('message', ({ ask, count }) => {
    if (steps[ask] === undefined) return;
    steps[ask](count).then(
      () => process.send?.({ answer: ask, at: performance.timeOrigin + performance.now() }),
      (error) => {
        console.error(error);
        process.exit(1);
      },
    );
  });
  // Until the benchmark goes or sends SIGTERM.
  process.channel?.ref();
}
