import type { Aftermath } from '../core/aftermath.ts';
import { charactersToCheck, type Settlement, unrecordable, withoutCharacters } from '../core/settlement.ts';
import { type Database, PostgresError, type Row, type Session, type Statement } from '../postgres/database.ts';
import { type Followed, putBackForRetry, recordAftermath } from './aftermath.ts';
import { holdKeys, leaveBlocking } from './blocking.ts';
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

const unstorableStatement: Statement = {
  name: 'pgfetch_unstorable',
  text: 'select net._unstorable($1::bytea[]) as positions',
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
async function recordResponses(
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

/** What became of a group. Neither recorded nor refused: the worker has lost its registration. */
export type Settled = {
  readonly recorded: readonly bigint[];
  /** Those that went back into the queue, to be tried again. */
  readonly returned: readonly bigint[];
  /** After how many milliseconds the first of them is due; Infinity where there is none. */
  readonly retryInMs: number;
  /** Functions are to be called for some of them. */
  readonly hasCallbacks: boolean;
  /** Rows that the database would not take by themselves: to be tried again later. */
  readonly refused: readonly Settlement[];
  /** Why the last of those was refused. */
  readonly refusal: PostgresError | undefined;
};

/** So many refusals without a success mean that it is not about the rows. */
const refusalsMax = 20;

/**
 * Records a group of finished requests. A row that the database refuses is isolated by halving the group, and recorded as
 * best it can be; one that is locked by a user, or that a trigger raises for, is handed back: it never fails the others.
 * Throws where nothing at all can be recorded.
 */
export async function settle(db: Database, workerId: bigint, group: readonly Settlement[]): Promise<Settled> {
  const recorded: bigint[] = [];
  const returned: bigint[] = [];
  const refused: Settlement[] = [];
  let refusal: PostgresError | undefined;

  const isDone = (): boolean => recorded.length + returned.length > 0;
  const note = (done: Done): void => {
    recorded.push(...done.recorded);
    returned.push(...done.returned);
    refused.push(...done.locked);
    refusal = done.locked.length > 0 ? locked : refusal;
  };
  const settleHalves = async (part: readonly Settlement[]): Promise<void> => {
    if (!isDone() && refused.length >= refusalsMax) {
      refused.push(...part);
      return;
    }
    try {
      note(await settleAll(db, workerId, part));
    } catch (error) {
      const [only] = part;
      if (part.length > 1 && isRefusal(error)) {
        const half = part.length >> 1;
        await settleHalves(part.slice(0, half));
        await settleHalves(part.slice(half));
      } else if (only !== undefined && isRefusal(error)) {
        const outcome = await settleOne(db, workerId, only);
        if (outcome instanceof PostgresError) {
          refusal = outcome;
          refused.push(only);
        } else {
          note(outcome);
        }
      } else {
        throw error;
      }
    }
  };

  for (const part of [
    group.filter(isPlain),
    group.filter((s) => isKeptAlone(s.aftermath)),
    group.filter((s) => isFollowed(s) && !isKeptAlone(s.aftermath)),
    group.filter(isRetried),
  ]) {
    if (part.length > 0) {
      await settleHalves(part);
    }
  }
  if (!isDone() && refusal !== undefined && !isAboutTheRow(refusal)) {
    throw refusal;
  }
  const isReturned = new Set(returned);
  const delaysMs = group.filter(({ id }) => isReturned.has(id)).map(({ aftermath }) => aftermath?.retryInMs ?? 0);
  return {
    recorded,
    returned,
    retryInMs: Math.min(...delaysMs),
    hasCallbacks: group.some((s) => isFollowed(s) && s.aftermath.callback !== undefined),
    refused,
    refusal,
  };
}

/** What was done with some of a group. */
type Done = Pick<Settled, 'recorded' | 'returned'> & {
  /** Somebody else has locked their rows. */
  readonly locked: readonly Settlement[];
};

function isPlain(settlement: Settlement): boolean {
  return settlement.aftermath === undefined;
}

function isRetried(settlement: Settlement): settlement is Followed {
  return settlement.aftermath?.retryInMs !== undefined;
}

function isFollowed(settlement: Settlement): settlement is Followed {
  return !isPlain(settlement) && !isRetried(settlement);
}

/** Settles requests of one kind: plain ones, those that are kept, those with a longer aftermath, or those that are to be tried again. */
async function settleAll(db: Database, workerId: bigint, part: readonly Settlement[]): Promise<Done> {
  if (part.every(isPlain) || part.every((s) => isKeptAlone(s.aftermath))) {
    return { recorded: await recordResponses(db, workerId, part), returned: [], locked: [] };
  } else if (part.every(isRetried)) {
    return await retryAll(db, workerId, part);
  }
  const recorded = await db.transaction(async (session) => {
    const followed = part.filter(isFollowed);
    await recordAftermath(session, workerId, followed);
    const blocking = followed.filter(({ aftermath }) => aftermath.blocksKey).map(({ id }) => id);
    await holdKeys(session, workerId, blocking);
    const [kept, forgotten] = [part.filter(hasResponse), part.filter((s) => !hasResponse(s))];
    const done = new Set([
      ...(kept.length > 0 ? await recordResponses(session, workerId, kept) : []),
      ...(forgotten.length > 0 ? await forget(session, workerId, forgotten) : []),
    ]);
    await leaveBlocking(
      session,
      workerId,
      blocking.filter((id) => done.has(id)),
    );
    return [...done];
  });
  return { recorded, returned: [], locked: [] };
}

/** Those whose request a user has deleted meanwhile are done: what the last attempt brought is their response. */
async function retryAll(db: Database, workerId: bigint, part: readonly Followed[]): Promise<Done> {
  const { returned, deleted, locked: lockedIds } = await putBackForRetry(db, workerId, part);
  const done = part.filter((s) => deleted.includes(s.id) && hasResponse(s));
  return {
    recorded: done.length > 0 ? await recordResponses(db, workerId, done) : [],
    returned,
    locked: part.filter(({ id }) => lockedIds.includes(id)),
  };
}

/** Whether a row of `net._http_response` is kept at all. */
function hasResponse(settlement: Settlement): boolean {
  return settlement.aftermath?.keep !== 'none';
}

async function forget(session: Session, workerId: bigint, part: readonly Settlement[]): Promise<readonly bigint[]> {
  type Forgotten = Row & { id: bigint; is_locked: boolean };
  const rows = await session.query<Forgotten>(forgetStatement, [workerId, part.map((s) => s.id)]);
  if (rows.some((row) => row.is_locked)) {
    throw locked;
  }
  return rows.map((row) => row.id);
}

/** One row that was refused: as it is, then without the characters that the database lacks, then as unrecordable. */
async function settleOne(db: Database, workerId: bigint, settlement: Settlement): Promise<Done | PostgresError> {
  let last: PostgresError = locked;
  const forms = [
    async (): Promise<Settlement> => settlement,
    async (): Promise<Settlement> => withoutCharacters(settlement, await unstorable(db, charactersToCheck(settlement))),
    async (): Promise<Settlement> => unrecordable(settlement, last.code),
  ];
  for (const form of forms) {
    try {
      const s = await form();
      if (isRetried(s)) {
        return await retryAll(db, workerId, [s]);
      }
      const recorded = isFollowed(s)
        ? await db.transaction((session) => recordOne(session, workerId, s))
        : await recordOne(db, workerId, s);
      return recorded.length > 0 ? { recorded, returned: [], locked: [] } : locked;
    } catch (error) {
      if (!isRefusal(error)) {
        throw error;
      }
      last = asPostgresError(error);
      if (!isAboutTheData(last)) {
        return last;
      }
    }
  }
  return last;
}

async function recordOne(session: Session, workerId: bigint, s: Settlement): Promise<readonly bigint[]> {
  const blocking = s.aftermath?.blocksKey === true ? [s.id] : [];
  if (isFollowed(s)) {
    await recordAftermath(session, workerId, [s]);
    await holdKeys(session, workerId, blocking);
  }
  if (!hasResponse(s)) {
    const forgotten = await forget(session, workerId, [s]);
    await leaveBlocking(session, workerId, forgotten.length > 0 ? blocking : []);
    return forgotten;
  }
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
  await leaveBlocking(session, workerId, rows.length > 0 ? blocking : []);
  return rows.map((row) => row.id);
}

const locked: PostgresError = new PostgresError('the request is locked by another transaction', '55P03');

async function unstorable(session: Session, characters: ReadonlySet<string>): Promise<ReadonlySet<string>> {
  const list = [...characters];
  const encoder = new TextEncoder();
  const [row] = await session.query<Row & { positions: readonly number[] }>(unstorableStatement, [
    list.map((character) => encoder.encode(character)),
  ]);
  return new Set((row?.positions ?? []).map((position) => list[position - 1] ?? ''));
}

/** The database, or the encoding of so much, refused; the session goes on. */
function isRefusal(error: unknown): error is PostgresError | RangeError {
  return error instanceof PostgresError || error instanceof RangeError;
}

/** A response too large for one string of JavaScript is refused as one too large for a field of PostgreSQL is. */
function asPostgresError(error: PostgresError | RangeError): PostgresError {
  return error instanceof PostgresError ? error : new PostgresError(error.message, '54000');
}

/** Class 22 (data exception), 54 (program limit exceeded): another form of it may be accepted. */
function isAboutTheData(error: PostgresError): boolean {
  return /^(22|54)/.test(error.code);
}

/** What one row may be refused for while others are taken: its data, a constraint, a lock, a trigger of the user's. */
function isAboutTheRow(error: PostgresError): boolean {
  return /^(22|23|40|54|P0|55P03|57014)/.test(error.code);
}
