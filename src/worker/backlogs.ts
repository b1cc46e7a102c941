import { type Among, type DuePlace, type From, type Part, pairOf } from '../store/claim.ts';
import { DueWalk } from './due-walk.ts';
import type { Flights } from './flights.ts';

/** A look into one backlog. */
export type BacklogLook = {
  readonly part: Part;
  /** Whose requests are its to take. */
  readonly among: Among;
  readonly from: From;
  readonly wanted: number;
};

/** What a look has found: see `Claimed` in `src/store/claim.ts`. */
type Found = {
  readonly rows: readonly unknown[];
  readonly upToId: bigint | null;
  readonly dueUpTo: DuePlace | null;
};

type Backlog = {
  /** Up to here its requests have been taken. */
  afterId: bigint;
  /** Over those of its requests that are due. */
  readonly due: DueWalk;
  /** From where on sweeps have gone by its requests; undefined: none has. */
  sweptFrom: bigint | undefined;
  /** Its looks have gone on beyond the mark, which stood here; undefined: they have not. */
  strayedFrom: bigint | undefined;
};

/**
 * The parts of the queue of which more waits than their share of the slots has room for: what a role sends to one origin, or
 * all that a role sends. The passes and sweeps through the queue go by their requests, so nobody waits behind them; each
 * part's are taken by looks of its own as it gets room, from the low-water mark at which its backlog began. Looks for a whole
 * role go by those of its requests that have a backlog of their own.
 */
export class Backlogs {
  /** By role and, within it, by origin (undefined: the whole role), in the order in which they are to be looked into. */
  readonly #open = new Map<number, Map<string | undefined, Backlog>>();
  /** What the passes ask for; undefined: everything. */
  #besides: Among | undefined;
  #due: DueWalk | undefined;

  /** The requests of whoever has no backlog; undefined where nobody has one. */
  get besides(): Among | undefined {
    return this.#besides;
  }

  /** The walk of the passes and sweeps over what is due; undefined where nobody has a backlog. */
  get due(): DueWalk | undefined {
    return this.#due;
  }

  /** Requests of that part had to be parked while the low-water mark stood at `markId`. */
  open({ role, origin }: Part, markId: bigint): void {
    const ofRole = this.#open.get(role) ?? new Map<string | undefined, Backlog>();
    if (!ofRole.has(origin)) {
      // What the passes and sweeps left to the role's backlog is now left to this one.
      const whole = ofRole.get(undefined);
      ofRole.set(
        origin,
        whole === undefined
          ? { afterId: markId, due: new DueWalk(), sweptFrom: undefined, strayedFrom: undefined }
          : { ...whole, due: new DueWalk() },
      );
      this.#open.set(role, ofRole);
      this.#changed();
    }
  }

  #changed(): void {
    const roles = [...this.#open].filter(([, ofRole]) => ofRole.has(undefined)).map(([role]) => role);
    const pairs = [...this.#open].flatMap(([role, ofRole]) => pairsOf(role, ofRole));
    this.#besides = this.#open.size === 0 ? undefined : { roles, rolesIncluded: false, pairs, pairsIncluded: false };
    this.#due = this.#open.size === 0 ? undefined : (this.#due ?? new DueWalk());
  }

  /** A look of a sweep, from `afterId` on, has gone by the requests of all of them. */
  swept(afterId: bigint): void {
    for (const ofRole of this.#open.values()) {
      for (const backlog of ofRole.values()) {
        if (backlog.sweptFrom === undefined || afterId < backlog.sweptFrom) {
          backlog.sweptFrom = afterId;
        }
      }
    }
  }

  /** The next backlog of which requests are wanted: of each role in turn, and of its backlogs in turn. */
  next(flights: Flights, nowMs: number): BacklogLook | undefined {
    for (const [role, ofRole] of this.#open) {
      for (const [origin, { afterId, due, strayedFrom }] of ofRole) {
        const part = { role, origin };
        const wanted = flights.wantedOf(part);
        if (wanted > 0) {
          const from = { afterId, urgentAfterId: strayedFrom ?? afterId, dueAfter: due.next(nowMs) };
          return { part, among: amongOf(part, ofRole), from, wanted };
        }
      }
    }
    return undefined;
  }

  /**
   * Takes note of a look: it took whatever could be seen of that part up to `upToId`; null: up to the end of the queue, which
   * ends the backlog where nothing more of it is due. Returns from where on a sweep is due, where one has gone by a backlog that has ended.
   */
  looked({ role, origin }: Part, found: Found, markId: bigint): bigint | undefined {
    const ofRole = this.#open.get(role);
    const backlog = ofRole?.get(origin);
    if (ofRole === undefined || backlog === undefined) {
      return undefined;
    }
    ofRole.delete(origin);
    this.#open.delete(role);
    backlog.due.looked(found.dueUpTo);
    const isOver = !goOn(backlog, found, markId);
    if (!isOver) {
      ofRole.set(origin, backlog);
    }
    if (ofRole.size > 0) {
      this.#open.set(role, ofRole);
    }
    if (!isOver) {
      return undefined;
    }
    this.#changed();
    return backlog.sweptFrom;
  }
}

/**
 * Says from where on to look next; false: that was all. What lies beyond the mark may not all have been visible yet, and is
 * looked at again. But a look that found nothing there is not made once more: the mark stands still while no slot is free. The
 * looks go on beyond it, and come back when it has moved; as long as it has not, the passes see whatever was not visible.
 */
function goOn(backlog: Backlog, { rows, upToId }: Found, markId: bigint): boolean {
  const { afterId, strayedFrom } = backlog;
  if (strayedFrom !== undefined && markId > strayedFrom) {
    backlog.afterId = strayedFrom;
    backlog.strayedFrom = undefined;
    return true;
  }
  if (upToId === null) {
    return !backlog.due.isAtEnd;
  }
  const passed = upToId < markId ? upToId : markId;
  if (passed > afterId) {
    backlog.afterId = passed;
  } else if (rows.length === 0) {
    backlog.strayedFrom ??= afterId;
    backlog.afterId = upToId;
  }
  return true;
}

function amongOf({ role, origin }: Part, ofRole: ReadonlyMap<string | undefined, Backlog>): Among {
  return origin === undefined
    ? { roles: [role], rolesIncluded: true, pairs: pairsOf(role, ofRole), pairsIncluded: false }
    : { roles: [], rolesIncluded: false, pairs: [pairOf(role, origin)], pairsIncluded: true };
}

function pairsOf(role: number, ofRole: ReadonlyMap<string | undefined, Backlog>): readonly string[] {
  return [...ofRole.keys()].filter((origin) => origin !== undefined).map((origin) => pairOf(role, origin));
}
