import { type ChildProcess, spawn } from 'node:child_process';
import { createServer, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import pg from 'pg';
import { afterEach, describe, expect, test } from 'vitest';
import { installedDatabase } from '../support/installed.ts';
import { newestMajors, startTestPostgres, until } from '../support/servers.ts';

/** Real worker processes, killed and paused: what no code of theirs can tidy up after. Runs the built CLI. */
describe.each(newestMajors())('on PostgreSQL %i', (major) => {
  const closing: (() => unknown)[] = [];

  afterEach(async () => {
    for (const close of closing.splice(0).reverse()) await close();
  });

  /** Holds every request until told to answer, and answers with how many times it has seen that path. */
  async function holdingReceiver() {
    const held: (() => void)[] = [];
    const seen = new Map<string, number>();
    let answering = false;
    const answer = (response: ServerResponse, text: string): void => {
      response.end(text);
    };
    const server = createServer({ keepAliveTimeout: 60_000 }, (request, response) => {
      const path = request.url ?? '';
      const times = (seen.get(path) ?? 0) + 1;
      seen.set(path, times);
      if (answering) answer(response, `attempt ${times}`);
      else held.push(() => answer(response, `attempt ${times}`));
    });
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    closing.push(() => {
      server.closeAllConnections();
      return new Promise((resolve) => server.close(resolve));
    });
    return {
      url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
      seen,
      get heldCount() {
        return held.length;
      },
      answerFromNowOn: () => {
        answering = true;
      },
      answerHeld: () => {
        for (const release of held.splice(0)) release();
      },
    };
  }

  function startWorkerProcess(url: string, ...options: string[]): ChildProcess {
    const child = spawn(
      process.execPath,
      ['dist/cli/main.js', 'worker', '--database-url', url, '--allow', 'loopback', ...options],
      { stdio: ['ignore', 'ignore', 'inherit'] },
    );
    closing.push(async () => {
      if (child.exitCode === null && child.signalCode === null) {
        const exited = new Promise((resolve) => child.once('exit', resolve));
        child.kill('SIGKILL');
        await exited;
      }
    });
    return child;
  }

  async function database(settings: readonly string[] = []) {
    const { url, name } = await installedDatabase(await startTestPostgres({ major }));
    const sql = new pg.Client(url);
    await sql.connect();
    closing.push(() => sql.end());
    for (const setting of settings) await sql.query(`alter database ${name} set ${setting}`);
    return { url, sql };
  }

  test('killed with 1,000 requests in flight: another worker sends all that were not done', async () => {
    const { url, sql } = await database(['pg_net.concurrency to 1400', 'pg_net.batch_size to 1000']);
    const receiver = await holdingReceiver();
    const first = startWorkerProcess(url);
    await sql.query(
      `select net.http_get('${receiver.url}/' || n, timeout_milliseconds := 60000) from generate_series(1, 1000) n`,
    );
    await until(() => receiver.heldCount === 1000, '1,000 requests in flight', 20_000);
    first.kill('SIGKILL');
    receiver.answerFromNowOn();
    startWorkerProcess(url);
    await until(
      async () => (await sql.query('select 1 from net.http_request_queue limit 1')).rows.length === 0,
      'the queue to be empty',
      30_000,
    );
    const { rows } = await sql.query(
      'select count(*)::int as all, count(distinct id)::int as ids, min(status_code) as low, max(status_code) as high from net._http_response',
    );
    expect(rows).toEqual([{ all: 1000, ids: 1000, low: 200, high: 200 }]);
    expect([...receiver.seen.values()].every((times) => times === 2)).toBe(true);
  });

  test('paused past its lease: its requests go to another, and it overwrites nothing when it wakes', async () => {
    const { url, sql } = await database();
    const receiver = await holdingReceiver();
    const paused = startWorkerProcess(url, '--lease', '1000', '--name', 'paused');
    await sql.query(
      `select net.http_get('${receiver.url}/' || n, timeout_milliseconds := 60000) from generate_series(1, 50) n`,
    );
    await until(() => receiver.heldCount === 50, '50 requests in flight', 20_000);
    paused.kill('SIGSTOP');
    receiver.answerFromNowOn();
    const successor = startWorkerProcess(url, '--lease', '1000', '--name', 'successor');
    await until(
      async () => (await sql.query('select 1 from net.http_request_queue limit 1')).rows.length === 0,
      'the successor to have done them all',
      30_000,
    );
    receiver.answerHeld();
    paused.kill('SIGCONT');
    // It comes back under a new registration…
    await until(
      async () =>
        (await sql.query(`select from net.worker where name = 'paused' and lease_until > now()`)).rows.length > 0,
      'the paused worker to be back',
      20_000,
    );
    const { rows } = await sql.query('select content, count(*)::int from net._http_response group by 1');
    expect(rows).toEqual([{ content: 'attempt 2', count: 50 }]);
    // …and serves.
    successor.kill('SIGKILL');
    await until(
      async () =>
        (await sql.query(`select from pg_stat_activity where application_name like 'pg_net %'`)).rows.length === 1,
      'the successor to be gone',
    );
    await sql.query(`select net.http_get('${receiver.url}/last')`);
    await until(() => receiver.seen.has('/last'), 'a request by the worker that had been paused', 20_000);
  });
});
