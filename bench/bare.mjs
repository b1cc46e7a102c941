// The same requests by undici's dispatcher alone, over 50 keep-alive connections: what the HTTP client could do at best.
import { Agent } from 'undici';

/** @returns {Promise<number>} requests a second */
export async function bare(origin, requests, body) {
  const agent = new Agent({ connections: 50, pipelining: 1 });
  const request = {
    origin,
    path: '/',
    method: body === undefined ? 'GET' : 'POST',
    headers: body === undefined ? [] : ['content-type', 'application/json'],
    body: body ?? null,
  };
  const began = performance.now();
  await new Promise((resolve, reject) => {
    let sent = 0;
    let done = 0;
    const next = () => {
      if (sent === requests) return;
      sent += 1;
      agent.dispatch(request, {
        onRequestStart() {},
        onResponseStart() {},
        onResponseData() {},
        onResponseEnd() {
          done += 1;
          if (done === requests) resolve();
          else next();
        },
        onResponseError: (_controller, error) => reject(error),
      });
    };
    for (let i = 0; i < 50; i++) next();
  });
  const seconds = (performance.now() - began) / 1_000;
  await agent.close();
  return requests / seconds;
}
