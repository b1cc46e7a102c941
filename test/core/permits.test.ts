import fc from 'fast-check';
import { expect, test } from 'vitest';
import { type Holder, type Permit, Supply } from '../../src/core/permits.ts';

const total = 100;
const limit = 40;

/** Something that is read in parts, as a body is: it holds one unit, then as much again each time, up to its size. */
class Reading {
  readonly permit: Permit;
  readonly holder: Holder;
  readonly size: number;
  held = 0;
  wanted = 0;
  waits = false;
  isOver = false;
  onGranted: () => void = () => {};

  constructor(supply: Supply, holder: Holder, size: number) {
    this.permit = supply.permit(holder);
    this.holder = holder;
    this.size = size;
  }

  get isComplete(): boolean {
    return this.held >= this.size;
  }

  grow(): void {
    if (this.waits || this.isOver || this.isComplete) return;
    this.wanted = Math.max(1, Math.min(2 * this.held, this.size));
    this.waits = !this.permit.request(this.wanted, () => {
      expect(this.waits).toBe(true);
      this.waits = false;
      this.held = this.wanted;
      this.onGranted();
    });
    if (!this.waits) this.held = this.wanted;
  }

  end(): void {
    this.isOver = true;
    this.waits = false;
    this.held = 0;
    this.permit.release();
  }
}

function sum(readings: readonly Reading[]): number {
  return readings.reduce((amount, { held }) => amount + held, 0);
}

const holders: readonly Holder[] = [1, 2, null];
const begin = fc.record({
  kind: fc.constant('begin' as const),
  holder: fc.constantFrom(...holders),
  size: fc.integer({ min: 1, max: limit }),
});
const grow = fc.record({ kind: fc.constant('grow' as const), which: fc.nat(), times: fc.integer({ min: 1, max: 6 }) });
const end = fc.record({ kind: fc.constant('end' as const), which: fc.nat() });
const step = fc.oneof({ arbitrary: begin, weight: 4 }, { arbitrary: grow, weight: 6 }, { arbitrary: end, weight: 1 });

/** Does the steps; what is under way at the end is returned. `check` is called after each. */
function carryOut(
  supply: Supply,
  steps: readonly (typeof step extends fc.Arbitrary<infer T> ? T : never)[],
  check: (readings: readonly Reading[]) => void,
): Reading[] {
  const readings: Reading[] = [];
  for (const given of steps) {
    if (given.kind === 'begin') {
      readings.push(new Reading(supply, given.holder, given.size));
      readings.at(-1)?.grow();
    } else {
      const place = given.which % Math.max(readings.length, 1);
      if (given.kind === 'grow') for (let i = 0; i < given.times; i++) readings[place]?.grow();
      else readings.splice(place, 1)[0]?.end();
    }
    check(readings);
  }
  return readings;
}

/** Those of one holder go on and end, as they can; nobody else does anything. */
function finish(readings: Reading[]): void {
  for (let rounds = 0; readings.some(({ isOver }) => !isOver); rounds++) {
    expect(rounds, 'all of them get on').toBeLessThan(1_000);
    for (const reading of readings) {
      if (reading.isComplete && !reading.isOver && !reading.waits) reading.end();
      reading.grow();
    }
  }
}

test('all together hold no more than there is and one permit of each holder', () => {
  fc.assert(
    fc.property(fc.array(step, { maxLength: 150, size: 'max' }), (steps) => {
      carryOut(new Supply(total), steps, (readings) => {
        const largest = holders.map((holder) =>
          Math.max(0, ...readings.filter((reading) => reading.holder === holder).map(({ held }) => held)),
        );
        expect(sum(readings)).toBeLessThanOrEqual(total + largest.reduce((a, b) => a + b));
      });
    }),
    { numRuns: 2_000 },
  );
});

test('whoever goes on reading gets to the end, and everything is there again, although others stand still', () => {
  fc.assert(
    fc.property(fc.array(step, { maxLength: 150, size: 'max' }), fc.constantFrom(...holders), (steps, holder) => {
      const supply = new Supply(total);
      const readings = carryOut(supply, steps, () => undefined);
      finish(readings.filter((reading) => reading.holder === holder));
      finish(readings);
      const alone = new Reading(supply, 7, (total * 3) / 4);
      while (!alone.isComplete) {
        alone.grow();
        expect(alone.waits).toBe(false);
      }
      // It has not overdrawn: one more may.
      expect(supply.permit(7).request(1, () => undefined)).toBe(false);
    }),
    { numRuns: 1_000 },
  );
});

