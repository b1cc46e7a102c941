import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { parseExtras } from '../../src/core/extras.ts';
import { noTimings, type Outcome } from '../../src/core/outcome.ts';
import { unbound } from '../../src/core/policy.ts';
import type { QueueRow } from '../../src/core/request.ts';
import { originOf } from '../../src/core/urls.ts';
import { noSecrets } from '../../src/secrets/secrets.ts';
import { type Among, type Claimed, pairOf, roleOf } from '../../src/store/claim.ts';
import { Backlogs } from '../../src/worker/backlogs.ts';
import { Flights } from '../../src/worker/flights.ts';
import type { Slots } from '../../src/worker/lanes.ts';

const batchSize = 6;
/** How many waiting rows a look beside a backlog walks over at most. */
const walkRowsMax = 8;

type Wish = { readonly role: number; readonly origin: string; readonly priority?: number };

const answer: Outcome = {
  kind: 'reply',
  status: 200,
  headers: [],
  body: new Uint8Array(),
  truncated: false,
  timings: noTimings,
};

/** A worker and its queue in miniature: it looks as the service does, and what it sends is answered when the test says so. */
class Model {
  readonly flights: Flights;
  readonly backlogs = new Backlogs();
  readonly done: QueueRow[] = [];
  readonly inAir = new Map<QueueRow, () => void>();
  parkedMost = 0;
  #waiting: QueueRow[] = [];
  #lastId = 0n;
  #mark = 0n;
  #isBacklogsTurn = false;
  /** A look takes this long. */
  #nowMs = 0;

  constructor(slots: Slots) {
    this.flights = new Flights({
      furnish: noSecrets.furnish,
      clock: Date.now,
      random: Math.random,
      send: ({ row }) =>
        new Promise((resolve) => {
          this.inAir.set(row, () => resolve(answer));
        }),
    });
    this.flights.slots = slots;
  }

  get waiting(): readonly QueueRow[] {
    return this.#waiting;
  }

