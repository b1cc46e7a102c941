import { describe, expect, test } from 'vitest';
import type { Database, Row, Session } from '../../src/postgres/database.ts';
import { Lookout } from '../../src/worker/lookout.ts';
import { OtherPromises } from '../../src/worker/other-promises.ts';
import { RestartNotices } from '../../src/worker/restart-notices.ts';
import { defaultTiming } from '../../src/worker/timing.ts';
import { until } from '../support/servers.ts';

// Any login may notify any channel, as often as it likes.

/** Answers every statement with the same row, and remembers their names. */
function fakeSession(row: () => Row): { readonly db: Database; readonly names: string[] } {
  const names: string[] = [];
  const session: Session = {
    query: async <R extends Row>({ name }: { name: string }) => {
      names.push(name);
      return [row()] as unknown as readonly R[];
    },
    execute: async () => {},
  };
  return { db: session as Database, names };
}

describe('a flood of notifications', () => {
  const horizon = { xmin: 10n, xmax: 10n, running: [], last_id: 0n, xid: 10n };
  const found = { id: 1n } as never;
  const nothing = { rows: [], upToId: null, dueUpTo: null, nextDueMs: null };

  /** Lets time pass, a tenth of a millisecond at a time; returns when it looked. */
  async function looks(lookout: Lookout, fromMs: number, toMs: number, wakes: boolean): Promise<number[]> {
    const at: number[] = [];
    for (let now = fromMs; now < toMs; now += 0.1) {
      if (wakes) lookout.wake(now);
      if (!lookout.isDue(now)) continue;
      at.push(now);
      const stretch = lookout.beforeLook(now);
      await lookout.afterLook(stretch, 100, nothing, now, undefined);
    }
    return at;
  }

  test('of which none is about a request makes few looks, and no promise', async () => {
    const { db, names } = fakeSession(() => horizon);
    const lookout = new Lookout(db, defaultTiming, true);
    const during = await looks(lookout, 1_000, 2_000, true);
    expect(during.length).toBeLessThan(20 + 1_000 / 5 + 2);
    expect(names).not.toContain('pgfetch_promise');
    // What is enqueued meanwhile is found soon, and after that each is believed again.
    const last = during.at(-1) ?? 0;
    lookout.wake(last + 0.1);
    expect(lookout.dueAtMs).toBeLessThanOrEqual(last + 5);
    await lookout.afterLook(lookout.beforeLook(last + 5), 100, { ...nothing, rows: [found] }, last + 5, undefined);
    lookout.wake(last + 5.1);
    expect(lookout.isDue(last + 5.1)).toBe(true);
  });

  test('leaves no wake-up behind that comes during a look', async () => {
    const { db } = fakeSession(() => horizon);
    const lookout = new Lookout(db, defaultTiming, true);
    const during = await looks(lookout, 1_000, 1_100, true);
    const last = during.at(-1) ?? 0;
    const stretch = lookout.beforeLook(last + 5);
    lookout.wake(last + 5.1);
    await lookout.afterLook(stretch, 100, nothing, last + 5.2, undefined);
    expect(await looks(lookout, last + 5.3, last + 20, false)).toHaveLength(1);
  });

  test('of restarts that nobody asked for asks few questions; one that was asked for is obeyed', async () => {
    let restarts = 7n;
    const orders = { restart: false };
    const { db, names } = fakeSession(() => ({
      restarts,
      is_paused: false,
      has_policies: false,
      limits: null,
      settings: '',
    }));
    const notices = new RestartNotices(db, orders);
    for (let i = 0; i < 1_000; i++) notices.noticed();
    expect(names).toEqual([]);
    // Registering tells how many had been asked for; what was heard before is asked then.
    notices.obeyed({ restarts: 7n, isPaused: false, hasPolicies: false, limits: null, settings: '' });
    for (let i = 0; i < 1_000; i++) notices.noticed();
    await until(() => names.length === 2, 'the question after the last of them');
    expect(orders.restart).toBe(false);
    restarts = 8n;
    for (let i = 0; i < 1_000; i++) notices.noticed();
    await until(() => orders.restart, 'the restart');
    expect(names).toHaveLength(3);
    notices.close();
  });

  test('of promises puts the look in their stead off for so long, and no longer', () => {
    const others = new OtherPromises(2_000);
    expect(others.overAtMs).toBe(Number.POSITIVE_INFINITY);
    let now = 5_000;
    others.announced(now);
    expect(others.overAtMs).toBe(7_100);
    while (now < others.overAtMs) {
      now += 1_000;
      others.announced(now);
    }
    expect(now).toBeLessThan(5_000 + 60 * 2_000 + 2_000);
    others.forget();
    others.announced(now);
    expect(others.overAtMs).toBe(now + 2_100);
  });
});
