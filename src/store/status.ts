import type { Row, Session, Statement } from '../postgres/database.ts';

/**
 * Looks at the `$1` oldest requests of the queue: through the primary key, because claims go in the order of ids, so what is
 * in flight and what has waited longest is among them, however long the queue is. What is due later does not wait: it is
 * counted by itself, and so is what failed and holds up its ordering key, which is due at infinity.
 */
const queueStatement: Statement = {
  name: 'pgfetch_status_queue',
  text: `
    with seen as materialized (
      select q.id, q.claimed_by, q.due_at, q.created,
        q.claimed_by is null and (q.due_at is null or q.due_at <= pg_catalog.clock_timestamp()) as waits
      from net.http_request_queue q order by q.id limit $1
    ),
    oldest as materialized (
      select q.id, q.method, q.url,
        (extract(epoch from pg_catalog.clock_timestamp() - greatest(q.created, q.due_at)) * 1000)::double precision as age_ms
      from net.http_request_queue q
      where q.id = (
        select s.id from seen s where s.waits order by greatest(s.created, s.due_at) nulls last, s.id limit 1
      )
    )
    select
      pg_catalog.count(*) as seen,
      pg_catalog.count(*) filter (where s.waits) as waiting,
      pg_catalog.count(*) filter (where s.claimed_by is not null) as in_flight,
      pg_catalog.count(*) filter (where s.waits and s.due_at is not null) as came_back,
      pg_catalog.count(*) filter (where s.claimed_by is null and not s.waits and s.due_at < 'infinity') as later,
      pg_catalog.count(*) filter (where s.claimed_by is null and s.due_at = 'infinity') as blocking,
      pg_catalog.pg_stat_get_live_tuples('net.http_request_queue'::regclass) as estimate,
      (select o.id from oldest o) as oldest_id,
      (select o.method from oldest o) as oldest_method,
      (select o.url from oldest o) as oldest_url,
      (select o.age_ms from oldest o) as oldest_age_ms
    from seen s`,
};

const workersStatement: Statement = {
  name: 'pgfetch_status_workers',
  text: `
    select
      w.id, w.name, w.version, w.started, w.pid,
      (select r.rolname::text from pg_catalog.pg_roles r where r.oid = w.role) as role,
      (extract(epoch from w.lease_until - pg_catalog.clock_timestamp()) * 1000)::double precision as lease_ms,
      -- As net._session_lives has it, which not everybody who may read this table may call.
      case
        when w.pid is null then w.lease_until > pg_catalog.clock_timestamp()
        else exists (
          select
          from pg_catalog.pg_stat_activity a
          where a.pid = w.pid and (a.backend_start is null or a.backend_start = w.backend_start)
        )
      end as lives
    from net.worker w
    order by w.id
    limit $1`,
};

const responsesStatement: Statement = {
  name: 'pgfetch_status_responses',
  text: `
    with recent as materialized (
      select r.created, r.status_code from net._http_response r order by r.created desc limit $1
    )
    select
      pg_catalog.count(*) as seen,
      (extract(epoch from pg_catalog.clock_timestamp() - pg_catalog.min(r.created)) * 1000)::double precision as span_ms,
      pg_catalog.count(*) filter (where r.created > pg_catalog.clock_timestamp() - interval '1 minute') as last_1,
      pg_catalog.count(*) filter (where r.created > pg_catalog.clock_timestamp() - interval '5 minutes') as last_5,
      pg_catalog.count(*) filter (where r.status_code >= 400) as http_errors
    from recent r`,
};

const failuresStatement: Statement = {
  name: 'pgfetch_status_failures',
  text: `
    with recent as materialized (
      select r.created, r.error_code, r.error_msg from net._http_response r order by r.created desc limit $1
    )
    select coalesce(r.error_code, 'unknown') as code, pg_catalog.count(*) as count, pg_catalog.max(r.created) as last
    from recent r
    where r.error_msg is not null
    group by 1
    order by 2 desc, 1
    limit $2`,
};

const lastErrorsStatement: Statement = {
  name: 'pgfetch_status_errors',
  text: `
    with recent as materialized (
      select r.id, r.created, r.error_code, r.error_msg from net._http_response r order by r.created desc limit $1
    )
    select r.id, r.created, coalesce(r.error_code, 'unknown') as code, r.error_msg as message
    from recent r
    where r.error_msg is not null
    order by r.created desc, r.id desc
    limit $2`,
};

/** How much is looked at, so that looking is cheap on any queue. */
export type StatusLimits = {
  /** Requests of the queue. */
  readonly queueRowsMax: number;
  /** The latest responses. */
  readonly responseRowsMax: number;
  readonly workersMax: number;
  readonly errorsMax: number;
};

export const defaultStatusLimits: StatusLimits = Object.freeze({
  queueRowsMax: 100_000,
  responseRowsMax: 100_000,
  workersMax: 100,
  errorsMax: 10,
});

export type QueueStatus = {
  readonly waiting: number;
  readonly inFlight: number;
  /** Of those that wait: how many were given back, taken from a dead worker, or asked for later and are due by now. */
  readonly cameBack: number;
  /** Not due yet: scheduled, or to be tried again. */
  readonly later: number;
  /** Failed, and hold up their ordering key until they are redelivered or cancelled. */
  readonly blocking: number;
  /**
   * The queue is longer than what was looked at: `waiting` and `later` are shares of the server's estimate, as large as among the
   * oldest; `cameBack` and `blocking` count the oldest only.
   */
  readonly isEstimate: boolean;
  readonly oldest: {
    readonly id: bigint;
    readonly method: string;
    readonly url: string;
    readonly ageMs: number | null;
  } | null;
};

