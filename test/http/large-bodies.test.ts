import type { ServerResponse } from 'node:http';
import { expect, test } from 'vitest';
import type { Reply } from '../../src/core/outcome.ts';
import type { HttpClient } from '../../src/http/client.ts';
import { expectReply, httpServer, request, testClient } from './loopback.ts';

const mib = 1024 * 1024;
/** Of the limit of a body there fit three into what one role may hold; one more may overdraw. */
const limit = 8 * mib;
const largeAtOnce = 4;

/** Answers `/small` with what is small, all else with as much as is kept. */
async function serveBodies(): Promise<string> {
  const { url } = await httpServer(({ url: path }, response) => {
    response.end(Buffer.alloc(path === '/small' ? 60_000 : limit, 'x'));
  });
  return url;
}

/** Sends requests for large bodies at once; they arrive in the list. */
function sendLarge(client: HttpClient, url: string, count: number, role: number): Reply[] {
  const arrived: Reply[] = [];
  for (let i = 0; i < count; i++) {
    void client
      .send(request(url, { timeoutMs: 30_000, role }))
      .then((outcome) => outcome.kind === 'reply' && arrived.push(outcome));
  }
  return arrived;
}

test('large bodies wait for each other until they are recorded; small ones do not wait', async () => {
  const url = await serveBodies();
  const client = testClient({ connectionsPerOriginMax: 100 });
  const arrived = sendLarge(client, url, 12, 1);
  let recorded = 0;
  while (recorded < 12) {
    await expect.poll(() => arrived.length, { timeout: 10_000 }).toBeGreaterThan(recorded);
    expect(expectReply(await client.send(request(`${url}/small`, { role: 1 })))).toMatchObject({ truncated: false });
    expect(arrived.length - recorded).toBeLessThanOrEqual(largeAtOnce);
    expect(arrived[recorded]?.body.byteLength).toBe(limit);
    arrived[recorded]?.release?.();
    recorded += 1;
  }
});

test('those of one role do not wait for those of another', async () => {
  const url = await serveBodies();
  const client = testClient({ connectionsPerOriginMax: 100 });
  const ofOne = sendLarge(client, url, 8, 1);
  await expect.poll(() => ofOne.length, { timeout: 10_000 }).toBeGreaterThanOrEqual(largeAtOnce - 1);
  const ofAnother = sendLarge(client, url, 4, 2);
  for (let recorded = 0; recorded < 4; recorded++) {
    await expect.poll(() => ofAnother.length, { timeout: 10_000 }).toBeGreaterThan(recorded);
    ofAnother[recorded]?.release?.();
  }
  for (const reply of ofOne) reply.release?.();
});

test('one that is given up while it waits leaves its turn to the next', async () => {
  const url = await serveBodies();
  const client = testClient({ connectionsPerOriginMax: 100 });
  const arrived = sendLarge(client, url, largeAtOnce + 1, 1);
  await expect.poll(() => arrived.length, { timeout: 10_000 }).toBeGreaterThanOrEqual(largeAtOnce - 1);
  const givenUp = Array.from({ length: 3 }, () => client.send(request(url, { timeoutMs: 100, role: 1 })));
  for (const outcome of await Promise.all(givenUp)) expect(outcome).toMatchObject({ code: 'timed_out' });
  for (let recorded = 0; recorded <= largeAtOnce; recorded++) {
    await expect.poll(() => arrived.length, { timeout: 10_000 }).toBeGreaterThan(recorded);
    arrived[recorded]?.release?.();
  }
});

test('servers that drip hold up no other large body', async () => {
  const url = await serveBodies();
  const dripping: ServerResponse[] = [];
  const { url: drips } = await httpServer((_incoming, response) => {
    response.write(Buffer.alloc(100_000, 'x'));
    dripping.push(response);
  });
  const client = testClient({ connectionsPerOriginMax: 100 });
  const dripped = sendLarge(client, drips, 4, 1);
  await expect.poll(() => dripping.length).toBe(4);
  const arrived = sendLarge(client, url, 10, 1);
  for (let recorded = 0; recorded < 10; recorded++) {
    await expect.poll(() => arrived.length, { timeout: 10_000 }).toBeGreaterThan(recorded);
    arrived[recorded]?.release?.();
    for (const response of dripping) response.write('x');
  }
  expect(dripped).toEqual([]);
  for (const response of dripping) response.end();
  await expect.poll(() => dripped.map(({ body }) => body.byteLength)).toEqual(Array(4).fill(100_010));
});
