import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { noSecrets } from '../../src/secrets/secrets.ts';
import {
  type Among,
  type Claimed,
  type DuePlace,
  dueStart,
  type From,
  type Part,
  pairOf,
} from '../../src/store/claim.ts';
import type { Horizon } from '../../src/store/wake.ts';
import { Backlogs } from '../../src/worker/backlogs.ts';
import { Flights } from '../../src/worker/flights.ts';
import { LowWaterMark } from '../../src/worker/low-water.ts';

/** How many waiting rows a look walks over at most, beside a backlog. */
const walkRowsMax = 3;

type Request = {
  readonly id: bigint;
  readonly role: number;
  readonly origin: string;
  /** 0: none. */
  readonly priority: number;
  /** Set for one that is asked for later, or came back. */
  readonly dueAtMs: number | undefined;
};

/**
 * A server in miniature: transactions take an id, then request ids; commits make rows visible; looks claim them in order, those
 * with a priority and those that are due before others, and go by those of an origin with a backlog.
 */
class Model {
  readonly mark = new LowWaterMark();
  readonly backlogs = new Backlogs();
  #nextXid = 10n;
  #lastId = 0n;
  #lastEnded = 9n;
  readonly running = new Map<bigint, Request[]>();
  visible: Request[] = [];
  nowMs = 0;

  begin(): void {
    this.running.set(this.#nextXid, []);
    this.#nextXid += 1n;
  }

  enqueue(pick: number, role = 1, origin = 'a', { priority = 0, delayMs = 0 } = {}): void {
    const requests = [...this.running.values()][pick % Math.max(this.running.size, 1)];
    if (requests !== undefined) {
      this.#lastId += 1n;
      const dueAtMs = delayMs === 0 ? undefined : this.nowMs + delayMs;
      requests.push({ id: this.#lastId, role, origin, priority, dueAtMs });
    }
  }

  end(pick: number, commit: boolean): void {
    const xid = [...this.running.keys()][pick % Math.max(this.running.size, 1)];
    if (xid !== undefined) {
      if (commit) this.visible.push(...(this.running.get(xid) ?? []));
      this.running.delete(xid);
      this.#ended(xid);
    }
  }

  #ended(xid: bigint): void {
    if (xid > this.#lastEnded) this.#lastEnded = xid;
  }

  #horizon(): Horizon {
    // As PostgreSQL has it: xmax is one past the last transaction that has ended, and a snapshot does not list those beyond.
    const xmax = this.#lastEnded + 1n;
    const running = [...this.running.keys()].filter((xid) => xid < xmax);
    const seen = { xmin: running[0] ?? xmax, xmax, running, lastId: this.#lastId };
    // It takes a transaction id of its own after it has read the last id, and commits it.
    this.#ended(this.#nextXid);
    this.#nextXid += 1n;
    return seen;
  }

  /** A look of a pass; `asks` whether it asks where the transactions stand, `parks` the parts that it finds too much of. */
  look(
    limit: number,
    nowMs: number,
    { asks = true, parks = [] as readonly Part[], returns = undefined as number | undefined } = {},
  ): void {
    this.nowMs = nowMs;
    const stretch = this.mark.next();
    const seen = asks ? this.#horizon() : undefined;
    const { besides, due } = this.backlogs;
    const from = {
      afterId: stretch.afterId,
      urgentAfterId: this.mark.id,
      dueAfter: due?.next(nowMs) ?? dueStart,
    };
    const { rows, upToId, dueUpTo } = this.#claim(from, limit, besides);
    due?.looked(dueUpTo);
    if (stretch.kind === 'sweep') this.backlogs.swept(stretch.afterId);
    this.#park(rows, parks);
    this.#putBack(rows, returns);
    if (seen !== undefined) this.mark.observe(seen, stretch, nowMs);
    this.mark.looked(stretch, upToId);
  }

  lookIntoBacklog(flights: Flights, parks: readonly Part[] = [], returns?: number): void {
    const look = this.backlogs.next(flights, this.nowMs);
    if (look !== undefined) {
      const found = this.#claim(look.from, look.wanted, look.among);
      this.#park(found.rows, parks);
      this.#putBack(found.rows, returns);
      const sweepFrom = this.backlogs.looked(look.part, found, this.mark.id);
      if (sweepFrom !== undefined) this.mark.sweep(sweepFrom);
    }
  }

  #park(taken: readonly Request[], parks: readonly Part[]): void {
    for (const { role, origin } of taken) {
      for (const part of parks) {
        if (part.role === role && (part.origin ?? origin) === origin) this.backlogs.open(part, this.mark.id);
      }
    }
  }

  /** The first of them goes back: it is tried again after that time. */
  #putBack([first]: readonly Request[], afterMs: number | undefined): void {
    if (first !== undefined && afterMs !== undefined) {
      this.visible.push({ ...first, dueAtMs: this.nowMs + afterMs });
    }
  }

  /** As the claim statement has it. */
  #claim(
    { afterId, urgentAfterId, dueAfter }: From,
    limit: number,
    among: Among | undefined,
  ): Pick<Claimed, 'upToId' | 'dueUpTo'> & { rows: Request[] } {
    const walk = (rows: Request[]): Request[] => (among === undefined ? rows : rows.slice(0, walkRowsMax));
    const take = (rows: Request[], upTo: number): Request[] =>
      rows.filter((request) => isAmong(request, among)).slice(0, upTo);
    const waiting = this.visible.filter(({ dueAtMs }) => dueAtMs === undefined).sort(byId);
    const urgentWalked = walk(
      waiting
        .filter(({ id, priority }) => priority > 0 && id > urgentAfterId)
        .sort((a, b) => b.priority - a.priority || byId(a, b)),
    );
    const urgent = take(urgentWalked, limit);
    const dueWalked = walk(
      this.visible
        .filter((request) => isDueAfter(request, among === undefined ? dueStart : dueAfter, this.nowMs))
        .sort((a, b) => (a.dueAtMs ?? 0) - (b.dueAtMs ?? 0) || byId(a, b)),
    );
    const due = take(dueWalked, limit - urgent.length);
    const freshWalked = walk(waiting.filter(({ id }) => id > afterId));
    const rest = freshWalked.filter((request) => !urgent.includes(request));
    const fresh = take(rest, limit - urgent.length - due.length);
    const rows = [...urgent, ...due, ...fresh];
    this.visible = this.visible.filter((request) => !rows.includes(request));
    const isFull = rows.length === limit;
    const stoppedAt = among !== undefined && freshWalked.length === walkRowsMax ? freshWalked.at(-1) : undefined;
    const lastDue = urgent.length + due.length < limit ? placeOf(dueWalked.at(-1)) : (placeOf(due.at(-1)) ?? dueAfter);
    return {
      rows,
      upToId: isFull ? (fresh.at(-1)?.id ?? afterId) : (stoppedAt?.id ?? null),
      dueUpTo: among === undefined ? null : (lastDue ?? null),
    };
  }
}

