import {
  afterOutcomes,
  afterProbe,
  type Breaker,
  closedBreaker,
  type Tally,
  takeProbe,
  tallied,
  type Verdict,
} from '../core/breaker.ts';
import type { Database, Row, Session, Statement } from '../postgres/database.ts';

/** One row for each of the questions, in their order. */
const takeTokensStatement: Statement = {
  name: 'pgfetch_take_tokens',
  text: `
    select t.granted, t.wait_ms
    from net._take_tokens($1::text[], $2::double precision[], $3::text[], $4::double precision[], $5::integer[]) t
    order by t.place`,
};

const holdPermitsStatement: Statement = {
  name: 'pgfetch_hold_permits',
  text: `
    select p.allowed, p.contended
    from net._hold_permits($1, $2::text[], $3::integer[], $4::integer[], $5::integer[]) p
    order by p.place`,
};

const lockMetersStatement: Statement = {
  name: 'pgfetch_lock_meters',
  text: 'select net._lock_meters($1::text[])',
};

/** After the lock, so that it reads what those before it have written. */
const readBreakersStatement: Statement = {
  name: 'pgfetch_read_breakers',
  text: `
    select s.meter, s.state,
      (extract(epoch from s.since) * 1000)::double precision as since_ms,
      (extract(epoch from s.retry_at) * 1000)::double precision as retry_at_ms,
      s.openings, coalesce(s.tallies, '[]')::text as tallies,
      (extract(epoch from pg_catalog.clock_timestamp()) * 1000)::double precision as now_ms
    from net.limit_state s
    where s.meter = any ($1::text[])`,
};

/** Writes them, and tells the workers where `$7`. */
const writeBreakersStatement: Statement = {
  name: 'pgfetch_write_breakers',
  text: `
    with written as (
      update net.limit_state s
      set state = b.state,
          since = pg_catalog.to_timestamp(b.since_ms / 1000),
          retry_at = pg_catalog.to_timestamp(b.retry_at_ms / 1000),
          openings = b.openings,
          tallies = b.tallies::jsonb,
          used_at = pg_catalog.clock_timestamp()
      from unnest($1::text[], $2::text[], $3::double precision[], $4::double precision[], $5::integer[], $6::text[])
        b (meter, state, since_ms, retry_at_ms, openings, tallies)
      where s.meter = b.meter
    )
    select case when $7 then pg_catalog.pg_notify('net_breakers', '') end`,
};

/** Forgets what nobody has counted by for an hour. */
const forgetStatement: Statement = {
  name: 'pgfetch_forget_limits',
  text: `
    with unused as (
      select s.meter
      from net.limit_state s
      where s.used_at < pg_catalog.clock_timestamp() - interval '1 hour'
        and coalesce(s.next_at, '-infinity') < pg_catalog.clock_timestamp()
      limit 1000
      for update skip locked
    )
    delete from net.limit_state d using unused u where d.meter = u.meter`,
};

/** How many requests may be sent of a host and a key, which have a rate each or not. */
export type TokenRequest = {
  readonly hostMeter: string | null;
  readonly hostRate: number | null;
  readonly keyMeter: string | null;
  readonly keyRate: number | null;
  readonly wanted: number;
};

/** So many may be sent now, and after so long there may be more. */
export type TokenAnswer = { readonly granted: number; readonly waitMs: number };

/** How many requests at a time a worker would like to have, of those that a host or a key may have in sum. */
export type PermitRequest = {
  readonly meter: string;
  readonly limit: number;
  readonly inUse: number;
  /** In all. */
  readonly wants: number;
};

/** How many it may have, and whether others wait for more. */
export type PermitAnswer = { readonly allowed: number; readonly contended: boolean };

/** What has become of requests of a host or a key that has a breaker. */
export type BreakerReport = {
  readonly meter: string;
  readonly failures: number;
  readonly total: number;
  /** The probe that was this worker's to send has ended, with this verdict. */
  readonly probe: { readonly verdict: Verdict | undefined } | undefined;
  readonly wantsProbe: boolean;
};

/** How the breaker stands now. */
export type BreakerAnswer = {
  readonly state: Breaker['state'];
  /** In how many milliseconds a probe may be sent; 0 where it is closed. */
  readonly retryInMs: number;
  /** Of the window. */
  readonly failures: number;
  readonly total: number;
  /** The probe is this worker's to send. */
  readonly isProbe: boolean;
};

