import fc from 'fast-check';
import pg from 'pg';
import { afterEach, beforeAll, describe, expect, test } from 'vitest';
import { installedDatabase } from '../support/installed.ts';
import { startTestPostgres, until } from '../support/servers.ts';
import {
  type IsolationLevel,
  interleavings,
  isolationLevels,
  SteppedEnqueue,
  type SteppedWorker,
  soon,
  startSteppedWorker,
  steppedUrl,
} from './stepped.ts';

/**
 * Two workers: one becomes busy, announces a promise, makes it, keeps it and takes it back, and dies at any of these steps;
 * the other rests, has heard the announcement, and is all that is left. What was enqueued under the promise has notified
 * nobody: the other must find it when the promise has ended.
 */

/**
 * W: the dying worker's next statement. E: the transaction's next step. D: the worker dies. T: the promise ends, for the heir
 * by its clock. H: the heir's next statement.
 */
type Schedule = string;

/** What of the heir's statements matters here: it takes the promise back, takes X, and looks. */
const heirStatements: readonly (string | undefined)[] = [
  'pgfetch_withdraw',
  'pgfetch_fence',
  'pgfetch_horizon',
  'pgfetch_claim',
];
const heirSteps = heirStatements.length;

/** Every order in which a worker makes `statements` statements and dies, a transaction enqueues, and the heir takes over. */
function schedules(statements: number): Schedule[] {
  return [0, 1, 2, 3].flatMap((enqueueStepsBefore) => {
    const after = interleavings(1 + heirSteps, 3 - enqueueStepsBefore).map((order) =>
      order.replace('W', 'T').replaceAll('W', 'H'),
    );
    return interleavings(statements, enqueueStepsBefore).flatMap((before) => after.map((rest) => `${before}D${rest}`));
  });
}

describe('a promise whose worker dies', () => {
  let url: string;
  let heir: SteppedWorker;
  let transaction: SteppedEnqueue;
  let sql: pg.Client;
  let requests = 0;
  const closing: (() => Promise<void>)[] = [];

  afterEach(async () => {
    for (const close of closing.splice(0).reverse()) await close();
  });

  beforeAll(async () => {
    url = (await installedDatabase(await startTestPostgres({ major: 18 }))).url;
  });

  async function open(): Promise<void> {
    sql = new pg.Client(url);
    await sql.connect();
    closing.push(() => sql.end());
    transaction = await SteppedEnqueue.open(url);
    closing.push(() => transaction.close());
    heir = await startSteppedWorker(url, 'heir');
    closing.push(heir.stop);
  }

  /** Runs one schedule, and waits for the response to what was enqueued. */
  async function run(schedule: Schedule, isolation: IsolationLevel): Promise<void> {
    requests += 1;
    const path = String(requests);
    await soon(() => heir.service.resting, 'the heir rests');
    const dying = await startSteppedWorker(url, 'dying');
    let isDead = false;
    try {
      await soon(() => dying.service.resting, 'the dying worker rests before it has begun');
      // It alone is told: more requests than its batch make it promise.
      await sql.query(
        `insert into net.http_request_queue (method, url, headers, timeout_milliseconds)
         select 'GET', 'http://receiver/before', '{}', 2000 from generate_series(1, 6)`,
      );
      dying.gate.close();
      dying.service.wake();
      await dying.stopBefore('pgfetch_announce');

      await transaction.begin(isolation);
      const steps = [
        () => transaction.insert(path),
        () => transaction.compare(),
        () => transaction.execute('commit').then(() => undefined),
      ];
      let id: bigint | undefined;
      for (const turn of schedule) {
        if (turn === 'E') {
          id = (await steps.shift()?.()) ?? id;
        } else if (turn === 'W') {
          const isAnnouncement = dying.gate.waitingFor === 'pgfetch_announce';
          const heard = heir.announcementsHeard;
          await dying.step();
          if (isAnnouncement) await soon(() => heir.announcementsHeard > heard, 'the heir hears of the promise');
        } else if (turn === 'D') {
          await dying.die();
          isDead = true;
        } else if (turn === 'T') {
          heir.gate.close();
          heir.passTime();
        } else {
          let name: string | undefined;
          do {
            await soon(() => heir.gate.waitingFor !== undefined || heir.service.resting, 'the heir goes on or rests');
            name = heir.gate.waitingFor;
          } while ((await heir.step()) && !heirStatements.includes(name));
        }
      }
      heir.gate.open();
      await until(
        async () => (await sql.query('select from net._http_response where id = $1', [id])).rowCount === 1,
        `the request of ${schedule} under ${isolation} is answered`,
        5_000,
      );
      // And those that the dead one had claimed.
      await until(
        async () => (await sql.query('select from net.http_request_queue')).rowCount === 0,
        `all that was there before ${schedule} is done`,
        5_000,
      );
      expect([...dying.sent, ...heir.sent]).toContain(steppedUrl(path));
    } finally {
      heir.gate.open();
      if (!isDead) await dying.die();
    }
  }

  test.each(isolationLevels)(
    'no request is left behind, at whichever of its first steps the worker dies, under %s',
    { timeout: 120_000 },
    async (isolation) => {
      await open();
      const all = [0, 1, 2].flatMap(schedules);
      for (const schedule of all) await run(schedule, isolation);
      expect(all.length).toBeGreaterThan(300);
    },
  );

  test('nor at any later step, until the promise has been taken back and after', { timeout: 120_000 }, async () => {
    await open();
    const turns = fc
      .tuple(
        fc.array(fc.constantFrom('W', 'W', 'W', 'E'), { minLength: 6, maxLength: 20 }),
        fc.constantFrom(...isolationLevels),
      )
      .map(([list, isolation]) => {
        const before = list.filter((turn, i) => turn === 'W' || list.slice(0, i).filter((t) => t === 'E').length < 3);
        const left = 3 - before.filter((turn) => turn === 'E').length;
        return { schedule: `${before.join('')}D${'E'.repeat(left)}THHHH`, isolation };
      });
    await fc.assert(
      fc.asyncProperty(turns, ({ schedule, isolation }) => run(schedule, isolation)),
      { numRuns: 150 },
    );
  });

  // Announced, and then made so late (a paused process, a network that hangs) that the heir has looked already; or announced
  // before the heir listened. Whoever buries a worker inherits what it may have promised.
  test('nor where the promise was made only after the heir had looked', async () => {
    await open();
    for (const isolation of isolationLevels) await run('WTHHHHWWEEDTHHHHE', isolation);
  });
});
