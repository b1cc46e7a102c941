import { execFile } from 'node:child_process';
import { expect, onTestFinished, test } from 'vitest';
import { judge } from './judge.mjs';

/** A short run of `npm run order`: every process of it is a real one, and some are killed. */
test('the order of keys holds under several workers, of which some die', { timeout: 120_000 }, async () => {
  const { status, found } = await order(
    '--requests',
    '1500',
    '--keys',
    '40',
    '--workers',
    '3',
    '--kills',
    '--kill-every',
    '500',
  );
  expect(found).toMatchObject({
    holds: true,
    wrong: { inversions: [], overlaps: [], lost: [], notRecorded: [], notCommitted: [] },
  });
  expect(status).toBe(0);
});

type Made = Parameters<typeof judge>[0][number];
type Arrival = Parameters<typeof judge>[1][number];

/** Each request is made in a transaction of its own, after the one before has committed. */
function requests(...changes: readonly Partial<Made>[]): Made[] {
  return changes.map((change, i) => ({
    tag: i,
    key: 'a',
    transaction: {},
    place: 0,
    id: i,
    beganMs: 10 * i,
    committedMs: 10 * i + 5,
    isCommitted: true,
    ...change,
  }));
}

/** They arrive one after another and take less than the time between two. */
function arrivals(...given: readonly (Partial<Arrival> & { readonly tag: number })[]): Arrival[] {
  return given.map((arrival, i) => ({ key: 'a', beganMs: 100 * i, endedMs: 100 * i + 50, isCut: false, ...arrival }));
}

const right = { inversions: [], overlaps: [], lost: [], notRecorded: [], notCommitted: [] };
const ok = (made: readonly Made[]): Map<number, number> => new Map(made.map(({ tag }) => [tag, 200]));

test.each<[string, Made[], Arrival[], object]>([
  ['one after another', requests({}, {}), arrivals({ tag: 0 }, { tag: 1 }), {}],
  ['the last one repeated', requests({}, {}), arrivals({ tag: 0 }, { tag: 0 }, { tag: 1 }), {}],
  ['exchanged', requests({}, {}), arrivals({ tag: 1 }, { tag: 0 }), { inversions: [[1, 0]] }],
  ['an older one repeated', requests({}, {}), arrivals({ tag: 0 }, { tag: 1 }, { tag: 0 }), { inversions: [[1, 0]] }],
  [
    'exchanged, of transactions beside each other',
    requests({ committedMs: 100 }, {}),
    arrivals({ tag: 1 }, { tag: 0 }),
    {},
  ],
  ['exchanged, of other keys', requests({}, { key: 'b' }), arrivals({ tag: 1, key: 'b' }, { tag: 0 }), {}],
  ['at once', requests({}, {}), arrivals({ tag: 0, endedMs: 150 }, { tag: 1 }), { overlaps: [[0, 1]] }],
  ['at once with itself', requests({}), arrivals({ tag: 0, endedMs: 150 }, { tag: 0 }), {}],
  [
    'beside one that was cut',
    requests({}, {}),
    arrivals({ tag: 0, endedMs: 150, isCut: true }, { tag: 0 }, { tag: 1 }),
    {},
  ],
  ['never', requests({}, {}), arrivals({ tag: 0 }), { lost: [1] }],
  [
    'rolled back, and arrived',
    requests({}, { isCommitted: false, committedMs: Number.POSITIVE_INFINITY }),
    arrivals({ tag: 0 }, { tag: 1 }),
    { notCommitted: [1] },
  ],
])('the checker sees: %s', (_, made, arrived, wrong) => {
  expect(judge(made, arrived, ok(made)).wrong).toEqual({ ...right, ...wrong });
});

test('the checker sees the order within a transaction, and what has no response', () => {
  const transaction = {};
  const one = { transaction, beganMs: 0, committedMs: 50 };
  const made = requests({ ...one, place: 0 }, { ...one, place: 1 });
  const found = judge(made, arrivals({ tag: 1 }, { tag: 0 }), new Map([[0, 200]]));
  expect(found.wrong).toEqual({ ...right, inversions: [[1, 0]], notRecorded: [1] });
});

/** Runs it to its end; told to stop, it takes down what it started. */
async function order(...words: readonly string[]): Promise<{ status: number | null; found: unknown }> {
  let child: ReturnType<typeof execFile> | undefined;
  const ended = new Promise<{ status: number | null; stdout: string; stderr: string }>((resolve) => {
    child = execFile(process.execPath, ['test/order/order.mjs', '--json', ...words], (_, stdout, stderr) =>
      resolve({ status: child?.exitCode ?? null, stdout, stderr }),
    );
  });
  onTestFinished(async () => {
    child?.kill('SIGTERM');
    await ended;
  });
  const { status, stdout, stderr } = await ended;
  expect(stderr).toBe('');
  return { status, found: JSON.parse(stdout) };
}
