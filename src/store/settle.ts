import { charactersToCheck, type Settlement, unrecordable, withoutCharacters } from '../core/settlement.ts';
import { PostgresError, type Row, type Session, type Statement } from '../postgres/database.ts';

/**
 * Records a group of finished requests: deletes their queue rows and inserts their responses, in one statement.
 *
 * Fenced: the lock on the worker's own row excludes whoever would declare it dead, so either everything here happens
 * before that, or nothing. While our registration stands, nobody else can have taken a row of ours; one that is missing
 * was deleted by a user, and its response is recorded all the same.
 */
const settleStatement: Statement = {
  name: 'pgfetch_settle',
  text: `
    with me as materialized (
      select w.id from net.worker w where w.id = $1 for key share
    ),
    finished as materialized (
      select *
      from unnest(
        $2::bigint[], $3::integer[], $4::text[], $5::text[], $6::text[], $7::bytea[], $8::boolean[], $9::boolean[],
        $10::text[], $11::text[], $12::oid[], $13::oid[]
      ) as f (
        id, status_code, content_type, headers, content, content_bytes, timed_out, truncated,
        error_msg, error_code, login_role, set_role
      )
      where exists (select from me)
    ),
    done as (
      delete from net.http_request_queue q
      using finished f
      where q.id = f.id and q.claimed_by = $1
    )
    insert into net._http_response (
      id, status_code, content_type, headers, content, timed_out, error_msg, error_code,
      content_bytes, truncated, login_role, set_role, created
    )
    select
      f.id, f.status_code, f.content_type, f.headers::jsonb, f.content, f.timed_out, f.error_msg, f.error_code,
      f.content_bytes, f.truncated, f.login_role, f.set_role, pg_catalog.clock_timestamp()
    from finished f
    where not exists (
      select from net.http_request_queue q where q.id = f.id and q.claimed_by is distinct from $1
    )
    returning id`,
};

const unstorableStatement: Statement = {
  name: 'pgfetch_unstorable',
  text: 'select net._unstorable($1::bytea[]) as positions',
};

/** Records the group; returns the ids that are recorded. Fewer than given: the worker has lost its registration. */
async function settleAll(session: Session, workerId: bigint, group: readonly Settlement[]): Promise<readonly bigint[]> {
  const rows = await session.query<Row & { id: bigint }>(settleStatement, [
    workerId,
    group.map((s) => s.id.toString()),
    group.map((s) => s.statusCode),
    group.map((s) => s.contentType),
    group.map((s) => s.headersJson),
    group.map((s) => s.content),
    group.map((s) => s.contentBytes),
    group.map((s) => (s.timedOut ? 'true' : 'false')),
    group.map((s) => (s.truncated === null ? null : s.truncated ? 'true' : 'false')),
    group.map((s) => s.errorMessage),
    group.map((s) => s.errorCode),
    group.map((s) => s.loginRole),
    group.map((s) => s.setRole),
  ]);
  return rows.map((row) => row.id);
}

/**
 * Records a group of finished requests; returns the ids that are recorded. A row that the database refuses (a character
 * that its encoding lacks) is isolated by halving the group and recorded as best it can be: it never fails the others.
 */
export async function settle(
  session: Session,
  workerId: bigint,
  group: readonly Settlement[],
): Promise<readonly bigint[]> {
  try {
    return await settleAll(session, workerId, group);
  } catch (error) {
    if (!(error instanceof PostgresError) || !isAboutTheData(error)) {
      throw error;
    }
    const [only] = group;
    if (group.length === 1 && only !== undefined) {
      return settleRefused(session, workerId, only, error);
    }
    const half = group.length >> 1;
    const first = await settle(session, workerId, group.slice(0, half));
    return [...first, ...(await settle(session, workerId, group.slice(half)))];
  }
}

async function settleRefused(
  session: Session,
  workerId: bigint,
  settlement: Settlement,
  refusal: PostgresError,
): Promise<readonly bigint[]> {
  if (refusal.code === uniqueViolation) {
    // Recorded already: the connection was lost after the commit and before its answer.
    return [settlement.id];
  }
  const lacking = await unstorable(session, charactersToCheck(settlement));
  try {
    return await settleAll(session, workerId, [withoutCharacters(settlement, lacking)]);
  } catch (error) {
    if (!(error instanceof PostgresError) || !isAboutTheData(error)) {
      throw error;
    }
    return settleAll(session, workerId, [unrecordable(settlement, error.code)]);
  }
}

async function unstorable(session: Session, characters: ReadonlySet<string>): Promise<ReadonlySet<string>> {
  const list = [...characters];
  const encoder = new TextEncoder();
  const [row] = await session.query<Row & { positions: readonly number[] }>(unstorableStatement, [
    list.map((character) => encoder.encode(character)),
  ]);
  return new Set((row?.positions ?? []).map((position) => list[position - 1] ?? ''));
}

const uniqueViolation = '23505';

/** Class 22 (data exception), 23 (constraint), 54 (program limit exceeded): another row may well be accepted. */
function isAboutTheData(error: PostgresError): boolean {
  return /^(22|23|54)/.test(error.code);
}
