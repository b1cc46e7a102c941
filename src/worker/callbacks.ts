import { setTimeout as sleep } from 'node:timers/promises';
import { ConnectionLost, type Database, PostgresError } from '../postgres/database.ts';
import {
  type CallbackClaim,
  callBack,
  claimCallback,
  endCallbackSession,
  nextCallbackMs,
  readCallbackLogin,
  recordCallbackFailure,
  returnCallback,
} from '../store/callbacks.ts';
import { explainFailure, NotReady } from './problems.ts';
import { watched } from './watchdog.ts';

/** How many calls are made at a time, each over a session of its own and for another role: a slow function holds up its role alone. */
const lanesMax = 4;
/** What a call takes at most beside the function: connecting, and ending what does not end by itself. */
const leaseSlackMs = 60_000;
/** Before the next try where the callback login cannot connect, or somebody else holds what is due. */
const retryMs = 5_000;
/** How long the end waits for calls under way. They are committed or rolled back without us as well. */
const endGraceMs = 1_000;
const endingLooksMax = 40;
const endingLookMs = 50;

/** Opens a session of the callback login in that database, whose statements end after `timeoutMs`. */
export type ConnectCallbacks = (database: string, timeoutMs: number) => Promise<Database>;

export type CallbacksParts = {
  /** The worker's own session, which knows what is to be called. */
  readonly db: Database;
  readonly database: string;
  /** Undefined: nobody has said as whom to call; a PGlite in this process is called in its one session. */
  readonly connect: ConnectCallbacks | undefined;
  /** How long a call may take. */
  readonly timeoutMs: number;
  /** How long calls that failed for good are kept. */
  readonly ttlMs: number;
  /** A monotonic clock, in milliseconds. */
  readonly now: () => number;
  readonly warn: (message: string) => void;
};

/** A session to call in, and how to leave it as it was. */
type CallSession = {
  readonly db: Database;
  readonly pid: number | undefined;
  readonly reset: () => Promise<void>;
};

/**
 * Has the functions called that requests have asked for. What is due is known to the worker's session; the calls are made over
 * sessions of another login, which are opened when something is due and closed when nothing is.
 */
export class Callbacks {
  readonly #p: CallbacksParts;
  readonly #lanes = new Set<Promise<void>>();
  /** The roles whose functions are being called. */
  readonly #called = new Set<number>();
  readonly #sessions = new Set<Database>();
  readonly #said = new Set<string>();
  #lastClaim: Promise<unknown> = Promise.resolve();
  #alarm: NodeJS.Timeout | undefined;
  #isAsked = false;
  #isEnded = false;

  constructor(parts: CallbacksParts) {
    this.#p = parts;
  }

