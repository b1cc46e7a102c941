import {
  cancelledInstead,
  charactersToCheck,
  type Settlement,
  unrecordable,
  withoutCharacters,
} from '../core/settlement.ts';
import { type Database, PostgresError, type Row, type Session, type Statement } from '../postgres/database.ts';
import { type Followed, putBackForRetry, recordAftermath } from './aftermath.ts';
import { holdKeys, leaveBlocking } from './blocking.ts';
import { asPostgresError, isAboutTheData, isAboutTheRow, isLocked, isRefusal } from './refusals.ts';
import { forget, hasResponse, locked, lockedOf, recordOneResponse, recordResponses } from './responses.ts';
import { isKeptAlone } from './settle-kept.ts';

const unstorableStatement: Statement = {
  name: 'pgfetch_unstorable',
  text: 'select net._unstorable($1::bytea[]) as positions',
};

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

/** Those that somebody had locked: whether they are free again is asked before anything waits for them once more. */
const wereLocked = new WeakSet<Settlement>();

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
  /** How many of the refused were not tried. */
  let heldBack = 0;

  const isDone = (): boolean => recorded.length + returned.length > 0;
  const note = (done: Done): void => {
    recorded.push(...done.recorded);
    returned.push(...done.returned);
    refused.push(...done.locked);
    refusal = done.locked.length > 0 ? locked : refusal;
  };
  /** Hands back those that somebody has locked, and returns the others. */
  const withoutLocked = async (part: readonly Settlement[]): Promise<readonly Settlement[]> => {
    const asked = lockedOf(
      db,
      workerId,
      part.map(({ id }) => id),
    );
    const ids = new Set(
      await asked.catch((error: unknown) => {
        // The whole table is locked.
        if (!isRefusal(error)) throw error;
        return [];
      }),
    );
    const theirs = part.filter(({ id }) => ids.has(id));
    for (const settlement of theirs) wereLocked.add(settlement);
    refused.push(...theirs);
    heldBack += theirs.length;
    refusal = theirs.length > 0 ? locked : refusal;
    return theirs.length > 0 ? part.filter(({ id }) => !ids.has(id)) : part;
  };
  const settleHalves = async (part: readonly Settlement[]): Promise<void> => {
    if (!isDone() && refused.length - heldBack >= refusalsMax) {
      refused.push(...part);
      return;
    }
    try {
      note(await settleAll(db, workerId, part));
    } catch (error) {
      const [only] = part;
      const others = part.length > 1 && isLocked(error) ? await withoutLocked(part) : part;
      if (others.length < part.length) {
        if (others.length > 0) await settleHalves(others);
      } else if (part.length > 1 && isRefusal(error)) {
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

  const suspects = group.filter((s) => wereLocked.has(s));
  const stillLocked = new Set(suspects);
  for (const free of suspects.length > 0 ? await withoutLocked(suspects) : []) stillLocked.delete(free);
  const free = suspects.length > 0 ? group.filter((s) => !stillLocked.has(s)) : group;

  for (const part of [
    free.filter(isPlain),
    free.filter((s) => isKeptAlone(s.aftermath)),
    free.filter((s) => isFollowed(s) && !isKeptAlone(s.aftermath)),
    free.filter(isRetried),
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

/** Whether its response is all that is recorded, which has the label, too. */
function isPlain({ aftermath }: Settlement): boolean {
  return (
    aftermath === undefined ||
    (aftermath.retryInMs === undefined &&
      aftermath.attempt === 1 &&
      !aftermath.isKept &&
      !aftermath.blocksKey &&
      aftermath.keep !== 'none' &&
      aftermath.callback === undefined)
  );
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

/**
 * Those whose request a user has deleted meanwhile are done: what the last attempt brought is their response. Those that were
 * cancelled have one that says so.
 */
async function retryAll(db: Database, workerId: bigint, part: readonly Followed[]): Promise<Done> {
  const { returned, deleted, cancelled, locked: lockedIds } = await putBackForRetry(db, workerId, part);
  const isDeleted = new Set(deleted);
  const done = part.filter(({ id }) => isDeleted.has(id));
  const given = part.filter(({ id }) => cancelled.includes(id)).map(cancelledInstead);
  return {
    recorded: [
      ...(await recordDeleted(db, workerId, done)),
      ...(given.length > 0 ? (await settleAll(db, workerId, given)).recorded : []),
    ],
    returned,
    locked: part.filter(({ id }) => lockedIds.includes(id)),
  };
}

/**
 * One by one: a response may be there already. Others have finished the request then; it had gone back before, and the connection
 * was lost with the answer.
 */
async function recordDeleted(db: Database, workerId: bigint, done: readonly Settlement[]): Promise<readonly bigint[]> {
  const recorded: bigint[] = [];
  for (const s of done) {
    recorded.push(...(hasResponse(s) ? await recordOneResponse(db, workerId, s) : [s.id]));
  }
  return recorded;
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
  const recorded = hasResponse(s)
    ? await recordOneResponse(session, workerId, s)
    : await forget(session, workerId, [s]);
  await leaveBlocking(session, workerId, recorded.length > 0 ? blocking : []);
  return recorded;
}

async function unstorable(session: Session, characters: ReadonlySet<string>): Promise<ReadonlySet<string>> {
  const list = [...characters];
  const encoder = new TextEncoder();
  const [row] = await session.query<Row & { positions: readonly number[] }>(unstorableStatement, [
    list.map((character) => encoder.encode(character)),
  ]);
  return new Set((row?.positions ?? []).map((position) => list[position - 1] ?? ''));
}
