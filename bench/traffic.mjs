// Steady traffic: so many requests a second, one per transaction, from eight sessions, whatever becomes of them.
import { setTimeout as sleep } from 'node:timers/promises';
import { now } from './processes.mjs';

const clientCount = 8;

/** Each session of its own is opened by `session`. */
export async function openTraffic(session, url) {
  const clients = await Promise.all(Array.from({ length: clientCount }, () => session()));
  const watching = await session();

  /**
   * @param {{ perSecond: number, goesOn: (sent: number) => boolean, watchFrom?: number }} how `watchFrom`: from which request on to
   *   look all the time which responses another session can see; none, if it is not given.
   * @returns {Promise<{ sent: number, seconds: number, asked: Map<string, number>, visibleMs: number[] }>} when each was asked for,
   *   by the server's clock, and, if watched, how long after its commit each response was visible.
   */
  return async function traffic({ perSecond, goesOn, watchFrom = Number.POSITIVE_INFINITY }) {
    const asked = new Map();
    const pending = new Map();
    const visibleMs = [];
    let sent = 0;
    let isOver = false;
    const began = performance.now();
    const watched = look();
    await Promise.all(clients.map(send));
    const seconds = (performance.now() - began) / 1_000;
    isOver = true;
    await watched;
    return { sent, seconds, asked, visibleMs };

    async function send(client) {
      while (goesOn(sent)) {
        const turn = sent;
        sent += 1;
        const wait = began + (turn * 1_000) / perSecond - performance.now();
        if (wait > 0) await sleep(wait);
        const { rows } = await client.query({
          name: 'ask',
          text: 'select net.http_get($1) as id, extract(epoch from clock_timestamp())::float8 * 1000 as at',
          values: [url],
        });
        asked.set(rows[0].id, rows[0].at);
        if (turn >= watchFrom) pending.set(rows[0].id, now());
      }
    }

    async function look() {
      while (!isOver || pending.size > 0) {
        if (pending.size > 0) {
          const { rows } = await watching.query({
            name: 'look',
            text: 'select id from net._http_response where id = any($1)',
            values: [[...pending.keys()]],
          });
          const seen = now();
          for (const { id } of rows) {
            visibleMs.push(seen - pending.get(id));
            pending.delete(id);
          }
        }
        await sleep(1);
      }
    }
  };
}

/** How long after it was asked for each response was recorded, by the server's clock. */
export async function recordedMs(sql, asked) {
  const ids = [...asked.keys()];
  let rows = [];
  while (rows.length < ids.length) {
    ({ rows } = await sql.query(
      'select id, extract(epoch from created)::float8 * 1000 as at from net._http_response where id = any($1)',
      [ids],
    ));
    await sleep(5);
  }
  return rows.map((row) => Math.max(0, row.at - asked.get(row.id)));
}
