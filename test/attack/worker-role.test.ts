import type pg from 'pg';
import { describe, expect, test } from 'vitest';
import { aftermathOf, defaultTerms, type Terms } from '../../src/core/aftermath.ts';
import { noTimings, type Outcome } from '../../src/core/outcome.ts';
import type { QueueRow } from '../../src/core/request.ts';
import { settlementOf } from '../../src/core/settlement.ts';
import type { Database } from '../../src/postgres/database.ts';
import { connectPg } from '../../src/postgres/pg.ts';
import { loadBody } from '../../src/store/body.ts';
import { claimCallback, nextCallbackMs, recordCallbackFailure, returnCallback } from '../../src/store/callbacks.ts';
import { claim, dueStart } from '../../src/store/claim.ts';
import { claimOrdered, findWaitingKeys, firstKey, forgetKeys } from '../../src/store/claim-ordered.ts';
import { expire, nextExpiryMs } from '../../src/store/expire.ts';
import { inspectInstallation } from '../../src/store/installation.ts';
import { forgetUnusedLimits, holdPermits, reportOutcomes, takeTokens } from '../../src/store/limits.ts';
import { reclaim, reclaimLost, reclaimOrphans } from '../../src/store/reclaim.ts';
import { deregister, detach, register, renewLease } from '../../src/store/register.ts';
import { release } from '../../src/store/release.ts';
import { readMissingRights, readRights } from '../../src/store/rights.ts';
import { sessionSettings } from '../../src/store/session.ts';
import { readSettings } from '../../src/store/settings.ts';
import { type Settled, settle } from '../../src/store/settle.ts';
import { readHasPolicies, readStandings } from '../../src/store/standing.ts';
import { refuseUnreadable } from '../../src/store/unreadable.ts';
import {
  announcePromise,
  horizon,
  promise,
  takeTransactionId,
  wakeChannel,
  withdrawPromise,
} from '../../src/store/wake.ts';
import { closedAfterEach, type Opened } from '../support/opened.ts';
import { availableMajors } from '../support/servers.ts';
import { openStage, type Stage } from './stage.ts';

const leaseMs = 60_000;
const everything = { afterId: 0n, urgentAfterId: 0n, dueAfter: dueStart };

async function connectAs(opened: Opened, stage: Stage, user: string): Promise<Database> {
  const db = await connectPg({
    connectionString: stage.urlAs(user),
    applicationName: 'pg_net test',
    connectTimeoutMs: 10_000,
    sessionSettings,
  });
  opened.push(() => db.close());
  return db;
}

/** Fails with what came of it. A right that is missing may show as nothing found. */
function must(isSo: boolean, what: string): void {
  if (!isSo) throw new Error(what);
}

async function enrol(db: Database, name: string): Promise<bigint> {
  const options = { workerId: null, name, version: 'test', ownsSession: false, leaseMs };
  const registration = await register(db, options);
  if (registration === null) throw new Error('not registered');
  return registration.workerId;
}