/** Takes what may be sent now, in sum over all workers. The answers are in the order of the requests. */
export async function takeTokens(session: Session, requests: readonly TokenRequest[]): Promise<readonly TokenAnswer[]> {
  const rows = await session.query<Row & { granted: number; wait_ms: number }>(takeTokensStatement, [
    requests.map(({ hostMeter }) => hostMeter),
    requests.map(({ hostRate }) => hostRate),
    requests.map(({ keyMeter }) => keyMeter),
    requests.map(({ keyRate }) => keyRate),
    requests.map(({ wanted }) => wanted),
  ]);
  return rows.map(({ granted, wait_ms }) => ({ granted, waitMs: wait_ms }));
}

/** Tells how many requests are under way, and asks for more or gives back. The answers are in the order of the requests. */
export async function holdPermits(
  session: Session,
  workerId: bigint,
  requests: readonly PermitRequest[],
): Promise<readonly PermitAnswer[]> {
  return await session.query<Row & PermitAnswer>(holdPermitsStatement, [
    workerId,
    requests.map(({ meter }) => meter),
    requests.map(({ limit }) => limit),
    requests.map(({ inUse }) => inUse),
    requests.map(({ wants }) => wants),
  ]);
}

type BreakerRow = Row & {
  meter: string;
  state: Breaker['state'];
  since_ms: number | null;
  retry_at_ms: number | null;
  openings: number;
  tallies: string;
  now_ms: number;
};

/** Tells what has become of requests, and returns how the breakers stand then, in the order of the reports. */
export async function reportOutcomes(
  db: Database,
  reports: readonly BreakerReport[],
  random: () => number,
): Promise<readonly BreakerAnswer[]> {
  const meters = reports.map(({ meter }) => meter);
  return await db.transaction(async (session) => {
    await session.query(lockMetersStatement, [meters]);
    const rows = await session.query<BreakerRow>(readBreakersStatement, [meters]);
    const before = new Map(rows.map((row) => [row.meter, row]));
    const standing = reports.map((report) => decided(report, before.get(report.meter), random));
    const isNews = standing.some(({ breaker }, place) => before.get(meters[place] ?? '')?.state !== breaker.state);
    await session.query(writeBreakersStatement, [
      meters,
      standing.map(({ breaker }) => breaker.state),
      standing.map(({ breaker }) => breaker.sinceMs ?? null),
      standing.map(({ breaker }) => breaker.retryAtMs ?? null),
      standing.map(({ breaker }) => breaker.openings),
      standing.map(({ breaker }) => JSON.stringify(breaker.tallies)),
      isNews,
    ]);
    return standing.map(({ answer }) => answer);
  });
}

function decided(
  { failures, total, probe, wantsProbe }: BreakerReport,
  row: BreakerRow | undefined,
  random: () => number,
): { readonly breaker: Breaker; readonly answer: BreakerAnswer } {
  const nowMs = row?.now_ms ?? 0;
  let breaker = row === undefined ? closedBreaker : breakerOf(row);
  if (probe !== undefined) breaker = afterProbe(breaker, probe.verdict, nowMs, random);
  breaker = afterOutcomes(breaker, { failures, total }, nowMs, random);
  const probing = wantsProbe ? takeProbe(breaker, nowMs) : undefined;
  breaker = probing ?? breaker;
  const answer = {
    state: breaker.state,
    retryInMs: breaker.retryAtMs === undefined ? 0 : breaker.retryAtMs - nowMs,
    ...tallied(breaker.tallies),
    isProbe: probing !== undefined,
  };
  return { breaker, answer };
}

function breakerOf({ state, since_ms, retry_at_ms, openings, tallies }: BreakerRow): Breaker {
  return {
    state,
    sinceMs: since_ms ?? undefined,
    retryAtMs: retry_at_ms ?? undefined,
    openings,
    tallies: JSON.parse(tallies) as Tally[],
  };
}

/** Forgets what is counted of hosts and keys that nothing has been sent to for an hour. A thousand at a time. */
export async function forgetUnusedLimits(session: Session): Promise<void> {
  await session.query(forgetStatement);
}
