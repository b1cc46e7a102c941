import fc from 'fast-check';
import { expect, test } from 'vitest';
import { Supply } from '../../src/core/permits.ts';

test('a supply gives out no more than there is, in order, and one at least whatever it asks for', () => {
  const amount = fc.integer({ min: 1, max: 150 });
  const step = fc.oneof(
    fc.record({ kind: fc.constant('request' as const), amount }),
    fc.record({ kind: fc.constantFrom('release' as const, 'withdraw' as const), which: fc.nat() }),
  );
  fc.assert(
    fc.property(fc.array(step, { maxLength: 60 }), (steps) => {
      const supply = new Supply(100);
      const holders: { amount: number; release: () => void }[] = [];
      const waiting: { order: number; amount: number; withdraw: () => void }[] = [];
      let order = 0;
      const held = () => holders.reduce((sum, holder) => sum + holder.amount, 0);
      for (const given of steps) {
        if (given.kind === 'request') {
          const permits = supply.permits(given.amount);
          order += 1;
          const holder = { amount: given.amount, release: () => permits.release() };
          const waiter = { order, amount: given.amount, withdraw: () => permits.withdraw(granted) };
          const granted = (): void => {
            expect(waiting[0]).toBe(waiter);
            waiting.shift();
            holders.push(holder);
          };
          if (permits.request(granted)) {
            expect(waiting, 'nobody is overtaken').toEqual([]);
            holders.push(holder);
          } else {
            waiting.push(waiter);
          }
        } else if (given.kind === 'release') {
          const [holder] = holders.splice(given.which % Math.max(holders.length, 1), 1);
          holder?.release();
        } else {
          const [waiter] = waiting.splice(given.which % Math.max(waiting.length, 1), 1);
          waiter?.withdraw();
        }
        expect(held() <= 100 || holders.length === 1).toBe(true);
        const [first] = waiting;
        if (first !== undefined) expect(holders.length > 0 && held() + first.amount > 100).toBe(true);
      }
    }),
    { numRuns: 2_000 },
  );
});

test('permits of one kind are given back and waited for one by one', () => {
  const permits = new Supply(2).permits(1);
  const granted: string[] = [];
  expect(permits.request(() => granted.push('a'))).toBe(true);
  expect(permits.request(() => granted.push('b'))).toBe(true);
  const third = () => granted.push('c');
  expect(permits.request(third)).toBe(false);
  expect(permits.request(() => granted.push('d'))).toBe(false);
  permits.withdraw(third);
  permits.release();
  expect(granted).toEqual(['d']);
});