/** Every statement that a worker makes, each of which must do what it is for. */
async function work(db: Database, admin: pg.Client): Promise<void> {
  await admin.query(`
    truncate net.http_request_queue, net._http_response, net.kept_requests, net.worker, net.attempts, net.idempotency_keys,
      net.ordering_keys, net.limits, net.limit_state, net.limit_holders;
    insert into net.idempotency_keys values (10, 'k', 1, now());
    select setval('net.wake_promise', 1);
    select net.http_get('http://h/' || n) from generate_series(1, 6) n`);
  const found = await inspectInstallation(db);
  must(found.kind === 'ready', `the installation is ${found.kind}`);
  must((await readSettings(db)).problems.length === 0, 'the settings have problems');
  must(await db.listen(wakeChannel, () => {}), 'it hears nothing');
  must(!(await readHasPolicies(db)), 'there are policies');
  must((await readStandings(db, [null, 10], [])).size === 2, 'nothing is known of roles');
  await admin.query(`insert into net.policy values ('attacker', 'h', null)`);
  must(await readHasPolicies(db), 'there are no policies');
  const attacker = Number((await admin.query(`select 'attacker'::regrole::oid as oid`)).rows[0].oid);
  const bound = (await readStandings(db, [attacker], [])).get(attacker);
  await admin.query('delete from net.policy');
  must(bound?.hostRules?.length === 1, 'the rules of others are hidden');
  must(!(await readHasPolicies(db)), 'there are policies still');
  must((await admin.query('select net._is_open() as o')).rows[0].o === true, 'the gate stays closed');
  await admin.query(`insert into net.limits (host, concurrency) values ('h', 2)`);
  const id = await enrol(db, 'one');
  const dead = await enrol(db, 'dead');
  const asked = await renewLease(db, id, leaseMs);
  must(asked !== null, 'the lease is not renewed');
  must(asked?.limits?.includes('"concurrency": 2') === true, 'the limits are hidden');
  await admin.query('delete from net.limits');
  await refuseUnreadable(db);

  // Of the six: one is held by a worker that dies, one is given back, one is claimed by a connection that is lost.
  must((await claim(db, dead, 1, everything))?.rows.length === 1, 'the other worker claims nothing');
  must((await renewLease(db, dead, -leaseMs)) !== null, 'the other lease does not lapse');
  must((await reclaim(db, id)).freed === 1, 'what a dead worker held is not free');
  const [first] = (await claim(db, id, 1, everything))?.rows ?? [];
  must(first !== undefined, 'nothing is claimed');
  await release(db, id, [first?.id ?? 0n]);
  must((await claim(db, id, 1, everything))?.rows.length === 1, 'what was given back is not claimed');
  must((await reclaimLost(db, id, [])) === 1, 'what was lost is not free');
  const among = await claim(db, id, 2, everything, {
    roles: [0],
    rolesIncluded: true,
    pairs: [],
    pairsIncluded: false,
  });
  const others = await claim(db, id, 10, everything);
  const rows = [...(among?.rows ?? []), ...(others?.rows ?? [])];
  must(rows.length === 6, `${rows.length} of 6 are claimed`);

  must((await loadBody(db, id, rows[0]?.id ?? 0n, 1)) === 'changed', 'a body is not read');

  const reply = {
    kind: 'reply',
    status: 200,
    headers: [],
    body: new Uint8Array(),
    truncated: false,
    timings: noTimings,
  } as const;
  const [twice, lacking, ...once] = rows.map((row): QueueRow => ({ ...row, body: null }));
  const [odd, orphan, ...plain] = once.map((row) => settlementOf(row, reply, undefined));
  must((await settle(db, id, plain)).recorded.length === 2, 'answers are not recorded');
  must(orphan !== undefined, 'there is nothing more to record');
  if (lacking !== undefined) {
    // One that failed, and is kept for redelivery.
    const missing = { ...reply, status: 404 };
    const attempt = { startedAtMs: 0, endedAtMs: 1, random: () => 0 };
    const failed = settlementOf(lacking, missing, aftermathOf(lacking, missing, attempt, defaultTerms));
    must((await settle(db, id, [failed])).recorded.length === 1, 'what failed is not recorded');
  }
  must((await admin.query('select from net.kept_requests')).rowCount === 1, 'what failed is not kept');
  if (twice !== undefined) await tryTwice(db, id, twice);
  // Refused as it is: taken apart, looked at, recorded as best it can be.
  const refused = odd === undefined ? [] : [{ ...odd, content: 'a\u0000é' }];
  must((await settle(db, id, refused)).recorded.length === 1, 'what the database refuses is not recorded');

  await admin.query(`select net.request('GET', 'http://h/', ordering_key := 'k') from generate_series(1, 2)`);
  for (let turn = 1; turn <= 2; turn += 1) {
    const { waiting } = await findWaitingKeys(db, firstKey, 10);
    const ordered = (await claimOrdered(db, id, waiting)) ?? [];
    must(ordered.length === 1, 'what is ordered is not claimed one by one');
    const answers = ordered.map((row) => settlementOf({ ...row, body: null }, reply, undefined));
    must((await settle(db, id, answers)).recorded.length === 1, 'what is ordered is not recorded');
  }
  must((await forgetKeys(db, firstKey, 10)) === undefined, 'the keys have no end');
  must((await admin.query('select from net.ordering_keys')).rowCount === 0, 'the key is not forgotten');
  await detach(db, id, leaseMs);
  await deregister(db, id);
  must((await reclaimOrphans(db)).freed === 1, 'the orphan is not free');

  await makeCalls(db, admin);
  const permits = { meter: 'host h', limit: 2, inUse: 0, wants: 3 };
  must((await holdPermits(db, id, [permits]))[0]?.allowed === 2, 'there are no permits');
  must((await holdPermits(db, id, [{ ...permits, wants: 0 }]))[0]?.allowed === 0, 'permits are not given back');
  const tokens = { hostMeter: 'host h', hostRate: 1, keyMeter: null, keyRate: null, wanted: 1 };
  must((await takeTokens(db, [tokens]))[0]?.granted === 1, 'there are no tokens');
  const outcomes = { meter: 'host h', failures: 10, total: 10, probe: undefined, wantsProbe: false };
  must((await reportOutcomes(db, [outcomes], Math.random))[0]?.state === 'open', 'a breaker does not open');
  await admin.query(`update net.limit_state set used_at = 'epoch', next_at = null`);
  await forgetUnusedLimits(db);
  must((await admin.query('select from net.limit_state')).rowCount === 0, 'what nobody uses is remembered');

  await announcePromise(db);
  await promise(db, 1_000);
  await withdrawPromise(db);
  await takeTransactionId(db);
  must((await horizon(db)).lastId > 0n, 'no id was given out');
  const begin = new Date(0);
  const next = await nextExpiryMs(
    db,
    { responses: 1_000, keptRequests: 1_000, attempts: 1_000, idempotencyKeys: 1_000 },
    { responses: begin, keptRequests: begin, attempts: begin, idempotencyKeys: begin },
  );
  must(!Object.values(next).includes(null), 'nothing will expire');
  must((await expire(db, 'responses', -1_000, 100, begin)).rows === 7, 'no response expires');
  must((await expire(db, 'keptRequests', -1_000, 100, begin)).rows === 2, 'nothing that is kept expires');
  must((await expire(db, 'attempts', -1_000, 100, begin)).rows === 2, 'no attempt expires');
  must((await expire(db, 'idempotencyKeys', -1_000, 100, begin)).rows === 1, 'no key expires');
  const { rows: left } = await admin.query(`
    select (
      (select count(*) from net._http_response) + (select count(*) from net.kept_requests)
      + (select count(*) from net.attempts) + (select count(*) from net.idempotency_keys)
    )::int as n`);
  must(left[0].n === 0, 'what has expired is still there');
}

