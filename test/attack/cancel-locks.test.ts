import { describe, expect, test } from 'vitest';
import { startGate } from '../contract/gate.ts';
import { closedAfterEach } from '../support/opened.ts';
import { availableMajors, until } from '../support/servers.ts';
import { openStage, type Stage } from './stage.ts';

// net.cancel locks the caller's own requests until its transaction ends: the one lock on the queue that any login can have.

/** The victim asks one after the other, each when the one before has its answer. */
async function servedInTurn({ victim, echo }: Stage, requests: number): Promise<void> {
  for (let n = 0; n < requests; n++) {
    const { rows } = await victim.query('select net.http_get($1) as id', [`${echo.url}/get?n=${n}`]);
    await until(
      async () => (await victim.query('select from net._http_response where id = $1', [rows[0].id])).rows.length === 1,
      `the answer to request ${n}`,
    );
  }
}

const answered = async ({ attacker }: Stage): Promise<number> =>
  (await attacker.query('select from net._http_response where status_code = 200')).rows.length;

describe.each(availableMajors())('on PostgreSQL %i', (major) => {
  const opened = closedAfterEach();

  test('whoever locks what the worker is to record holds up nobody else', async () => {
    const stage = await openStage(opened, major);
    const gate = await startGate();
    await stage.startWorker();
    await stage.attacker.query('select net.http_get($1, timeout_milliseconds := 60000) from generate_series(1, 60)', [
      gate.url,
    ]);
    await until(() => gate.waiting() === 60, 'they are being sent');
    await stage.attacker.query('begin');
    await stage.attacker.query('select net.cancel(id) from net.http_request_queue');
    gate.open();
    await servedInTurn(stage, 3);
    await stage.attacker.query('rollback');
    await until(async () => (await answered(stage)) === 60, 'what was locked is recorded');
  });

  test('whoever locks what a worker held that is gone keeps no other from starting', async () => {
    const stage = await openStage(opened, major);
    await stage.attacker.query('select net.http_get($1) from generate_series(1, 3)', [`${stage.echo.url}/get`]);
    // As a worker leaves it that was killed.
    await stage.admin.query('update net.http_request_queue set claimed_by = 4711');
    await stage.attacker.query('begin');
    await stage.attacker.query('select net.cancel(id) from net.http_request_queue');
    await stage.startWorker();
    await servedInTurn(stage, 2);
    await until(
      async () => (await stage.victim.query('select from net._http_response')).rows.length === 3,
      "the victim's first request, which that worker held too",
    );
    await stage.attacker.query('rollback');
    await until(async () => (await answered(stage)) === 3, 'what was locked is sent');
    expect(new Set(stage.received.map(({ path }) => path)).size).toBe(4);
  });
});
