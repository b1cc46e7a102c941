import type pg from 'pg';
import { expect } from 'vitest';
import { type EchoRequest, type EchoServer, startEchoServer } from '../../src/embedded/echo.ts';
import { connectPg } from '../../src/postgres/pg.ts';
import { type InstallOptions, install } from '../../src/schema/install.ts';
import { createWorker } from '../../src/worker/create.ts';
import { type Opened, openSession } from '../support/opened.ts';
import { createDatabase, startTestPostgres, type TestMajor, type TestServer, until } from '../support/servers.ts';

/** What the victim's request carries, and nobody else may see. */
export const secret = 'victim-secret';

/** A fresh database with pgfetch, a request of the victim's in its queue, and sessions of those who play. */
export type Stage = {
  readonly server: TestServer;
  readonly url: string;
  readonly name: string;
  readonly echo: EchoServer;
  readonly received: readonly EchoRequest[];
  /** The superuser who installed. */
  readonly admin: pg.Client;
  /** Ordinary logins: neither superusers nor owners. */
  readonly attacker: pg.Client;
  readonly victim: pg.Client;
  readonly victimsId: number;
  urlAs(user: string): string;
  session(user: string): Promise<pg.Client>;
  /** A worker that connects as a login with net_worker and nothing else. */
  startWorker(): Promise<void>;
  /** Serves, and looks that the victim's request went out as it was made, and its answer went to the victim alone. */
  expectUnharmed(): Promise<void>;
};

/** Ends every session when the test is over; the database goes first. */
export async function openStage(opened: Opened, major: TestMajor, options: InstallOptions = {}): Promise<Stage> {
  const server = await startTestPostgres({ major, settings: { 'pgfetch_test.name': 'attack' } });
  const database = await createDatabase(server);
  opened.push(() => database.drop());
  const received: EchoRequest[] = [];
  const echo = await startEchoServer({ onRequest: (request) => received.push(request) });
  opened.push(() => echo.close());
  const urlAs = (user: string): string => {
    const address = new URL(database.url);
    address.username = user;
    return address.href;
  };
  const session = (user: string): Promise<pg.Client> => openSession(opened, urlAs(user));
  const admin = await session('postgres');
  await admin.query(makeLogins);
  const db = await connectPg({
    connectionString: database.url,
    applicationName: 'pgfetch attack',
    connectTimeoutMs: 10_000,
  });
  await install(db, options).finally(() => db.close());
  await admin.query('grant net_worker to serving');
  if (options.grants === 'members') await admin.query('grant net_user to victim');
  const victim = await session('victim');
  let victimsId = 0;
  if (options.grants !== 'none') {
    const { rows } = await victim.query<{ id: string }>('select net.http_post($1, $2, headers := $3) as id', [
      `${echo.url}/anything/victim?token=${secret}`,
      { pin: secret },
      { Authorization: `Bearer ${secret}` },
    ]);
    victimsId = Number(rows[0]?.id);
  }
  const stage: Stage = {
    server,
    url: database.url,
    name: database.name,
    echo,
    received,
    admin,
    attacker: await session('attacker'),
    victim,
    victimsId,
    urlAs,
    session,
    startWorker: async () => {
      const worker = createWorker({ connectionString: urlAs('serving'), allow: ['loopback'], stopTimeoutMs: 2_000 });
      opened.push(() => worker.stop());
      await worker.start();
    },
    expectUnharmed: () => expectUnharmed(stage),
  };
  return stage;
}

/** Roles are the server's; the databases of this file come and go. */
const makeLogins = `
  do $$
  declare
    name text;
  begin
    foreach name in array array['attacker', 'victim', 'serving'] loop
      if not exists (select from pg_roles where rolname = name) then
        execute format('create role %I login', name);
      end if;
    end loop;
  end
  $$`;

async function expectUnharmed(stage: Stage): Promise<void> {
  await stage.startWorker();
  const response = 'select status_code, content, error_msg from net._http_response where id = $1';
  const [row] = await until(async () => {
    const { rows } = await stage.victim.query(response, [stage.victimsId]);
    return rows.length > 0 && rows;
  }, "the victim's response");
  expect(row).toMatchObject({ status_code: 200, error_msg: null });
  const own = stage.received.filter(({ path }) => path.startsWith('/anything/victim'));
  expect(own).toHaveLength(1);
  expect(own[0]).toMatchObject({ method: 'POST', path: `/anything/victim?token=${secret}` });
  expect(row.content).toContain(`Bearer ${secret}`);
  expect(row.content).toContain('pin');
  const seen = await stage.attacker.query(
    'select id from net._http_response where id = $1 union all select id from net.http_request_queue where id = $1',
    [stage.victimsId],
  );
  expect(seen.rows).toEqual([]);
}

/** Runs it in a transaction that is rolled back; says what became of it. */
export async function attempt(client: pg.Client, text: string, values: unknown[] = []): Promise<string> {
  await client.query('begin');
  try {
    const result = await client.query(text, values);
    return `rows ${JSON.stringify(result.rows ?? [])}`;
  } catch (error) {
    const { code, message, detail = '' } = error as { code?: string; message: string; detail?: string };
    return `${code}: ${message} ${detail}`;
  } finally {
    await client.query('rollback');
  }
}
