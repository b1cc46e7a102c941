import type { Aftermath } from '../core/aftermath.ts';
import type { Settlement } from '../core/settlement.ts';
import { PostgresError, type Row, type Session, type Statement } from '../postgres/database.ts';
import { isKeptAlone, settleKeptStatement } from './settle-kept.ts';

/**
 * Records a group of finished requests: deletes their queue rows and inserts their responses, in one statement.
 *
 * Fenced: the lock on the worker's own row excludes whoever would declare it dead, so either everything here happens
 * before that, or nothing. While our registration stands, nobody else can have taken a row of ours; one that is missing
 * was deleted by a user, and its response is recorded all the same. Which that are is asked only where some are.
 */
const settleStatement: Statement = {
  name: 'pgfetch_settle',
  text: `
    with me as materialized (
      select w.id from net.worker w where w.id = $1 for key share
    ),
    finished as materialized (
      select *
      from rows from (
        unnest(
          $2::bigint[], $3::integer[], $4::text[], $6::text[], $7::bytea[], $8::boolean[], $9::boolean[],
          $10::text[], $11::text[], $12::oid[], $13::oid[], $14::text[], $15::integer[], $16::text[],
          $17::text[], $18::text[], $19::integer[], $20::boolean[]
        ),
        pg_catalog.jsonb_array_elements($5::text::jsonb)
      ) as f (
        id, status_code, content_type, content, content_bytes, timed_out, truncated,
        error_msg, error_code, login_role, set_role, final_url, redirects, header_list,
        host, label, attempts, is_dead, headers
      )
      where exists (select from me)
    ),
    done as (
      -- By an array and not by a join: this plan is kept, and was made for an almost empty queue.
      delete from net.http_request_queue q
      -- What blocks its ordering key stays (blocking.ts).
      where q.id = any ($2) and q.claimed_by = $1 and q.due_at is distinct from 'infinity' and exists (select from me)
      returning 1
    )
    insert into net._http_response (
      id, status_code, content_type, headers, content, timed_out, error_msg, error_code,
      content_bytes, truncated, login_role, set_role, final_url, redirects, header_list,
      host, label, attempts, is_dead, created
    )
    select
      f.id, f.status_code, f.content_type, nullif(f.headers, 'null'), f.content, coalesce(f.timed_out, false),
      f.error_msg, f.error_code, f.content_bytes, f.truncated, f.login_role, f.set_role,
      f.final_url, f.redirects, f.header_list::jsonb,
      f.host, f.label, f.attempts, f.is_dead, pg_catalog.clock_timestamp()
    from finished f
    where (select pg_catalog.count(*) from done) = pg_catalog.cardinality($2)
      or (select q.claimed_by is not distinct from $1 from net.http_request_queue q where q.id = f.id) is not false
    returning id`,
};

/**
 * The same for one row that was refused: waits for nobody's lock, and a response that is there already (the connection was
 * lost after the commit and before its answer) counts as recorded.
 */
const settleOneStatement: Statement = {
  name: 'pgfetch_settle_one',
  text: `
    with me as materialized (
      select w.id from net.worker w where w.id = $1 for key share
    ),
    held as materialized (
      select q.id
      from net.http_request_queue q
      where q.id = $2 and q.claimed_by = $1
      for update skip locked
    ),
    finished as materialized (
      select $2::bigint as id
      where exists (select from me)
        and (exists (select from held) or not exists (select from net.http_request_queue q where q.id = $2))
    ),
    done as (
      delete from net.http_request_queue q
      where q.id = $2 and q.due_at is distinct from 'infinity' and exists (select from finished)
    ),
    recorded as (
      insert into net._http_response (
        id, status_code, content_type, headers, content, timed_out, error_msg, error_code,
        content_bytes, truncated, login_role, set_role, final_url, redirects, header_list,
        host, label, attempts, is_dead, created
      )
      select
        f.id, $3::integer, $4::text, $5::text::jsonb, $6::text, $8::boolean, $10::text, $11::text,
        $7::bytea, $9::boolean, $12::oid, $13::oid, $14::text, $15::integer, $16::text::jsonb,
        $17::text, $18::text, $19::integer, $20::boolean,
        pg_catalog.clock_timestamp()
      from finished f
      on conflict (id) do nothing
    )
    select f.id from finished f`,
};

/**
 * Deletes the queue rows of requests of which no response is kept. Fenced as the others, and waits for nobody's lock; one that
 * a user deleted meanwhile counts as recorded, too.
 */