/** What it does with calls that are to be made; the calls themselves are another login's. */
async function makeCalls(db: Database, admin: pg.Client): Promise<void> {
  await admin.query(`truncate net.callbacks; select net.http_get('http://h/called')`);
  const id = await enrol(db, 'calls');
  const [row] = (await claim(db, id, 1, everything))?.rows ?? [];
  if (row === undefined || row.body === undefined) throw new Error('nothing is claimed');
  const outcome = { kind: 'failure', code: 'denied', message: 'no', timings: noTimings } as const;
  const aftermath = {
    state: 'failed',
    retryInMs: undefined,
    attempt: 1,
    startedAtMs: 0,
    timings: noTimings,
    isKept: false,
    keep: 'full',
    label: undefined,
    idempotencyKey: undefined,
    callback: 10,
    blocksKey: false,
  } as const;
  must((await settle(db, id, [settlementOf(row, outcome, aftermath)])).hasCallbacks, 'there is nothing to call');
  await admin.query(
    `update net.callbacks set requester = 'attacker'::regrole; delete from net._http_response where id = ${row.id}`,
  );
  const first = await claimCallback(db, [], 1_000);
  must(first !== undefined, 'nothing is to be called');
  if (first !== undefined) await returnCallback(db, first, -1_000);
  const second = await claimCallback(db, [], 1_000);
  must(second !== undefined, 'what was given back is not to be called');
  if (second !== undefined) await recordCallbackFailure(db, second, { code: 'P0001', message: 'no' });
  must(((await nextCallbackMs(db, 1_000)) ?? 0) > 0, 'what has failed is not called again');
  await admin.query('update net.callbacks set due_at = null');
  await nextCallbackMs(db, -1_000);
  const { rows: left } = await admin.query('select from net.callbacks');
  must(left.length === 0, 'what has failed for good is still there');
  await deregister(db, id);
}

