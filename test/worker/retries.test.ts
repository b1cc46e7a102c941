import { type ChildProcess, spawn } from 'node:child_process';
import { describe, expect, onTestFinished, test } from 'vitest';
import { install } from '../../src/schema/install.ts';
import { readAsked } from '../../src/store/register.ts';
import { startReceiver } from '../contract/receiver.ts';
import { openSite } from '../sql/databases.ts';
import { newestMajors, until } from '../support/servers.ts';

/** Retries outlive whoever made the first attempt: worker processes that are killed, and a server that crashes. Runs the built CLI. */
describe.each(newestMajors())('on PostgreSQL %i', (major) => {
  function startWorkerProcess(url: string, name: string): { kill: () => Promise<void> } {
    const child: ChildProcess = spawn(
      process.execPath,
      ['dist/cli/main.js', 'worker', '-d', url, '--allow', 'loopback', '--name', name],
      { stdio: ['ignore', 'ignore', 'ignore'] },
    );
    const kill = async (): Promise<void> => {
      if (child.exitCode === null && child.signalCode === null) {
        const exited = new Promise((resolve) => child.once('exit', resolve));
        child.kill('SIGKILL');
        await exited;
      }
    };
    onTestFinished(kill);
    return { kill };
  }

  test('a policy that the settings name is a setting: a worker that renews its lease sees that it was changed', async () => {
    const site = await openSite(major);
    const db = await site.open();
    await install(db);
    await site.sql(`insert into net.retry_policy (name) values ('one'), ('two')`);
    const asked = async (sql: string): Promise<string> => {
      await site.sql(sql);
      return (await readAsked(db)).settings;
    };
    const before = await asked('select 1');
    expect(await asked(`update net.retry_policy set max_attempts = 9 where name = 'one'`)).toBe(before);
    const named = await asked(`alter database ${site.name} set pg_net.retry_policy to 'one'`);
    expect(named).not.toBe(before);
    expect(await asked(`update net.retry_policy set statuses = '5xx' where name = 'two'`)).toBe(named);
    expect(await asked(`update net.retry_policy set statuses = '5xx' where name = 'one'`)).not.toBe(named);
  });

  test('a worker killed between attempts and within one, and a crash of the server, lose no attempt and no key', async () => {
    const site = await openSite(major);
    const receiver = await startReceiver();
    await install(await site.open(), { durable: true });
    await site.sql(`insert into net.retry_policy (name, first_delay, max_delay) values ('patient', '1 day', '1 day')`);
    await site.sql(`update net.retry_policy set time_limit = '30 days'`);
    receiver.answer('/flaky', { status: 503 }, { status: 503 }, { status: 503 }, { status: 200 });

    const first = startWorkerProcess(site.url, 'first');
    await site.sql(`select net.request('GET', '${receiver.url}/flaky', retry_policy := 'patient')`);
    const waits = async (attempts: number): Promise<unknown> =>
      until(
        async () =>
          (await site.sql(`select from net.http_request_queue where attempts = ${attempts} and claimed_by is null`))
            .length === 1,
        `it waits for attempt ${attempts + 1}`,
      );
    await waits(1);
    await first.kill();
    // What the worker records is flushed a little later; a checkpoint makes it now.
    await site.sql('checkpoint');
    await site.server.restart('immediate');
    expect(
      await site.sql(`select attempts, due_at > now() + interval '1 hour' as is_later from net.http_request_queue`),
    ).toEqual([{ attempts: 1, is_later: true }]);

    // It falls due while a worker rests that has found it waiting.
    const second = startWorkerProcess(site.url, 'second');
    await site.sql(`update net.http_request_queue set due_at = now() + interval '100 milliseconds'; select net.wake()`);
    await waits(2);

    const { held, letGo } = receiver.hold('/flaky');
    await site.sql('update net.http_request_queue set due_at = now(); select net.wake()');
    await until(() => held() === 1, 'the third attempt is under way');
    await second.kill();
    startWorkerProcess(site.url, 'third');
    // The same attempt, sent again: what it was could not be recorded.
    await until(() => held() === 2, 'it is sent again by another');
    expect(await site.sql('select attempts from net.http_request_queue')).toEqual([{ attempts: 2 }]);
    letGo();
    await until(
      async () =>
        (await site.sql('select from net._http_response where status_code = 200 and attempts = 3')).length === 1,
      'it succeeds',
    );
    expect(await site.sql('select attempt, worker, status_code from net.attempts order by 1')).toEqual([
      { attempt: 1, worker: 'first', status_code: 503 },
      { attempt: 2, worker: 'second', status_code: 503 },
      { attempt: 3, worker: 'third', status_code: 200 },
    ]);
    const keys = receiver.asked('/flaky').map((headers) => headers['idempotency-key']);
    expect(keys).toHaveLength(4);
    expect(new Set(keys).size).toBe(1);
  });
});
