import { expect, test } from 'vitest';
import type { Database } from '../../src/postgres/database.ts';
import type { Claimed } from '../../src/store/claim.ts';
import { Lookout } from '../../src/worker/lookout.ts';
import { defaultTiming } from '../../src/worker/timing.ts';

const horizonRow = { xmin: 9n, xmax: 10n, running: [], last_id: 0n };
/** Answers what a lookout asks of a quiet server. */
const db = { query: async () => [horizonRow] } as unknown as Database;

const found = (rows: number, upToId: bigint | null, nextDueMs: number | null): Claimed => ({
  rows: Array.from({ length: rows }, () => ({}) as Claimed['rows'][number]),
  upToId,
  dueUpTo: null,
  nextDueMs,
});

test('whoever found as much as it asked for looks again, also after a sweep: it was not told when the next falls due', async () => {
  const lookout = new Lookout(db, defaultTiming, true);
  await lookout.afterLook(lookout.beforeLook(0), 4, found(0, null, 100), 0, undefined);
  expect(lookout.dueAtMs).toBe(100);
  lookout.sweep();
  lookout.wake(50);
  const sweep = lookout.beforeLook(50);
  expect(sweep.kind).toBe('sweep');
  await lookout.afterLook(sweep, 4, found(4, 4n, null), 50, undefined);
  expect(lookout.isDue(50)).toBe(true);
});
