import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { noSecrets } from '../../src/secrets/secrets.ts';
import { type Among, type Part, pairOf } from '../../src/store/claim.ts';
import type { Horizon } from '../../src/store/wake.ts';
import { Backlogs } from '../../src/worker/backlogs.ts';
import { Flights } from '../../src/worker/flights.ts';
import { LowWaterMark } from '../../src/worker/low-water.ts';

/** How many waiting rows a look walks over at most, beside a backlog. */
const walkRowsMax = 3;

type Request = { readonly id: bigint; readonly role: number; readonly origin: string };

/**
 * A server in miniature: transactions take an id, then request ids; commits make rows visible; looks claim them in order, and
 * go by those of an origin with a backlog.
 */
class Model {
  readonly mark = new LowWaterMark();
  readonly backlogs = new Backlogs();
  #nextXid = 10n;
  #lastId = 0n;
  #lastEnded = 9n;
  readonly running = new Map<bigint, Request[]>();
  visible: Request[] = [];

  begin(): void {
    this.running.set(this.#nextXid, []);
    this.#nextXid += 1n;
  }

  enqueue(pick: number, role = 1, origin = 'a'): void {
    const requests = [...this.running.values()][pick % Math.max(this.running.size, 1)];
    if (requests !== undefined) {
      this.#lastId += 1n;
      requests.push({ id: this.#lastId, role, origin });
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
  look(limit: number, nowMs: number, { asks = true, parks = [] as readonly Part[] } = {}): void {
    const stretch = this.mark.next();
    const seen = asks ? this.#horizon() : undefined;
    const { rows, upToId } = this.#claim(stretch.afterId, limit, this.backlogs.besides);
    if (stretch.kind === 'sweep') this.backlogs.swept(stretch.afterId);
    this.#park(rows, parks);
    if (seen !== undefined) this.mark.observe(seen, stretch, nowMs);
    this.mark.looked(stretch, upToId);
  }

  lookIntoBacklog(flights: Flights, parks: readonly Part[] = []): void {
    const look = this.backlogs.next(flights);
    if (look !== undefined) {
      const found = this.#claim(look.afterId, look.wanted, look.among);
      this.#park(found.rows, parks);
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

  #claim(afterId: bigint, limit: number, among: Among | undefined): { rows: Request[]; upToId: bigint | null } {
    const waiting = this.visible.filter(({ id }) => id > afterId).sort((a, b) => (a.id < b.id ? -1 : 1));
    const walked = among !== undefined ? waiting.slice(0, walkRowsMax) : waiting;
    const taken = walked.filter((request) => isAmong(request, among)).slice(0, limit);
    this.visible = this.visible.filter((request) => !taken.includes(request));
    const full = among !== undefined && walked.length === walkRowsMax ? walked.at(-1) : undefined;
    return { rows: taken, upToId: (taken.length === limit ? taken.at(-1) : full)?.id ?? null };
  }
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
const step = fc.oneof(
  fc.record({ kind: fc.constant('begin' as const) }),
  fc.record({
    kind: fc.constant('enqueue' as const),
    pick: fc.nat(20),
    role: fc.constantFrom(1, 2),
    origin: fc.constantFrom('a', 'b'),
  }),
  fc.record({ kind: fc.constant('end' as const), pick: fc.nat(20), commit: fc.boolean() }),
  fc.record({
    kind: fc.constant('look' as const),
    limit: fc.integer({ min: 1, max: 4 }),
    passMs: fc.nat(1_500),
    asks: fc.boolean(),
    parks,
  }),
  fc.record({ kind: fc.constant('backlog' as const), parks }),
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
          else if (s.kind === 'enqueue') model.enqueue(s.pick, s.role, s.origin);
          else if (s.kind === 'end') model.end(s.pick, s.commit);
          else if (s.kind === 'backlog') model.lookIntoBacklog(roomy, s.parks);
          else {
            nowMs += s.passMs;
            model.look(s.limit, nowMs, s);
          }
        }
        // Everybody commits; a few looks must find all there is, without anybody asking for a sweep.
        while (model.running.size > 0) model.end(0, true);
        for (let i = 0; i < 400 && model.visible.length > 0; i++) {
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
    expect(model.backlogs.next(roomy)).toBeUndefined();
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
