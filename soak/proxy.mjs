// A TCP proxy that can be told to fail as networks do.
import net from 'node:net';

/**
 * Forwards connections at a port of `address` to `target`, until told to fail:
 *
 * - `reset()`: both ends of every connection get a reset, at once; new ones are forwarded.
 * - `silence()`: nothing gets through in either direction, new connections are accepted and lead nowhere.
 * - `halfOpen()`: the target sees its connections closed; the clients see nothing, and what they send is swallowed. New ones
 *   are forwarded.
 * - `delay(ms)`: every piece arrives that much later, give or take a half.
 *
 * `heal()` ends all of them; connections of which one end is gone are reset, as a firewall does that has forgotten them.
 *
 * @param {string} address
 * @param {{ host: string, port: number }} target
 */
export async function startProxy(address, target) {
  const pairs = new Set();
  let isSilent = false;
  let delayMs = 0;

  const server = net.createServer({ noDelay: true, allowHalfOpen: false }, (client) => {
    const pair = { client, upstream: undefined, hasLostOne: false, swallows: false };
    pairs.add(pair);
    client.on('error', () => {});
    client.on('close', () => lost(pair, pair.upstream));
    if (isSilent) client.pause();
    else connect(pair);
  });

  function connect(pair) {
    const upstream = net.connect({ ...target, noDelay: true });
    pair.upstream = upstream;
    upstream.on('error', () => {});
    upstream.on('close', () => lost(pair, pair.client));
    forward(pair, pair.client, upstream);
    forward(pair, upstream, pair.client);
  }

  function forward(pair, from, to) {
    /** What is under way, in order: timers of different lengths that end at the same instant fire in any. */
    const late = [];
    const arrive = () => {
      const nowMs = performance.now();
      while (late.length > 0 && late[0].dueMs <= nowMs) write(from, to, late.shift().data);
      if (late.length > 0) setTimeout(arrive, late[0].dueMs - nowMs);
    };
    from.on('data', (data) => {
      if (pair.swallows) return;
      if (delayMs === 0 && late.length === 0) {
        write(from, to, data);
        return;
      }
      const nowMs = performance.now();
      const dueMs = nowMs + delayMs * (0.5 + Math.random());
      late.push({ data, dueMs: Math.max(dueMs, late.at(-1)?.dueMs ?? 0) });
      if (late.length === 1) setTimeout(arrive, dueMs - nowMs);
    });
    from.on('end', () => {
      if (!isSilent && !pair.swallows) to.end();
    });
  }

  function write(from, to, data) {
    if (to.destroyed || to.write(data)) return;
    from.pause();
    to.once('drain', () => {
      if (!isSilent) from.resume();
    });
  }

  function lost(pair, other) {
    if (pair.hasLostOne || other === undefined) pairs.delete(pair);
    pair.hasLostOne = true;
    if (!isSilent && !pair.swallows) other?.destroy();
  }

  function cut(pair) {
    pairs.delete(pair);
    pair.client.resetAndDestroy();
    pair.upstream?.resetAndDestroy();
  }

  await new Promise((resolve, reject) => server.once('error', reject).listen(0, address, resolve));
  return {
    port: server.address().port,
    reset() {
      for (const pair of pairs) cut(pair);
    },
    silence() {
      isSilent = true;
      for (const { client, upstream } of pairs) {
        client.pause();
        upstream?.pause();
      }
    },
    halfOpen() {
      for (const pair of pairs) {
        pair.swallows = true;
        pair.upstream?.destroy();
      }
    },
    delay(ms) {
      delayMs = ms;
    },
    heal() {
      isSilent = false;
      delayMs = 0;
      for (const pair of pairs) {
        if (pair.hasLostOne || pair.swallows) cut(pair);
        else if (pair.upstream === undefined) {
          connect(pair);
          pair.client.resume();
        } else {
          pair.client.resume();
          pair.upstream.resume();
        }
      }
    },
    async close() {
      for (const pair of pairs) cut(pair);
      await new Promise((resolve) => server.close(resolve));
    },
  };
}
