import { expect, test } from 'vitest';
import type { Outcome, Reply } from '../../src/core/outcome.ts';
import { httpServer, request, testClient } from './loopback.ts';

const mib = 1024 * 1024;

test('large bodies wait for each other until they are recorded; small ones do not wait', async () => {
  const { url } = await httpServer(({ url: path }, response) => {
    response.end(Buffer.alloc(path === '/large' ? mib : 60_000, 'x'));
  });
  // Two of them at a time.
  const client = testClient({ responseBytesMax: 16 * mib });
  const arrived: Reply[] = [];
  const sent = Array.from({ length: 5 }, () =>
    client.send(request(`${url}/large`, { timeoutMs: 20_000 })).then((outcome: Outcome) => {
      if (outcome.kind === 'reply') arrived.push(outcome);
      return outcome;
    }),
  );
  await expect.poll(() => arrived.length).toBe(2);
  for (let i = 0; i < 10; i++) {
    expect(await client.send(request(`${url}/small`))).toMatchObject({ kind: 'reply', truncated: false });
  }
  expect(arrived).toHaveLength(2);
  // One that is given up in the queue leaves its turn to the next.
  expect(await client.send(request(`${url}/large`, { timeoutMs: 100 }))).toMatchObject({ code: 'timed_out' });
  for (let released = 0; released < 5; released++) {
    await expect.poll(() => arrived.length).toBe(Math.min(5, released + 2));
    arrived[released]?.release?.();
  }
  for (const outcome of await Promise.all(sent)) {
    expect(outcome).toMatchObject({ kind: 'reply', status: 200, truncated: false });
    expect((outcome as Reply).body.byteLength).toBe(mib);
  }
});