/** Fails, goes back into the queue, is claimed and fails again: both attempts are recorded. */
async function tryTwice(db: Database, workerId: bigint, row: QueueRow): Promise<void> {
  const { retry } = defaultTerms;
  const terms: Terms = { ...defaultTerms, retry: { ...retry, maxAttempts: 2, firstDelayMs: 0 } };
  const failed: Outcome = { kind: 'failure', code: 'timed_out', message: 'x', timings: noTimings };
  const attempt = { startedAtMs: 0, endedAtMs: 0, random: () => 0 };
  const fail = (claimed: QueueRow): Promise<Settled> =>
    settle(db, workerId, [settlementOf(claimed, failed, aftermathOf(claimed, failed, attempt, terms))]);
  must((await fail(row)).returned.length === 1, 'nothing goes back to be tried again');
  const [again] = (await claim(db, workerId, 1, everything))?.rows ?? [];
  must(again?.extras?.attempts === 1, 'it is not known how often it was tried');
  must((await fail({ ...row, extras: again?.extras })).recorded.length === 1, 'the last attempt is not recorded');
}

type Right = { readonly object: string; readonly privilege: string; readonly column: string | null };

const rightsOfWorker = `
  select o.object, lower(a.privilege_type) as privilege, o.column
  from pg_namespace n
  cross join lateral (
    select 'schema net', null, n.nspacl
    union all
    select 'function ' || p.oid::regprocedure, null, p.proacl from pg_proc p where p.pronamespace = n.oid
    union all
    select case c.relkind when 'S' then 'sequence ' else 'table ' end || c.oid::regclass, null, c.relacl
    from pg_class c
    where c.relnamespace = n.oid
    union all
    select 'table ' || c.oid::regclass, t.attname, t.attacl
    from pg_class c
    join pg_attribute t on t.attrelid = c.oid
    where c.relnamespace = n.oid
  ) o (object, "column", acl)
  cross join lateral aclexplode(o.acl) a
  where n.nspname = 'net' and a.grantee = 'net_worker'::regrole
  order by 1, 3, 2`;

/** Not the worker's: `pgfetch doctor` runs with the worker's connection string and compares the schema with what was installed. */
const kept = ['execute on function net._fingerprint()'];

