import pg from 'pg';
import { afterEach, describe, expect, test } from 'vitest';
import { startEchoServer } from '../../src/embedded/echo.ts';
import { createWorker } from '../../src/worker/create.ts';
import { installedDatabase } from '../support/installed.ts';
import { availableMajors, startTestPostgres, until } from '../support/servers.ts';

/** A durable queue in a database of which everything is published, and somebody reads the changes. */
describe.each(availableMajors())('FOR ALL TABLES on PostgreSQL %i', (major) => {
  const closing: (() => Promise<unknown>)[] = [];

  afterEach(async () => {
    for (const close of closing.splice(0).reverse()) await close();
  });

  async function stage() {
    const server = await startTestPostgres({ major, settings: { wal_level: 'logical' } });
    const database = await installedDatabase(server);
    closing.push(() => database.drop());
    const sql = new pg.Client(database.url);
    await sql.connect();
    closing.push(() => sql.end());
    const seen: string[] = [];
    const echo = await startEchoServer({ onRequest: ({ path }) => seen.push(path) });
    closing.push(() => echo.close());
    const problems: string[] = [];
    const worker = createWorker({ connectionString: database.url, allow: ['loopback'], stopTimeoutMs: 2_000 });
    worker.on('problem', (error) => problems.push(error.message));
    closing.push(() => worker.stop());
    const slot = `slot_of_${database.name}`;
    const subscribe = async (): Promise<void> => {
      await sql.query('create publication everything for all tables');
      await sql.query(`select pg_create_logical_replication_slot($1, 'pgoutput')`, [slot]);
      // A slot keeps its database from being dropped.
      closing.push(() => sql.query('select pg_drop_replication_slot($1)', [slot]));
    };
    /**
     * What has changed since the last call, as a subscriber reads it: `insert net.http_request_queue` → how often. The worker's
     * commits do not wait for the disk, and only what is there is read: a synchronous commit flushes all before it.
     */
    const changes = async (): Promise<Record<string, number>> => {
      await sql.query(`set synchronous_commit = on; create table public.flush (); drop table public.flush`);
      const { rows } = await sql.query<{ data: Buffer }>(
        `select data from pg_logical_slot_get_binary_changes($1, null, null, 'proto_version', '1', 'publication_names', 'everything')`,
        [slot],
      );
      return tally(rows.map(({ data }) => data));
    };
    const count = async (table: string): Promise<number> =>
      (await sql.query(`select count(*)::int as n from ${table}`)).rows[0].n;
    return { sql, name: database.name, echo, seen, worker, problems, subscribe, changes, count };
  }

  test('requests are enqueued, answered and expired, and a subscriber reads all of it', async () => {
    const { sql, name, echo, worker, problems, subscribe, changes, count } = await stage();
    await sql.query('select net.set_durable(true)');
    await subscribe();
    await worker.start();
    await sql.query(`select net.http_get('${echo.url}/get?' || n) from generate_series(1, 50) n`);
    await until(async () => (await count('net._http_response')) === 50, 'all are answered');
    await worker.drain();
    const lived = await changes();
    expect(lived).toMatchObject({
      'insert net.http_request_queue': 50,
      'delete net.http_request_queue': 50,
      'insert net._http_response': 50,
    });
    expect(lived['update net.http_request_queue']).toBeGreaterThanOrEqual(50);

    await sql.query(`alter database ${name} set pg_net.ttl = '1 millisecond'`);
    await sql.query('select net.worker_restart()');
    await until(async () => (await count('net._http_response')) === 0, 'all have expired');
    expect(await changes()).toEqual({ 'delete net._http_response': 50 });
    expect(problems).toEqual([]);
  });

  test('what a worker gives back, and what a user does to the tables, is published as well', async () => {
    const { sql, echo, seen, worker, subscribe, changes, count } = await stage();
    // Durable after it was published: as good.
    await subscribe();
    await sql.query('select net.set_durable(true)');
    await worker.start();
    await sql.query(`select net.http_get('${echo.url}/delay/9', timeout_milliseconds := 20000)`);
    await until(() => seen.length === 1, 'it is in flight');
    await worker.stop();
    expect(await count('net.http_request_queue where claimed_by is null and due_at is not null')).toBe(1);
    await sql.query('delete from net.http_request_queue');
    await sql.query('insert into net._http_response (id) values (null), (7)');
    await sql.query(`update net._http_response set error_msg = 'by hand'`);
    await sql.query('truncate net._http_response, net.http_request_queue');
    expect(await changes()).toEqual({
      'insert net.http_request_queue': 1,
      'update net.http_request_queue': 2,
      'delete net.http_request_queue': 1,
      'insert net._http_response': 2,
      'update net._http_response': 2,
      truncate: 1,
    });
  });

  test('what is not durable is not published, and is not refused either', async () => {
    const { sql, echo, worker, problems, subscribe, changes, count } = await stage();
    await subscribe();
    await worker.start();
    await sql.query(`select net.http_get('${echo.url}/get') from generate_series(1, 10)`);
    await until(async () => (await count('net._http_response')) === 10, 'all are answered');
    expect(await changes()).toEqual({});
    expect(problems).toEqual([]);
  });
});

const kinds: Readonly<Record<string, string>> = { I: 'insert', U: 'update', D: 'delete' };

/** Counts the changes in messages of the logical replication protocol, version 1. */
function tally(messages: readonly Buffer[]): Record<string, number> {
  const names = new Map<number, string>();
  const counts: Record<string, number> = {};
  for (const message of messages) {
    const type = String.fromCharCode(message[0] ?? 0);
    if (type === 'R') {
      // Relation: its OID, and two texts that end with a zero: schema and name.
      const [schema = '', name = ''] = message.subarray(5).toString('latin1').split('\0');
      names.set(message.readUInt32BE(1), `${schema}.${name}`);
      continue;
    }
    const kind = type === 'T' ? 'truncate' : kinds[type];
    if (kind !== undefined) {
      const what = type === 'T' ? kind : `${kind} ${names.get(message.readUInt32BE(1))}`;
      counts[what] = (counts[what] ?? 0) + 1;
    }
  }
  return counts;
}
