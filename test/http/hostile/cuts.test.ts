import { describe, expect, it } from 'vitest';
import { expectReply, request, testClient, text } from '../loopback.ts';
import { answered, failures, type Row, rowLeftBy } from './rows.ts';
import { type Afterwards, hostileServer, type Misbehaviour, replying } from './servers.ts';

// A reply that is cut at every byte of it, by the end of the connection or by a reset.

const head = 'HTTP/1.1 200 OK\r\n';

const replies = [
  { kind: 'with a length', headers: 'A: b\r\nContent-Length: 2\r\n\r\n', body: 'ok' },
  { kind: 'in chunks', headers: 'Transfer-Encoding: chunked\r\n\r\n', body: '1\r\no\r\n1\r\nk\r\n0\r\nT: x\r\n\r\n' },
  { kind: 'to the end of the connection', headers: 'A: b\r\n\r\n', body: 'ok' },
] as const;

/** The row of a reply of which only `bytes` came. */
function rowOfCut(reply: (typeof replies)[number], bytes: number, by: Afterwards): Row {
  const headersJson = JSON.stringify(
    Object.fromEntries(
      reply.headers
        .trim()
        .split('\r\n')
        .map((line) => line.split(': ')),
    ),
  );
  const whole = head.length + reply.headers.length + reply.body.length;
  const toTheEnd = reply.kind === 'to the end of the connection';

  if (bytes >= whole && !(toTheEnd && by === 'reset')) return answered({ headersJson });
  if (by === 'reset') return failures.receive;
  if (bytes < head.length) return failures.empty;
  if (bytes < head.length + reply.headers.length) return failures.receive;
  if (!toTheEnd) return failures.partial;
  return answered({ headersJson, content: 'ok'.slice(0, bytes - head.length - reply.headers.length) || null });
}

describe.each(replies)('a reply $kind', (reply) => {
  const bytes = head + reply.headers + reply.body;

  it.each(['end', 'reset'] as const)('cut by the %s at every byte', async (by) => {
    const cutAt: Record<string, Misbehaviour> = {};
    for (let at = 0; at <= bytes.length; at++) cutAt[`GET /${at} `] = replying(bytes.slice(0, at), by);
    const server = await hostileServer((socket, arrived) => {
      cutAt[arrived.slice(0, arrived.indexOf('HTTP/'))]?.(socket, arrived);
    });
    const client = testClient();
    const wrong: unknown[] = [];
    for (let at = 0; at <= bytes.length; at++) {
      const row = await rowLeftBy(client, `${server.url}/${at}`);
      const expected = rowOfCut(reply, at, by);
      if (!isDeepEqual(row, expected)) wrong.push({ cut: bytes.slice(0, at), row, expected });
      expect(text(expectReply(await client.send(request(`${server.url}/good`))))).toBe('good');
    }
    expect(wrong).toEqual([]);
    await client.close();
    await server.idle();
  });
});

function isDeepEqual(one: Row, other: Row): boolean {
  return JSON.stringify(one) === JSON.stringify(other);
}
