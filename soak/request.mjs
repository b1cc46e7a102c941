// What request number n looks like, on both sides: SQL makes it, the receiver checks it. Everything follows from n and the seed.
import { createHash } from 'node:crypto';

/** Shorter than any fault of the receiver's path may last: such a request fails, and its response says so. */
export const viaProxyTimeoutMs = 3_000;
/** Longer than any pause of a worker: a request that goes to the receiver directly never fails. */
export const directTimeoutMs = 20_000;
/** Longest that the receiver takes to answer. */
export const slowMsMax = 1_500;

export const methodOf = (n) => (n % 20 === 0 ? 'DELETE' : n % 2 === 1 ? 'POST' : 'GET');
/** Whether it goes through the proxy, whose faults it may suffer. */
export const isViaProxy = (n) => n % 7 < 2;
export const statusOf = (n) => (n % 101 === 0 ? 503 : 200);
/** How long the receiver takes: a few are slow, so that there is always something in flight. */
export const delayMsOf = (n) => (n % 97 === 0 ? 100 + ((n * 7) % (slowMsMax - 100)) : 0);
/** Unguessable without the seed: a path or body with it is the one that was asked for. */
export const checkOf = (seed, n) => createHash('md5').update(`${seed}:${n}`).digest('hex').slice(0, 16);
export const repeatsOf = (n) => n % 40;

/** The SQL side: `soak.ask(first, last)` enqueues those numbers, and notes their ids in the same transaction. */
export function askFunction(seed, directUrl, viaProxyUrl) {
  return `
    create schema soak;
    create table soak.asked (n integer not null, id bigint not null);
    create function soak.ask(first integer, last integer) returns void language sql as $$
      insert into soak.asked (n, id)
      select n,
        case
          when n % 20 = 0 then net.http_delete(url, headers := headers, timeout_milliseconds := timeout)
          when n % 2 = 1 then net.http_post(
            url,
            jsonb_build_object('n', n, 'check', chk, 'filler', repeat(chk, n % 40)),
            headers := headers,
            timeout_milliseconds := timeout
          )
          else net.http_get(url, headers := headers, timeout_milliseconds := timeout)
        end
      from generate_series(first, last) n
      cross join lateral (select left(md5('${seed}:' || n), 16)) as c (chk)
      cross join lateral (
        select
          case when n % 7 < 2 then '${viaProxyUrl}' else '${directUrl}' end || '/' || n || '/' || chk,
          jsonb_build_object('x-number', n::text),
          case when n % 7 < 2 then ${viaProxyTimeoutMs} else ${directTimeoutMs} end
      ) as r (url, headers, timeout)
    $$`;
}