export type WorkerStatus = {
  readonly id: bigint;
  readonly name: string;
  readonly version: string;
  readonly role: string | null;
  readonly started: Date;
  readonly isAlive: boolean;
  /** Null where a pooler stands between. */
  readonly pid: number | null;
  /** Milliseconds until the lease ends; negative for an idle worker, which holds nothing. */
  readonly leaseMs: number;
};

export type ResponseStatus = {
  /** How many of the latest responses were looked at. */
  readonly sampled: number;
  /** There are older ones that were not. */
  readonly isCapped: boolean;
  /** How far back they go, in milliseconds; null where there is none. */
  readonly spanMs: number | null;
  readonly perMinute: { readonly last1Minute: number; readonly last5Minutes: number };
  /** Answers with a status of 400 and above, among those looked at. */
  readonly httpErrors: number;
};

export type FailureCount = { readonly code: string; readonly count: number; readonly last: Date };
export type LastError = {
  readonly id: bigint | null;
  readonly created: Date;
  readonly code: string;
  readonly message: string;
};

export type Status = {
  readonly queue: QueueStatus;
  readonly workers: readonly WorkerStatus[];
  readonly responses: ResponseStatus;
  readonly failures: readonly FailureCount[];
  readonly lastErrors: readonly LastError[];
};

/** Looks at the queue, the workers and the latest responses, within limits. Needs the rights of net_admin, net_worker or the owner. */
export async function readStatus(session: Session, limits: StatusLimits = defaultStatusLimits): Promise<Status> {
  return {
    queue: await readQueue(session, limits.queueRowsMax),
    workers: await readWorkers(session, limits.workersMax),
    responses: await readResponses(session, limits.responseRowsMax),
    failures: (
      await session.query<Row & { code: string; count: bigint; last: Date }>(failuresStatement, [
        limits.responseRowsMax,
        limits.errorsMax,
      ])
    ).map((row) => ({ code: row.code, count: Number(row.count), last: row.last })),
    lastErrors: await session.query<Row & LastError>(lastErrorsStatement, [limits.responseRowsMax, limits.errorsMax]),
  };
}

type QueueRow = Row & {
  seen: bigint;
  waiting: bigint;
  in_flight: bigint;
  came_back: bigint;
  later: bigint;
  blocking: bigint;
  estimate: bigint;
  oldest_id: bigint | null;
  oldest_method: string | null;
  oldest_url: string | null;
  oldest_age_ms: number | null;
};

/** The depth of the queue, counted up to `rowsMax` requests and estimated beyond. */
export async function readQueue(session: Session, rowsMax: number): Promise<QueueStatus> {
  const [row] = await session.query<QueueRow>(queueStatement, [rowsMax + 1]);
  if (row === undefined) {
    throw new Error('the queue statement returned no row');
  }
  const isEstimate = Number(row.seen) > rowsMax;
  const inFlight = Number(row.in_flight);
  const blocking = Number(row.blocking);
  const rest = Number(row.seen) - inFlight - blocking;
  const share = (counted: bigint): number =>
    isEstimate && rest > 0
      ? Math.max(Math.round(((Number(row.estimate) - inFlight - blocking) * Number(counted)) / rest), Number(counted))
      : Number(counted);
  return {
    waiting: share(row.waiting),
    inFlight,
    cameBack: Number(row.came_back),
    later: share(row.later),
    blocking,
    isEstimate,
    oldest:
      row.oldest_id === null
        ? null
        : {
            id: row.oldest_id,
            method: row.oldest_method ?? '',
            url: row.oldest_url ?? '',
            ageMs: row.oldest_age_ms,
          },
  };
}

type WorkerRow = Row & {
  id: bigint;
  name: string;
  version: string;
  started: Date;
  pid: number | null;
  role: string | null;
  lease_ms: number;
  lives: boolean;
};

/** The registered workers, dead ones included until another worker buries them. */
export async function readWorkers(session: Session, workersMax: number): Promise<readonly WorkerStatus[]> {
  const rows = await session.query<WorkerRow>(workersStatement, [workersMax]);
  return rows.map(({ id, name, version, role, started, pid, lease_ms, lives }) => ({
    id,
    name,
    version,
    role,
    started,
    isAlive: lives,
    pid,
    leaseMs: lease_ms,
  }));
}

type ResponsesRow = Row & { seen: bigint; span_ms: number | null; last_1: bigint; last_5: bigint; http_errors: bigint };

async function readResponses(session: Session, rowsMax: number): Promise<ResponseStatus> {
  const [row] = await session.query<ResponsesRow>(responsesStatement, [rowsMax + 1]);
  if (row === undefined) {
    throw new Error('the responses statement returned no row');
  }
  const sampled = Number(row.seen);
  const isCapped = sampled > rowsMax;
  // Where the sample does not reach back far enough, its own span stands in for the minutes.
  const perMinute = (count: bigint, minutes: number): number => {
    const spanMinutes = (row.span_ms ?? 0) / 60_000;
    return Number(count) / (isCapped && spanMinutes < minutes ? Math.max(spanMinutes, 1 / 60_000) : minutes);
  };
  return {
    sampled,
    isCapped,
    spanMs: row.span_ms,
    perMinute: { last1Minute: perMinute(row.last_1, 1), last5Minutes: perMinute(row.last_5, 5) },
    httpErrors: Number(row.http_errors),
  };
}