test('one holder leaves a part free, and of several that want everything each gets the same', () => {
  const supply = new Supply(total);
  const taken = (holder: Holder) =>
    Array.from({ length: total }, () => supply.permit(holder).request(1, () => undefined)).filter(Boolean).length;
  expect(taken(1)).toBe(75);
  const other = taken(2);
  expect(other).toBeGreaterThan(15);
  expect(other + taken(3)).toBeLessThan(25);
});

test('who is held up by the share of its holder holds up nobody else', () => {
  const supply = new Supply(total);
  const granted: string[] = [];
  const ask = (holder: Holder, amount: number, name: string): Permit => {
    const permit = supply.permit(holder);
    if (permit.request(amount, () => granted.push(name))) granted.push(name);
    return permit;
  };
  const first = ask(1, 70, 'first of 1');
  ask(1, 50, 'second of 1');
  ask(1, 1, 'third of 1');
  ask(2, 5, 'first of 2');
  ask(null, 5, 'first by hand');
  expect(granted).toEqual(['first of 1', 'first of 2', 'first by hand']);
  first.release();
  expect(granted.slice(3)).toEqual(['second of 1', 'third of 1']);
});

test('of one holder, those that hold most come first; of equals the first to come', () => {
  const supply = new Supply(total);
  const granted: string[] = [];
  const full = supply.permit(1);
  const [a, b, c] = [supply.permit(1), supply.permit(1), supply.permit(1)];
  expect(b.request(2, () => undefined)).toBe(true);
  expect(c.request(4, () => undefined)).toBe(true);
  expect(full.request(69, () => undefined)).toBe(true);
  expect(a.request(2, () => granted.push('a'))).toBe(false);
  // One that has something may overdraw; who comes next may not.
  expect(c.request(8, () => undefined)).toBe(true);
  expect(b.request(4, () => granted.push('b'))).toBe(false);
  const late = supply.permit(1);
  expect(late.request(2, () => granted.push('late'))).toBe(false);
  expect(c.request(16, () => undefined)).toBe(true);
  full.release();
  expect(granted).toEqual(['b', 'a', 'late']);
});

test('one that is larger than all there is, is given where its holder has nothing else', () => {
  const supply = new Supply(total);
  const granted: string[] = [];
  const large = supply.permit(1);
  expect(large.request(500, () => undefined)).toBe(true);
  const next = supply.permit(1);
  expect(next.request(1, () => granted.push('next'))).toBe(false);
  expect(supply.permit(2).request(500, () => undefined)).toBe(true);
  large.keep(70);
  expect(granted).toEqual([]);
  expect(large.request(200, () => undefined)).toBe(true);
  large.release();
  large.release();
  expect(granted).toEqual(['next']);
});

test('one that waits no longer keeps what it holds, and leaves its turn to the next', () => {
  const supply = new Supply(total);
  const granted: string[] = [];
  const full = supply.permit(1);
  expect(full.request(75, () => undefined)).toBe(true);
  const [large, small] = [supply.permit(1), supply.permit(1)];
  expect(large.request(80, () => granted.push('large'))).toBe(false);
  expect(small.request(5, () => granted.push('small'))).toBe(false);
  full.keep(40);
  expect(granted).toEqual([]);
  large.withdraw();
  expect(granted).toEqual(['small']);
});

test('those without a holder share all there is, in order', () => {
  const supply = new Supply(2);
  const granted: string[] = [];
  const ask = (name: string): Permit => {
    const permit = supply.permit();
    if (permit.request(1, () => granted.push(name))) granted.push(name);
    return permit;
  };
  const [first, , third] = [ask('a'), ask('b'), ask('c'), ask('d')];
  expect(granted).toEqual(['a', 'b']);
  third?.release();
  first?.release();
  expect(granted).toEqual(['a', 'b', 'd']);
});
