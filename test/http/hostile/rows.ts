// What is recorded of a request to a hostile server, and what else must hold of each.
import { expect } from 'vitest';
import type { FailureCode, Outcome } from '../../../src/core/outcome.ts';
import type { SendableRequest } from '../../../src/core/request.ts';
import { type Settlement, settlementOf } from '../../../src/core/settlement.ts';
import type { HttpClient } from '../../../src/http/client.ts';
import { expectReply, httpServer, type RequestParts, request, testClient, text, watchDialling } from '../loopback.ts';
import { type Afterwards, type HostileServer, hostileServer, type Misbehaviour, replying } from './servers.ts';

/** The columns of a response row that tell what a server said, or why it said nothing. */
export type Row = Pick<Settlement, (typeof columns)[number]>;

const columns = [
  'statusCode',
  'contentType',
  'headersJson',
  'content',
  'contentBytes',
  'timedOut',
  'truncated',
  'errorMessage',
  'errorCode',
] as const;

/** The row of an answer; by default of `200` with `Content-Length: 2` and the body `ok`. */
export function answered(columns: Partial<Row> = {}): Row {
  return {
    statusCode: 200,
    contentType: null,
    headersJson: '{"Content-Length":"2"}',
    content: 'ok',
    contentBytes: null,
    timedOut: false,
    truncated: false,
    errorMessage: null,
    errorCode: null,
    ...columns,
  };
}

function failed(errorCode: FailureCode, errorMessage: string): Row {
  return {
    statusCode: null,
    contentType: null,
    headersJson: null,
    content: null,
    contentBytes: null,
    timedOut: errorCode === 'timed_out',
    truncated: null,
    errorMessage,
    errorCode,
  };
}

/** The time-out of requests that are to end by it. */
export const shortMs = 250;

/** Rows without an answer. */
export const failures = {
  notHttp: failed('bad_reply', 'Unsupported protocol'),
  weird: failed('bad_reply', 'Weird server reply'),
  headersTooLarge: failed('receive_failed', 'Failure when receiving data from the peer'),
  badCoding: failed('bad_content_encoding', 'Unrecognized or bad HTTP Content or Transfer-Encoding'),
  empty: failed('empty_reply', 'Server returned nothing (no headers, no data)'),
  receive: failed('receive_failed', 'Failure when receiving data from the peer'),
  partial: failed('receive_failed', 'Transferred a partial file'),
  send: failed('send_failed', 'Failed sending data to the peer'),
  tls: failed('tls_failed', 'SSL connect error'),
  tooManyRedirects: failed('too_many_redirects', 'Number of redirects hit maximum amount'),
  unsupportedScheme: failed('unsupported_scheme', 'Unsupported protocol'),
  invalidUrl: failed('invalid_url', 'URL using bad/illegal format or missing URL'),
  unresolvable: failed('unresolvable', "Couldn't resolve host name"),
  connect: failed('connect_failed', "Couldn't connect to server"),
  timedOut: failed(
    'timed_out',
    expect.stringMatching(
      /^Timeout of 250 ms reached\. Total time: \d+\.\d{6} ms \(DNS time: \d+\.\d{6} ms, TCP\/SSL handshake time: \d+\.\d{6} ms, HTTP Request\/Response time: \d+\.\d{6} ms\)$/,
    ),
  ),
} as const satisfies Readonly<Record<string, Row>>;

/** The row that an outcome leaves: with a status or an error, whatever happened. */
export function rowOf(claimed: SendableRequest, outcome: Outcome): Row {
  const settlement = settlementOf(claimed.row, outcome, undefined);
  settlement.release?.();
  const row = Object.fromEntries(columns.map((column) => [column, settlement[column]])) as Row;
  expect((row.statusCode === null) !== (row.errorMessage === null), 'a status or an error').toBe(true);
  expect((row.errorMessage === null) === (row.errorCode === null)).toBe(true);
  return row;
}

/** Sends a request and says which row it leaves. */
export async function rowLeftBy(client: HttpClient, url: string, parts: RequestParts = {}): Promise<Row> {
  const claimed = request(url, parts);
  return rowOf(claimed, await client.send(claimed));
}

export type HostileCase = {
  /** Which row must be left. */
  readonly row: Row;
  readonly request?: RequestParts & { readonly path?: string };
  readonly client?: Parameters<typeof testClient>[0];
  /** Whether the connection carries the next request, too; both are fine where it does not say. */
  readonly kept?: boolean;
};

/**
 * Sends one request to a server and expects its row; then that the client serves on (this server, as soon as it behaves, and
 * another one), and leaves no socket behind.
 */
export async function expectRow(
  server: HostileServer,
  { row, request: parts = {}, client: options, kept }: HostileCase,
) {
  const dialled = watchDialling();
  const client = testClient(options);
  const timeoutMs = row.timedOut ? shortMs : 10_000;
  expect(await rowLeftBy(client, `${server.url}${parts.path ?? '/'}`, { timeoutMs, ...parts })).toEqual(row);

  const connections = server.connections();
  expect(text(expectReply(await client.send(request(`${server.url}/good`)))), 'the next request').toBe('good');
  if (kept !== undefined) expect(server.connections() === connections, 'the connection is kept').toBe(kept);
  const other = await httpServer((_incoming, response) => response.end('elsewhere'));
  expect(text(expectReply(await client.send(request(other.url))))).toBe('elsewhere');

  await client.close();
  expect(dialled.sockets.every((socket) => socket.destroyed)).toBe(true);
  await server.idle();
}

/** The same for a server that answers with these bytes, and then waits, if it says nothing else. */
export type HostileReply = Omit<HostileCase, 'row'> & { readonly afterwards?: Afterwards };

/** What becomes of the connection: it is used again, or not, whatever ends it. */
export const kept: HostileReply = { kept: true };
export const notKept: HostileReply = { kept: false };
export const ended: HostileReply = { afterwards: 'end', kept: false };
export const reset: HostileReply = { afterwards: 'reset', kept: false };

export async function expectRowOfReply(bytes: string, row: Row, { afterwards, ...rest }: HostileReply = {}) {
  await expectRowOf(replying(bytes, afterwards), { row, ...rest });
}

/** The same for a server that does this. */
export async function expectRowOf(misbehave: Misbehaviour, hostileCase: HostileCase) {
  await expectRow(await hostileServer(misbehave), hostileCase);
}