function byId(a: Request, b: Request): number {
  return a.id < b.id ? -1 : 1;
}

function isDueAfter({ id, dueAtMs }: Request, [placeMs = '', placeId = '']: DuePlace, nowMs: number): boolean {
  const afterMs = placeMs === '-infinity' ? Number.NEGATIVE_INFINITY : Number(placeMs);
  return (
    dueAtMs !== undefined && dueAtMs <= nowMs && (dueAtMs > afterMs || (dueAtMs === afterMs && id > BigInt(placeId)))
  );
}

function placeOf(request: Request | undefined): DuePlace | undefined {
  return request === undefined ? undefined : [String(request.dueAtMs), String(request.id)];
}

/** As the claim statement has it. */
function isAmong({ role, origin }: Request, among: Among | undefined): boolean {
  return (
    among === undefined ||
    (among.roles.includes(role) === among.rolesIncluded &&
      among.pairs.includes(pairOf(role, origin)) === among.pairsIncluded)
  );
}

const parts: readonly Part[] = [1, 2].flatMap((role) => [undefined, 'a', 'b'].map((origin) => ({ role, origin })));
const parks = fc.subarray([...parts]);
/** After how many milliseconds the first request of a look is tried again; undefined: it is done. */
const returns = fc.constantFrom(undefined, undefined, 0, 1, 700);
const step = fc.oneof(
  fc.record({ kind: fc.constant('begin' as const) }),
  fc.record({
    kind: fc.constant('enqueue' as const),
    pick: fc.nat(20),
    role: fc.constantFrom(1, 2),
    origin: fc.constantFrom('a', 'b'),
    options: fc.record({ priority: fc.constantFrom(0, 0, 0, 1, 9), delayMs: fc.constantFrom(0, 0, 0, 1, 700) }),
  }),
  fc.record({ kind: fc.constant('end' as const), pick: fc.nat(20), commit: fc.boolean() }),
  fc.record({
    kind: fc.constant('look' as const),
    limit: fc.integer({ min: 1, max: 4 }),
    passMs: fc.nat(1_500),
    asks: fc.boolean(),
    parks,
    returns,
  }),
  fc.record({ kind: fc.constant('backlog' as const), parks, returns }),
);

/** There is room for everybody's. */
const roomy = Object.assign(
  new Flights({ furnish: noSecrets.furnish, clock: Date.now, random: Math.random, send: () => new Promise(() => {}) }),
  {
    slots: { total: 2, perOrigin: 2 },
  },
);

