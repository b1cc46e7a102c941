import { setTimeout as nap } from 'node:timers/promises';
import type { Database, Row, Session, Statement } from '../postgres/database.ts';

/** The response to a request: a row of `net._http_response`. */
export type AwaitedResponse = {
  readonly id: bigint;
  /** Null where there was no answer. */
  readonly statusCode: number | null;
  readonly contentType: string | null;
  /** Names as the server wrote them; of equal names the last. Null without an answer, and with `keep := 'status'`. */
  readonly headers: Readonly<Record<string, string>> | null;
  /** Where a name repeats: every header, in the order of the reply. */
  readonly headerList: readonly (readonly [name: string, value: string])[] | null;
  /** The body by its charset; null where empty or not kept. */
  readonly content: string | null;
  /** The exact body, only where `content` cannot hold it. */
  readonly contentBytes: Uint8Array | null;
  /** The body was longer than the limit: this is its beginning. */
  readonly truncated: boolean | null;
  readonly timedOut: boolean | null;
  /** Why there is no answer: for people, and for programs. Null where there is one. */
  readonly errorMessage: string | null;
  readonly errorCode: string | null;
  readonly finalUrl: string | null;
  readonly redirects: number | null;
  readonly host: string | null;
  readonly label: string | null;
  /** How often it was tried, where that is more than once. */
  readonly attempts: number | null;
  /** When it was recorded. */
  readonly created: Date;
};

export type AwaitOptions = {
  /** In milliseconds; default 60,000. 0: looks once. */
  readonly timeoutMs?: number | undefined;
  /** Ends the wait: the promise then rejects with its reason. The requests go on. */
  readonly signal?: AbortSignal | undefined;
};

const beginStatement: Statement = {
  name: 'pgfetch_await_begin',
  text: `
    select
      net._last_running_xid() as last_xid,
      (extract(epoch from pg_catalog.clock_timestamp()) * 1000)::double precision + $1::double precision as deadline_ms`,
};

const endedStatement: Statement = {
  name: 'pgfetch_await_ended',
  text: 'select net._others_have_ended($1::bigint) as all_ended',
};

/** The first without a response, and whether the time is over: no further than that, so that many cost no more than one. */
const lookStatement: Statement = {
  name: 'pgfetch_await_look',
  text: `
    select i.place, pg_catalog.clock_timestamp() >= pg_catalog.to_timestamp($2::double precision / 1000) as is_over
    from unnest($1::bigint[]) with ordinality i (id, place)
    where (select true from net._http_response r where r.id = i.id) is null
    limit 1`,
};

const checkStatement: Statement = {
  name: 'pgfetch_await_check',
  text: 'select net._check_awaited($1::bigint[], pg_catalog.to_timestamp($2::double precision / 1000), $3::boolean)',
};

const refuseStatement: Statement = {
  name: 'pgfetch_await_refuse',
  text: 'select net._refuse_to_wait_on($1::bigint[])',
};

const readStatement: Statement = {
  name: 'pgfetch_await_read',
  text: `
    select
      r.id, r.status_code, r.content_type, r.headers::text, r.header_list::text, r.content, r.content_bytes, r.truncated,
      r.timed_out, r.error_msg, r.error_code, r.final_url, r.redirects, r.host, r.label, r.attempts, r.created
    from unnest($1::bigint[]) with ordinality i (id, place)
    cross join lateral (select * from net._http_response w where w.id = i.id limit 1) r
    order by i.place`,
};

const firstNapMs = 2;
const napMaxMs = 250;

/**
 * Waits until each of the requests has a response; returns these in the order of `ids`. The connection is free between the
 * looks, which are short statements at growing distances, and no transaction is open meanwhile: where `net.await` in SQL holds
 * a session, this holds none, and it works on PGlite. What `net.await` raises is thrown as a `PostgresError` of the same code:
 * NET01 at the time-out, P0002 for an id that is unknown, 55000 where no response is kept.
 */
export async function awaitResponses(
  db: Database,
  ids: readonly (bigint | number)[],
  options: AwaitOptions = {},
): Promise<readonly AwaitedResponse[]> {
  const { timeoutMs = 60_000, signal } = options;
  if (!(timeoutMs >= 0)) {
    throw new RangeError(`timeoutMs must not be negative: ${timeoutMs}`);
  }
  type Begin = Row & { last_xid: bigint; deadline_ms: number };
  const [begin] = await db.query<Begin>(beginStatement, [timeoutMs]);
  if (begin === undefined) {
    throw new Error('the statement that begins to wait returned no row');
  }
  let missing = ids;
  let allEnded = false;
  for (let napMs = firstNapMs; ; napMs = Math.min(napMs * 2, napMaxMs)) {
    signal?.throwIfAborted();
    const hadEnded = allEnded;
    // Before the look, as net.await has it: what had committed by then is seen.
    allEnded ||= await haveEnded(db, begin.last_xid);
    const [look] = await db.query<Row & { place: bigint; is_over: boolean }>(lookStatement, [
      missing,
      begin.deadline_ms,
    ]);
    if (look === undefined) {
      const rows = await db.query<ResponseRow>(readStatement, [ids]);
      if (rows.length === ids.length) {
        return rows.map(responseOf);
      }
      // One has expired meanwhile: the next look finds that it is no more.
      missing = ids;
      allEnded = false;
      continue;
    }
    missing = missing.slice(Number(look.place) - 1);
    const looked = napMs === firstNapMs || allEnded !== hadEnded ? missing : missing.slice(0, 1);
    await db.query(checkStatement, [looked, begin.deadline_ms, allEnded]);
    if (look.is_over) {
      await db.query(refuseStatement, [missing]);
    }
    await nap(napMs, undefined, signal === undefined ? {} : { signal }).catch((error: unknown) => {
      signal?.throwIfAborted();
      throw error;
    });
  }
}

async function haveEnded(session: Session, lastXid: bigint): Promise<boolean> {
  const [row] = await session.query<Row & { all_ended: boolean }>(endedStatement, [lastXid]);
  return row?.all_ended === true;
}

type ResponseRow = Row & {
  id: bigint;
  status_code: number | null;
  content_type: string | null;
  headers: string | null;
  header_list: string | null;
  content: string | null;
  content_bytes: Uint8Array | null;
  truncated: boolean | null;
  timed_out: boolean | null;
  error_msg: string | null;
  error_code: string | null;
  final_url: string | null;
  redirects: number | null;
  host: string | null;
  label: string | null;
  attempts: number | null;
  created: Date;
};

function responseOf(row: ResponseRow): AwaitedResponse {
  return {
    id: row.id,
    statusCode: row.status_code,
    contentType: row.content_type,
    headers: row.headers === null ? null : JSON.parse(row.headers),
    headerList: row.header_list === null ? null : JSON.parse(row.header_list),
    content: row.content,
    contentBytes: row.content_bytes,
    truncated: row.truncated,
    timedOut: row.timed_out,
    errorMessage: row.error_msg,
    errorCode: row.error_code,
    finalUrl: row.final_url,
    redirects: row.redirects,
    host: row.host,
    label: row.label,
    attempts: row.attempts,
    created: row.created,
  };
}