describe.each(availableMajors())('net_worker on PostgreSQL %i', (major) => {
  const opened = closedAfterEach();

  test('is enough for everything that a worker does, though nobody else has any right', async () => {
    const stage = await openStage(opened, major, { grants: 'none' });
    const db = await connectAs(opened, stage, 'serving');
    expect(await readMissingRights(db)).toEqual([]);
    await work(db, stage.admin);
  });

  test('has no right too many: without any one of them something fails, and doctor names it', async () => {
    const stage = await openStage(opened, major, { grants: 'none' });
    const { admin } = stage;
    const { rows: rights } = await admin.query<Right>(rightsOfWorker);
    expect(rights.length).toBeGreaterThan(20);
    const db = await connectAs(opened, stage, 'serving');
    const needless: string[] = [];
    const unnamed: string[] = [];
    for (const { object, privilege, column } of rights) {
      const right = `${privilege}${column === null ? '' : ` (${column})`} on ${object}`;
      await admin.query(`revoke ${right} from net_worker`);
      const outcome = await work(db, admin).then(
        () => 'done',
        (error: Error) => error.message,
      );
      const missing = await readMissingRights(db).catch(() => ['all']);
      await admin.query(`grant ${right} to net_worker`);
      if (outcome === 'done' && !kept.includes(right)) needless.push(right);
      if (missing.length === 0 && !kept.includes(right)) unnamed.push(right);
    }
    expect({ needless, unnamed }).toEqual({ needless: [], unnamed: [] });
    for (const [policy, table] of [
      ['worker_requests', 'net.http_request_queue'],
      ['worker_responses', 'net._http_response'],
      ['worker_rules', 'net.policy'],
      ['worker_attempts', 'net.attempts'],
      ['worker_idempotency', 'net.idempotency_keys'],
      ['worker_kept', 'net.kept_requests'],
      ['worker_callbacks', 'net.callbacks'],
      ['worker_ordering', 'net.ordering_keys'],
      ['worker_limit_state', 'net.limit_state'],
      ['worker_limit_holders', 'net.limit_holders'],
    ]) {
      await admin.query(`alter policy ${policy} on ${table} to postgres`);
      await expect(work(db, admin), policy).rejects.toThrow();
      expect(await readMissingRights(db)).toEqual([`rows of other roles in ${table}`]);
      await admin.query(`alter policy ${policy} on ${table} to net_worker`);
    }
    await work(db, admin);
  });

  test('is all that doctor lets pass: whatever a login has besides is named', async () => {
    const stage = await openStage(opened, major);
    const { admin } = stage;
    const excess = async (): Promise<readonly string[]> =>
      (await readRights(await connectAs(opened, stage, 'serving'))).excess;
    expect(await excess()).toEqual([]);
    await admin.query(`alter database ${stage.name} owner to serving`);
    expect(await excess()).toEqual([]);
    await admin.query(`alter database ${stage.name} owner to postgres`);
    await admin.query('alter role serving createrole createdb; grant pg_monitor to serving');
    try {
      expect(await excess()).toEqual(
        expect.arrayContaining(['has CREATEROLE', 'has CREATEDB', 'is a member of pg_monitor']),
      );
    } finally {
      await admin.query('alter role serving nocreaterole nocreatedb; revoke pg_monitor from serving');
    }
    const superuser = await readRights(await connectAs(opened, stage, 'postgres'));
    expect(superuser.excess[0]).toBe('is a superuser');
  });

  test('cannot change the schema, call the owner’s functions, nor take a trigger along', async () => {
    const stage = await openStage(opened, major);
    const db = await connectAs(opened, stage, 'serving');
    for (const statement of [
      `update net.http_request_queue set url = 'http://evil'`,
      'truncate net.http_request_queue',
      'create trigger t before insert on net._http_response for each row execute function suppress_redundant_updates_trigger()',
      'alter table net._http_response add column x int',
      `update net._http_response set content = 'forged'`,
      'select headers from net.kept_requests',
      `update net.kept_requests set url = 'http://evil'`,
      `select setval('net.http_request_queue_id_seq', 1)`,
      `select net.set_paused(true)`,
      `select net.set_grants('public')`,
      `insert into net.http_request_queue (method, url, headers, timeout_milliseconds) values ('GET', 'http://h', '{}', 1)`,
      'create table net.mine (x int)',
      'create role another',
      `select pg_read_file('/etc/passwd')`,
    ]) {
      await expect(db.execute(statement), statement).rejects.toMatchObject({ code: '42501' });
    }
    await stage.expectUnharmed();
  });
});