describe('the low-water mark', () => {
  test('never leaves a committed request behind, whatever the order of commits and looks', () => {
    fc.assert(
      fc.property(fc.array(step, { maxLength: 120, size: 'max' }), (steps) => {
        const model = new Model();
        let nowMs = 0;
        for (const s of steps) {
          if (s.kind === 'begin') model.begin();
          else if (s.kind === 'enqueue') model.enqueue(s.pick, s.role, s.origin, s.options);
          else if (s.kind === 'end') model.end(s.pick, s.commit);
          else if (s.kind === 'backlog') model.lookIntoBacklog(roomy, s.parks, s.returns);
          else {
            nowMs += s.passMs;
            model.look(s.limit, nowMs, s);
          }
        }
        // Everybody commits; a few looks must find all there is, without anybody asking for a sweep.
        while (model.running.size > 0) model.end(0, true);
        for (let i = 0; i < 400 && model.visible.length > 0; i++) {
          nowMs += 50;
          model.look(4, nowMs);
          model.lookIntoBacklog(roomy);
        }
        expect(model.visible).toEqual([]);
      }),
      { numRuns: 20_000 },
    );
  });

  test('what a role’s backlog has not come to yet is left to the backlogs of its origins', () => {
    const model = new Model();
    const enqueue = (count: number): void => {
      model.begin();
      for (let i = 0; i < count; i++) model.enqueue(0, 1, i % 2 === 0 ? 'a' : 'b');
      model.end(0, true);
    };
    enqueue(20);
    model.look(1, 0, { parks: [{ role: 1, origin: undefined }] });
    for (let i = 0; i < 50; i++) model.look(4, 0);
    expect(model.mark.id).toBe(20n);
    enqueue(20);
    model.lookIntoBacklog(roomy, [{ role: 1, origin: 'a' }]);
    for (let i = 0; i < 100; i++) {
      model.look(4, 0);
      model.lookIntoBacklog(roomy);
    }
    expect(model.visible).toEqual([]);
  });

  test('beside a backlog that lasts, the passes find within a second what is committed after it was due', () => {
    const model = new Model();
    const commit = (role: number, options: { delayMs?: number; priority?: number }, count = 1): void => {
      const pick = model.running.size;
      model.begin();
      for (let i = 0; i < count; i++) model.enqueue(pick, role, 'a', options);
      model.end(pick, true);
    };
    commit(1, {}, 9);
    // It lasts: nobody looks into it. Of its own there is more that is due than a look walks over.
    model.look(1, 0, { parks: [{ role: 1, origin: 'a' }] });
    commit(1, { delayMs: 5 }, 20);
    model.begin();
    model.enqueue(0, 2, 'a', { delayMs: 10 });
    commit(3, { delayMs: 20 });
    const waits = (role: number): boolean => model.visible.some((request) => request.role === role);
    for (let nowMs = 20; nowMs < 40; nowMs++) model.look(4, nowMs);
    expect(waits(3)).toBe(false);
    model.end(0, true);
    for (let nowMs = 40; nowMs < 1_200; nowMs += 10) model.look(4, nowMs);
    expect(waits(2)).toBe(false);
    expect(waits(1)).toBe(true);
  });

  test('is not moved by what goes first, and leaves what lies between to the looks that follow', () => {
    const model = new Model();
    model.begin();
    for (let i = 0; i < 8; i++) model.enqueue(0, 1, 'a', { priority: i % 2 });
    model.end(0, true);
    for (let i = 0; i < 2; i++) model.look(2, i);
    expect(model.visible.map(({ priority }) => priority)).toEqual([0, 0, 0, 0]);
    expect(model.mark.id).toBe(0n);
    for (let i = 0; i < 8; i++) model.look(2, i);
    expect(model.visible).toEqual([]);
  });

  test('a backlog is looked through while the mark stands still because no slot is free', () => {
    const model = new Model();
    const part = { role: 1, origin: 'a' };
    model.begin();
    for (const role of [1, 2, 2, 2, 2, 2, 2, 2, 1]) model.enqueue(0, role);
    model.end(0, true);
    model.look(1, 0, { parks: [part] });
    for (let i = 0; i < 10; i++) model.lookIntoBacklog(roomy);
    expect(model.visible.filter(({ role }) => role === 1)).toEqual([]);
    // Then there is nothing more to look for.
    expect(model.backlogs.next(roomy, 0)).toBeUndefined();
  });

  test('follows the traffic, so finished requests are not read again', () => {
    const model = new Model();
    for (let i = 0; i < 100; i++) {
      model.begin();
      model.enqueue(0);
      model.end(0, true);
      model.look(10, i);
    }
    expect(model.mark.id).toBeGreaterThanOrEqual(98n);
  });

  test('is not held back for long by one transaction that runs on', () => {
    const model = new Model();
    model.begin();
    model.enqueue(0);
    for (let i = 0; i < 100; i++) {
      model.begin();
      model.enqueue(1);
      model.end(1, true);
      model.look(10, i * 100);
    }
    expect(model.mark.id).toBeGreaterThan(50n);
    model.end(0, true);
    model.look(10, 10_000);
    model.look(10, 10_000);
    expect(model.visible).toEqual([]);
  });
});
