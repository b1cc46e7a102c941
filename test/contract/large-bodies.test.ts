import { createHash } from 'node:crypto';
import { describe, expect, test } from 'vitest';
import { httpServer } from '../http/loopback.ts';
import { newestBackends } from './backends.ts';

describe.each(newestBackends)('$name', (backend) => {
  test('a body arrives as it is, whatever its size', async () => {
    const stage = await backend.open();
    const arrived = new Map<string, string>();
    const { url } = await httpServer((request, response) => {
      const hash = createHash('sha256');
      request.on('data', (part: Buffer) => hash.update(part));
      request.on('end', () => {
        arrived.set(request.url ?? '', hash.digest('hex'));
        response.end();
      });
    });
    // About 64 KiB, up to which it comes with the claim; about 1 MiB, of which its parts are; and beyond.
    const sizes = [0, 1, 65_536, 65_537, 1_048_576, 1_048_577, 3_000_000, 20_000_000];
    const sent = new Map<string, string>();
    for (const size of sizes) {
      // Digests do not compress, so that it is stored in pieces; that of the next is of one piece, compressed.
      for (const [kind, unit] of [
        ['hard', `select string_agg(sha256(int4send(n)), '' order by n) from generate_series(0, ${size} / 32) n`],
        ['soft', `select convert_to(repeat('é', ${size} / 2 + 1), 'UTF8')`],
      ] as const) {
        const [row] = await stage.sql.query<{ hash: string }>(`
          with made as (select substr((${unit}), 1, ${size}) as body),
          asked as (
            insert into net.http_request_queue (method, url, headers, body, timeout_milliseconds)
            select 'POST', '${url}/${kind}/${size}', '{}', body, 60000 from made
          )
          select encode(sha256(body), 'hex') as hash, net.wake() from made`);
        sent.set(`/${kind}/${size}`, row?.hash ?? '');
      }
    }
    await stage.responses(sent.size);
    expect(arrived).toEqual(sent);
    expect(await stage.count('net._http_response where status_code = 200')).toBe(sent.size);
  });
});