  /** Something may be due. */
  look(): void {
    if (this.#isEnded) return;
    if (this.#lanes.size >= lanesMax) {
      this.#isAsked = true;
      return;
    }
    const lane = this.#serve()
      .catch((error: unknown) => this.#stumble(error))
      .finally(() => {
        this.#lanes.delete(lane);
        if (this.#isAsked) {
          this.#isAsked = false;
          this.look();
        }
      });
    this.#lanes.add(lane);
  }

  /** Resolves when nothing is being called. */
  async idle(): Promise<void> {
    while (this.#lanes.size > 0) await Promise.all(this.#lanes);
  }

  /** Begins no more calls, and ends its sessions. A call that is under way for longer ends without us. */
  async end(): Promise<void> {
    this.#isEnded = true;
    clearTimeout(this.#alarm);
    if (this.#lanes.size > 0) {
      const waiting = new AbortController();
      await Promise.race([this.idle(), sleep(endGraceMs, undefined, { signal: waiting.signal }).catch(() => {})]);
      waiting.abort();
    }
    await Promise.all([...this.#sessions].map((session) => session.close()));
  }

  /** Makes calls, one after the other, until nothing more is due. */
  async #serve(): Promise<void> {
    const { db, ttlMs, connect } = this.#p;
    const dueInMs = await nextCallbackMs(db, ttlMs);
    if (dueInMs === null || dueInMs > 0) {
      this.#lookIn(dueInMs);
    } else if (connect === undefined && db.kind === 'pg') {
      this.#say(
        'callbacks (on_success, on_error) wait: this worker has no login to call them by. Make one that is a member of net_callback and of nothing else, and give it: --callback-url, or callbackDatabaseUrl.',
      );
    } else {
      await this.#makeCalls();
    }
  }

  async #makeCalls(): Promise<void> {
    let session: CallSession | undefined;
    try {
      for (let claim = await this.#claim(); claim !== undefined; claim = await this.#claim()) {
        try {
          session ??= await this.#open(claim);
          if (session === undefined) return;
          if (!(await this.#call(session, claim))) session = undefined;
        } finally {
          this.#called.delete(claim.requester);
        }
      }
      const dueInMs = await nextCallbackMs(this.#p.db, this.#p.ttlMs);
      // One that is due already is another lane's to find, or somebody has locked it.
      this.#lookIn(dueInMs === null || dueInMs > 0 ? dueInMs : retryMs);
    } finally {
      if (session !== undefined) await this.#close(session);
    }
  }

  /** One at a time: each goes by whose functions are being called. */
  #claim(): Promise<CallbackClaim | undefined> {
    const claimed = this.#lastClaim.then(async () => {
      if (this.#isEnded) return undefined;
      const claim = await claimCallback(this.#p.db, [...this.#called], 2 * this.#p.timeoutMs + leaseSlackMs);
      if (claim !== undefined) this.#called.add(claim.requester);
      return claim;
    });
    this.#lastClaim = claimed.catch(() => {});
    return claimed;
  }

  /** A session to make this call in; undefined where there is none to be had, and the call waits. */
  async #open(claim: CallbackClaim): Promise<CallSession | undefined> {
    const { db, connect } = this.#p;
    if (connect === undefined) return { db, pid: undefined, reset: async () => {} };
    try {
      return await this.#connect(connect);
    } catch (error) {
      this.#report(error);
      await returnCallback(db, claim, retryMs);
      this.#lookIn(retryMs);
      return undefined;
    }
  }

  async #connect(connect: ConnectCallbacks): Promise<CallSession> {
    const { database, timeoutMs, now } = this.#p;
    const opened = await connect(database, timeoutMs);
    this.#sessions.add(opened);
    void opened.ended.then(() => this.#sessions.delete(opened));
    try {
      const { name, pid, isShared, excess, mayCall } = await readCallbackLogin(opened);
      if (!isShared && (excess.length > 0 || !mayCall)) {
        throw new NotReady(
          `the role ${JSON.stringify(name)} ${excess.length > 0 ? excess.join(' and ') : 'may not call callbacks'}. Give a login that is a member of net_callback and of nothing else: CREATE ROLE ... LOGIN PASSWORD ...; GRANT net_callback TO ...;`,
        );
      }
      this.#said.clear();
      // Its statement_timeout ends a call, unless the function catches that.
      const db = watched(opened, 2 * timeoutMs, now);
      // What a function leaves in its session must not be there for the next one.
      return { db, pid, reset: async () => (isShared ? undefined : await db.reset()) };
    } catch (error) {
      await opened.close();
      throw error;
    }
  }

  /** Makes one call and records it if it fails. False: the session is over. */
  async #call(session: CallSession, claim: CallbackClaim): Promise<boolean> {
    let failure: { readonly code: string; readonly message: string };
    let isOver = false;
    try {
      const isCalled = await callBack(session.db, claim);
      await session.reset();
      if (isCalled) return true;
      failure = { code: 'P0002', message: 'the callback login finds no such call: is this its database?' };
    } catch (error) {
      isOver = !(error instanceof PostgresError);
      failure = failureOf(error);
    }
    if (this.#isEnded) return false;
    if (isOver) await this.#endSession(session);
    else await session.reset();
    await recordCallbackFailure(this.#p.db, claim, failure);
    return !isOver;
  }

  /** Ends what is left of a session that has not answered: a function may go on whatever its time-out says. */
  async #endSession({ pid }: CallSession): Promise<void> {
    const { connect } = this.#p;
    if (connect === undefined || pid === undefined) return;
    let other: CallSession | undefined;
    try {
      other = await this.#connect(connect);
      for (let looks = 0; looks < endingLooksMax && (await endCallbackSession(other.db, pid)); looks += 1) {
        await sleep(endingLookMs);
      }
    } catch (error) {
      this.#report(error);
    } finally {
      if (other !== undefined) await this.#close(other);
    }
  }

  async #close({ db }: CallSession): Promise<void> {
    if (db !== this.#p.db) await db.close();
  }

  #lookIn(ms: number | null): void {
    clearTimeout(this.#alarm);
    if (ms === null || this.#isEnded) return;
    // Longer timers overflow in Node and would fire at once; looking early is harmless.
    this.#alarm = setTimeout(() => this.look(), Math.min(ms + 1, 2 ** 30));
  }

  /** The worker's own session failed, which the worker meets and says by itself. */
  #stumble(error: unknown): void {
    if (error instanceof PostgresError || error instanceof ConnectionLost) this.#lookIn(retryMs);
    else this.#report(error);
  }

  #report(error: unknown): void {
    if (!this.#isEnded) this.#say(`callbacks wait: ${explainFailure(error)}`);
  }

  /** Once for the same, until it has served. */
  #say(message: string): void {
    if (this.#said.has(message)) return;
    this.#said.add(message);
    this.#p.warn(message);
  }
}

function failureOf(error: unknown): { readonly code: string; readonly message: string } {
  if (error instanceof PostgresError) return { code: error.code, message: error.message };
  if (error instanceof ConnectionLost) return { code: '57014', message: `the call did not end: ${error.message}` };
  throw error;
}