const forgetStatement: Statement = {
  name: 'pgfetch_forget',
  text: `
    with me as materialized (
      select w.id from net.worker w where w.id = $1 for key share
    ),
    held as materialized (
      select q.id
      from net.http_request_queue q
      where q.id = any ($2::bigint[]) and q.claimed_by = $1 and exists (select from me)
      for update skip locked
    ),
    done as (
      delete from net.http_request_queue q
      where q.id = any (array(select h.id from held h)) and q.due_at is distinct from 'infinity'
    )
    select f.id, q.id is not null and not exists (select from held h where h.id = f.id) as is_locked
    from unnest($2::bigint[]) as f (id)
    left join lateral (select * from net.http_request_queue w where w.id = f.id limit 1) q on true
    where exists (select from me) and (q.id is null or q.claimed_by = $1)`,
};

/** A column of the group; where it is null throughout, as several are in most groups, NULL is all that travels. */
function column<T>(values: readonly (T | null)[]): readonly (T | null)[] | null {
  return values.every((value) => value === null) ? null : values;
}

/** The attempts as they are recorded: only where there was more than one. */
function attemptsOf(aftermath: Aftermath | undefined): number | null {
  return aftermath !== undefined && aftermath.attempt > 1 ? aftermath.attempt : null;
}

/** Records their responses; returns the ids that are recorded. Fewer than given: the worker has lost its registration. */
export async function recordResponses(
  session: Session,
  workerId: bigint,
  group: readonly Settlement[],
): Promise<readonly bigint[]> {
  const areKept = group.every((s) => isKeptAlone(s.aftermath));
  const rows = await session.query<Row & { id: bigint }>(areKept ? settleKeptStatement : settleStatement, [
    workerId,
    group.map((s) => s.id),
    column(group.map((s) => s.statusCode)),
    column(group.map((s) => s.contentType)),
    `[${group.map((s) => s.headersJson ?? 'null').join(',')}]`,
    column(group.map((s) => s.content)),
    column(group.map((s) => s.contentBytes)),
    column(group.map((s) => s.timedOut || null)),
    column(group.map((s) => s.truncated)),
    column(group.map((s) => s.errorMessage)),
    column(group.map((s) => s.errorCode)),
    column(group.map((s) => s.loginRole)),
    column(group.map((s) => s.setRole)),
    column(group.map((s) => s.finalUrl)),
    column(group.map((s) => s.redirects)),
    column(group.map((s) => s.headerListJson)),
    column(group.map((s) => s.host)),
    column(group.map((s) => s.aftermath?.label ?? null)),
    column(group.map(({ aftermath }) => attemptsOf(aftermath))),
    column(group.map((s) => s.aftermath?.state === 'dead' || null)),
    ...(areKept ? [group.map((s) => s.aftermath?.state ?? null)] : []),
  ]);
  return rows.map((row) => row.id);
}

/** Records one response that was refused in a group; nothing where somebody has locked its request. */
export async function recordOneResponse(session: Session, workerId: bigint, s: Settlement): Promise<readonly bigint[]> {
  const rows = await session.query<Row & { id: bigint }>(settleOneStatement, [
    workerId,
    s.id,
    s.statusCode,
    s.contentType,
    s.headersJson,
    s.content,
    s.contentBytes,
    s.timedOut,
    s.truncated,
    s.errorMessage,
    s.errorCode,
    s.loginRole,
    s.setRole,
    s.finalUrl,
    s.redirects,
    s.headerListJson,
    s.host,
    s.aftermath?.label ?? null,
    attemptsOf(s.aftermath),
    s.aftermath?.state === 'dead' || null,
  ]);
  return rows.map((row) => row.id);
}

/** Whether a row of `net._http_response` is kept at all. */
export function hasResponse(settlement: Settlement): boolean {
  return settlement.aftermath?.keep !== 'none';
}

/** Of those whose response is not kept, only the requests are deleted. */
export async function forget(
  session: Session,
  workerId: bigint,
  part: readonly Settlement[],
): Promise<readonly bigint[]> {
  type Forgotten = Row & { id: bigint; is_locked: boolean };
  const rows = await session.query<Forgotten>(forgetStatement, [workerId, part.map((s) => s.id)]);
  if (rows.some((row) => row.is_locked)) {
    throw locked;
  }
  return rows.map((row) => row.id);
}

/** Somebody else has locked the request. */
export const locked: PostgresError = new PostgresError('the request is locked by another transaction', '55P03');

const lockedStatement: Statement = {
  name: 'pgfetch_locked',
  text: `
    with free as materialized (
      select q.id
      from net.http_request_queue q
      where q.id = any ($2::bigint[]) and q.claimed_by = $1
      for update skip locked
    )
    select q.id
    from net.http_request_queue q
    where q.id = any ($2::bigint[]) and q.claimed_by = $1 and q.id not in (select f.id from free f)`,
};

/** Which of these requests somebody else has locked. Waits for nobody. */
export async function lockedOf(session: Session, workerId: bigint, ids: readonly bigint[]): Promise<readonly bigint[]> {
  const rows = await session.query<Row & { id: bigint }>(lockedStatement, [workerId, ids]);
  return rows.map((row) => row.id);
}
