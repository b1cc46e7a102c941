import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { LowWaterMark } from '../../src/worker/low-water.ts';

/** A server in miniature: transactions take an id, then request ids; commits make rows visible; looks claim them in order. */
class Model {
  #nextXid = 10n;
  #lastId = 0n;
  #lastEnded = 9n;
  readonly running = new Map<bigint, bigint[]>();
  visible: bigint[] = [];
  lookedAt = 0;

  begin(): void {
    this.running.set(this.#nextXid, []);
    this.#nextXid += 1n;
  }

  enqueue(pick: number): void {
    const ids = [...this.running.values()][pick % Math.max(this.running.size, 1)];
    if (ids !== undefined) {
      this.#lastId += 1n;
      ids.push(this.#lastId);
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

  look(mark: LowWaterMark, limit: number, nowMs: number): void {
    // As PostgreSQL has it: xmax is one past the last transaction that has ended, and a snapshot does not list those beyond.
    const xmax = this.#lastEnded + 1n;
    const running = [...this.running.keys()].filter((xid) => xid < xmax);
    mark.observe({ xmin: running[0] ?? xmax, xmax, running, lastId: this.#lastId }, nowMs);
    // The claim takes a transaction id of its own and commits it.
    this.#ended(this.#nextXid);
    this.#nextXid += 1n;
    const from = mark.afterId;
    const found = this.visible.filter((id) => id > from).sort((a, b) => (a < b ? -1 : 1));
    const taken = new Set(found.slice(0, limit));
    this.visible = this.visible.filter((id) => !taken.has(id));
    mark.looked(from, taken.size < limit, taken.size === 0 ? null : [...taken].reduce((a, b) => (a > b ? a : b)));
  }
}

const step = fc.oneof(
  fc.record({ kind: fc.constant('begin' as const) }),
  fc.record({ kind: fc.constant('enqueue' as const), pick: fc.nat(20) }),
  fc.record({ kind: fc.constant('end' as const), pick: fc.nat(20), commit: fc.boolean() }),
  fc.record({ kind: fc.constant('look' as const), limit: fc.integer({ min: 1, max: 4 }), passMs: fc.nat(1_500) }),
);

describe('the low-water mark', () => {
  test('never leaves a committed request behind, whatever the order of commits and looks', () => {
    fc.assert(
      fc.property(fc.array(step, { maxLength: 120 }), (steps) => {
        const model = new Model();
        const mark = new LowWaterMark();
        let nowMs = 0;
        for (const s of steps) {
          if (s.kind === 'begin') model.begin();
          else if (s.kind === 'enqueue') model.enqueue(s.pick);
          else if (s.kind === 'end') model.end(s.pick, s.commit);
          else {
            nowMs += s.passMs;
            model.look(mark, s.limit, nowMs);
          }
        }
        // Everybody commits; a few looks must find all there is, without anybody asking for a sweep.
        while (model.running.size > 0) model.end(0, true);
        for (let i = 0; i < 200 && model.visible.length > 0; i++) model.look(mark, 4, nowMs);
        expect(model.visible).toEqual([]);
      }),
      { numRuns: 3_000 },
    );
  });

  test('follows the traffic, so finished requests are not read again', () => {
    const model = new Model();
    const mark = new LowWaterMark();
    for (let i = 0; i < 100; i++) {
      model.begin();
      model.enqueue(0);
      model.end(0, true);
      model.look(mark, 10, i);
    }
    expect(mark.afterId).toBeGreaterThanOrEqual(98n);
  });

  test('is not held back for long by one transaction that runs on', () => {
    const model = new Model();
    const mark = new LowWaterMark();
    model.begin();
    model.enqueue(0);
    for (let i = 0; i < 100; i++) {
      model.begin();
      model.enqueue(1);
      model.end(1, true);
      model.look(mark, 10, i * 100);
    }
    expect(mark.afterId).toBeGreaterThan(50n);
    model.end(0, true);
    model.look(mark, 10, 10_000);
    expect(model.visible).toEqual([]);
  });
});