  enqueue({ role, origin, priority }: Wish): void {
    this.#lastId += 1n;
    this.#waiting.push({
      id: this.#lastId,
      method: 'GET',
      url: `http://${origin}/`,
      headersJson: '{}',
      body: null,
      timeoutMs: 1_000,
      loginRole: role,
      setRole: null,
      signWith: null,
      extras: priority === undefined ? undefined : parseExtras(JSON.stringify({ priority })),
    });
  }

  /** One look of the service, of a pass or into a backlog. */
  look(): void {
    const { flights, backlogs } = this;
    const passIsDue = this.#mark < this.#lastId && flights.freeSlots > 0;
    this.#nowMs += 1;
    const backlog = backlogs.next(flights, this.#nowMs);
    if (backlog !== undefined && (this.#isBacklogsTurn || !passIsDue)) {
      this.#isBacklogsTurn = false;
      flights.looking(backlog.part);
      const found = this.#claim(backlog.from.afterId, Math.min(backlog.wanted, batchSize), backlog.among);
      backlogs.looked(backlog.part, found, this.#mark);
    } else if (passIsDue) {
      this.#isBacklogsTurn = true;
      const { upToId } = this.#claim(this.#mark, Math.min(flights.freeSlots, batchSize), backlogs.besides);
      this.#mark = upToId ?? this.#lastId;
    }
    this.parkedMost = Math.max(this.parkedMost, flights.parked);
  }

  #claim(
    afterId: bigint,
    limit: number,
    among: Among | undefined,
  ): Pick<Claimed, 'upToId' | 'dueUpTo'> & { rows: QueueRow[] } {
    const waiting = this.#waiting.filter(({ id }) => id > afterId);
    const walked = among !== undefined ? waiting.slice(0, walkRowsMax) : waiting;
    const taken = walked.filter((row) => isAmong(row, among)).slice(0, limit);
    this.#waiting = this.#waiting.filter((row) => !taken.includes(row));
    const full = among !== undefined && walked.length === walkRowsMax ? walked.at(-1) : undefined;
    for (const row of taken) {
      for (const part of this.flights.take(row, 1n, unbound)) this.backlogs.open(part, this.#mark);
    }
    return { rows: taken, upToId: (taken.length === limit ? taken.at(-1) : full)?.id ?? null, dueUpTo: null };
  }

  /** Those of the requests in the air have their answers, and are recorded. */
  async land(which: (row: QueueRow, place: number) => boolean): Promise<void> {
    for (const [place, [row, resolve]] of [...this.inAir].entries()) {
      if (!which(row, place)) continue;
      this.inAir.delete(row);
      this.done.push(row);
      resolve();
    }
    await new Promise((resolve) => setImmediate(resolve));
    this.flights.recorded(this.flights.takeLanded(1_000, 1_000));
  }

  count(condition: (row: QueueRow) => boolean): number {
    return [...this.inAir.keys()].filter(condition).length;
  }
}

function isAmong(row: QueueRow, among: Among | undefined): boolean {
  return (
    among === undefined ||
    (among.roles.includes(roleOf(row)) === among.rolesIncluded &&
      among.pairs.includes(pairOf(roleOf(row), originOf(row.url))) === among.pairsIncluded)
  );
}

const origin = fc.constantFrom('a', 'b', 'c', 'd', 'e', 'f');
const slots = fc.oneof(
  fc.record({ total: fc.integer({ min: 1, max: 12 }), perOrigin: fc.integer({ min: 1, max: 12 }) }),
  fc.record({ total: fc.integer({ min: 13, max: 40 }), perOrigin: fc.constant(Number.POSITIVE_INFINITY) }),
);

describe('who shares the slots', () => {
  test('whoever floods and whatever lands when: limits hold, little is parked, and nobody waits for ever', async () => {
    const step = fc.oneof(
      { weight: 4, arbitrary: fc.record({ kind: fc.constant('look' as const) }) },
      { weight: 2, arbitrary: fc.record({ kind: fc.constant('land' as const), place: fc.nat(10) }) },
      {
        weight: 2,
        arbitrary: fc.record({
          kind: fc.constant('enqueue' as const),
          role: fc.integer({ min: 0, max: 4 }),
          origin,
          count: fc.integer({ min: 1, max: 20 }),
        }),
      },
    );
    await fc.assert(
      fc.asyncProperty(slots, fc.array(step, { maxLength: 80, size: 'max' }), async (limits, steps) => {
        const model = new Model(limits);
        let enqueued = 0;
        const check = (): void => {
          expect(model.inAir.size).toBeLessThanOrEqual(limits.total);
          for (const each of ['a', 'b', 'c', 'd', 'e', 'f']) {
            expect(model.count(({ url }) => originOf(url) === each)).toBeLessThanOrEqual(limits.perOrigin);
          }
          // Of five roles each has what one claim brought, and what lands and is followed.
          expect(model.flights.parked).toBeLessThanOrEqual(5 * (batchSize + 2 * limits.total));
        };
        for (const s of steps) {
          if (s.kind === 'look') model.look();
          else if (s.kind === 'land') await model.land((_row, place) => place === s.place);
          else {
            for (let i = 0; i < s.count; i++) model.enqueue(s);
            enqueued += s.count;
          }
          check();
        }
        for (let i = 0; i < 50 * (enqueued + 1) && model.done.length < enqueued; i++) {
          model.look();
          if (i % 4 === 3) await model.land((_row, place) => place === 0);
          check();
        }
        expect(model.done).toHaveLength(enqueued);
        expect(model.flights.held).toBe(0);
      }),
      { numRuns: 100 },
    );
  });

  test('a flood that is never answered delays nobody else, to however many hosts it goes', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.integer({ min: 4, max: 60 }),
        fc.integer({ min: 1, max: 100 }),
        fc.array(fc.record({ role: fc.integer({ min: 2, max: 4 }), origin: fc.nat(120) }), {
          minLength: 1,
          maxLength: 40,
        }),
        async (total, origins, wishes) => {
          const model = new Model({ total, perOrigin: Number.POSITIVE_INFINITY });
          for (let i = 0; i < 300; i++) model.enqueue({ role: 1, origin: `h${i % origins}` });
          for (let i = 0; i < 100; i++) model.look();
          for (const wish of wishes) model.enqueue({ role: wish.role, origin: `h${wish.origin}` });
          for (let i = 0; i < 400 && model.done.length < wishes.length; i++) {
            model.look();
            await model.land((row) => roleOf(row) !== 1);
          }
          expect(model.done).toHaveLength(wishes.length);
          expect(model.parkedMost).toBeLessThanOrEqual(2 * batchSize + total);
          expect(model.waiting.length).toBeGreaterThan(100);
        },
      ),
      { numRuns: 300 },
    );
  });

  test('nor, to a few hosts, does it delay the same role’s requests to others', async () => {
    for (const [total, origins] of [
      [6, 1],
      [20, 1],
      [200, 3],
    ] as const) {
      const model = new Model({ total, perOrigin: Number.POSITIVE_INFINITY });
      // Host after host, so that the first takes what the others then lack.
      for (let i = 0; i < 200 * origins; i++) model.enqueue({ role: 1, origin: `dead${Math.floor(i / 200)}` });
      for (let i = 0; i < 200; i++) model.look();
      for (let i = 0; i < 50; i++) model.enqueue({ role: 1, origin: 'answering' });
      for (let i = 0; i < 300 && model.done.length < 50; i++) {
        model.look();
        await model.land(({ url }) => url === 'http://answering/');
      }
      expect(model.done.length, `${origins} of ${total}`).toBe(50);
    }
  });

  test('however many flood without end, whoever comes later has a turn', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.integer({ min: 1, max: 8 }),
        fc.integer({ min: 1, max: 12 }),
        fc.constantFrom(1, 10),
        fc.infiniteStream(fc.nat(7)),
        async (total, roles, inRow, places) => {
          const model = new Model({ total, perOrigin: Number.POSITIVE_INFINITY });
          const flood = (): void => {
            for (let i = 0; i < roles * 10; i++) {
              model.enqueue({ role: 1 + (Math.floor(i / inRow) % roles), origin: 'a' });
            }
          };
          flood();
          for (let i = 0; i < 20; i++) model.look();
          model.enqueue({ role: 20, origin: 'a' });
          const isServed = (): boolean => model.done.some((row) => roleOf(row) === 20);
          for (let i = 0; i < 600 && !isServed(); i++) {
            if (i % (roles * 10) === 0) flood();
            for (let looks = 0; looks < 5; looks++) model.look();
            const [place] = [places.next().value ?? 0];
            await model.land((_row, each) => each === place % Math.max(model.inAir.size, 1));
          }
          expect(isServed()).toBe(true);
        },
      ),
      { numRuns: 300 },
    );
  });

  test('a limit that is raised lets those begin that wait, though nothing lands', () => {
    const model = new Model({ total: 20, perOrigin: 1 });
    for (let i = 0; i < 3; i++) model.enqueue({ role: 1, origin: 'a' });
    for (let i = 0; i < 3; i++) model.look();
    expect(model.inAir.size).toBe(1);
    model.flights.slots = { total: 20, perOrigin: 5 };
    expect(model.inAir.size).toBe(3);
  });

  test('of those that are parked, the ones with a higher priority begin first', async () => {
    const model = new Model({ total: 20, perOrigin: 1 });
    for (const priority of [0, 0, 3, 9, 3]) model.enqueue({ role: 1, origin: 'a', priority });
    const ids = model.waiting.map(({ id }) => id);
    for (const row of model.waiting) model.flights.take(row, 1n, unbound);
    expect(model.flights.parked).toBe(4);
    while (model.flights.held > 0) await model.land(() => true);
    expect(model.done.map(({ id }) => ids.indexOf(id))).toEqual([0, 3, 2, 4, 1]);
  });

  test('of a limit of an origin each role has its turns', async () => {
    const model = new Model({ total: 20, perOrigin: 2 });
    for (let i = 0; i < 300; i++) model.enqueue({ role: 1, origin: 'a' });
    for (let i = 0; i < 20; i++) model.look();
    for (let i = 0; i < 20; i++) model.enqueue({ role: 2, origin: 'a' });
    for (let i = 0; i < 400 && model.count((row) => roleOf(row) === 1) > 0; i++) {
      model.look();
      await model.land((_row, place) => place === 0);
      if (model.done.filter((row) => roleOf(row) === 2).length === 20) break;
    }
    expect(model.done.filter((row) => roleOf(row) === 2)).toHaveLength(20);
    expect(model.done.length).toBeLessThan(150);
  });

  test('a role alone has nearly all slots; one lane of it three quarters', async () => {
    for (const [origins, expected] of [
      [1, 150],
      [2, 167],
      [200, 187],
    ] as const) {
      const model = new Model({ total: 200, perOrigin: Number.POSITIVE_INFINITY });
      for (let i = 0; i < 1_000; i++) model.enqueue({ role: 1, origin: `h${i % origins}` });
      for (let i = 0; i < 300; i++) model.look();
      expect(model.inAir.size, `${origins} origins`).toBe(expected);
    }
  });
});
