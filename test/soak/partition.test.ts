import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import pg from 'pg';
import { afterEach, describe, expect, test } from 'vitest';
import { createNetwork, whyNoNamespaces } from '../../soak/namespaces.mjs';
import { startProxy } from '../../soak/proxy.mjs';
import { createWorkerProcess } from '../../soak/workers.mjs';
import { installedDatabase } from '../support/installed.ts';
import { availableMajors, startTestPostgres, until } from '../support/servers.ts';

// Three workers on three hosts, made of network namespaces. One is unplugged: nothing that it sends arrives, nothing reaches
// it, and neither side is told. The embedded server listens on 127.0.0.1 alone, so a forwarder takes the workers' connections
// to it; PostgreSQL sees the session of the unplugged one stand all the while, as it would for hours after a cable was cut.

const whyNot = whyNoNamespaces();
if (whyNot !== undefined) console.warn(`test/soak/partition.test.ts is skipped: ${whyNot}`);

describe.skipIf(whyNot !== undefined).each(availableMajors())('on PostgreSQL %i', (major) => {
  const closing: (() => unknown)[] = [];

  afterEach(async () => {
    for (const close of closing.splice(0).reverse()) await close();
  });

  /** Holds every request until told to answer; each answer says which attempt at its path it is for. */
  async function holdingReceiver(address: string) {
    const held: (() => void)[] = [];
    const attempts = new Map<string, number>();
    let isHolding = true;
    const server = createServer({ keepAliveTimeout: 60_000 }, (request, response) => {
      const path = request.url ?? '';
      const attempt = (attempts.get(path) ?? 0) + 1;
      attempts.set(path, attempt);
      const answer = (): void => {
        response.end(`attempt ${attempt}`);
      };
      if (isHolding) held.push(answer);
      else answer();
    });
    await new Promise<void>((resolve) => server.listen(0, address, resolve));
    closing.push(() => {
      server.closeAllConnections();
      return new Promise((resolve) => server.close(resolve));
    });
    return {
      url: `http://${address}:${(server.address() as AddressInfo).port}`,
      attempts,
      held,
      answerFromNowOn: () => {
        isHolding = false;
      },
    };
  }

  /** Three hosts with a worker each, started in the order of their calls. */
  async function threeHosts() {
    const server = await startTestPostgres({ major });
    const database = await installedDatabase(server);
    const network = createNetwork(3);
    closing.push(() => network.remove());
    const forwarder = await startProxy(network.address, { host: '127.0.0.1', port: server.port });
    closing.push(() => forwarder.close());
    const url = new URL(database.url);
    url.hostname = network.address;
    url.port = `${forwarder.port}`;
    const hosts = network.hosts.map((host, i) => {
      const worker = createWorkerProcess({
        name: `host ${i + 1}`,
        url: url.href,
        allow: network.address,
        leaseMs: 1_000,
        namespace: host.namespace,
        sinceStart: () => performance.now(),
      });
      closing.push(() => worker.kill());
      return { ...host, worker };
    });
    const sql = new pg.Client(database.url);
    await sql.connect();
    closing.push(() => sql.end());
    return { network, hosts, sql };
  }

  test('cut off for longer than its lease: nothing is lost or recorded twice, it says so once and serves again', {
    timeout: 90_000,
  }, async () => {
    const { network, hosts, sql } = await threeHosts();
    const [cut, ...others] = hosts;
    if (cut === undefined) throw new Error('there is no host');
    const receiver = await holdingReceiver(network.address);
    const ask = (first: number, last: number) =>
      sql.query(
        `select count(net.http_get($1 || '/' || n, timeout_milliseconds := 60000)) from generate_series($2::int, $3::int) n`,
        [receiver.url, first, last],
      );
    const serving = ({ worker }: (typeof hosts)[number]) =>
      until(() => worker.id ?? undefined, `${worker.name} to serve`, 20_000);
    const queueIsEmpty = () =>
      until(
        async () => (await sql.query('select from net.http_request_queue limit 1')).rowCount === 0,
        'everything to be recorded',
        30_000,
      );

    cut.worker.start();
    const idBefore = await serving(cut);
    await ask(1, 50);
    await until(() => receiver.held.length === 50, '50 requests in flight', 20_000);
    for (const { worker } of others) worker.start();
    await Promise.all(others.map(serving));

    cut.unplug();
    receiver.answerFromNowOn();
    await ask(51, 100);
    await queueIsEmpty();
    const { rows: sessions } = await sql.query(
      `select pid from pg_stat_activity where application_name like 'pg_net %'`,
    );
    expect(sessions).toHaveLength(3);
    // What it sent is answered after all, and waits for it.
    for (const answer of receiver.held.splice(0)) answer();

    cut.plugIn();
    await until(() => cut.worker.id !== idBefore, 'the worker that was cut off to register anew', 40_000);
    expect(cut.worker.fencedAt).toHaveLength(1);
    await Promise.all(others.map(({ worker }) => worker.stop()));
    await ask(101, 150);
    await queueIsEmpty();

    const { rows } = await sql.query(
      `select content, status_code, count(*)::int, count(distinct id)::int as ids
       from net._http_response group by 1, 2 order by 1`,
    );
    expect(rows).toEqual([
      { content: 'attempt 1', status_code: 200, count: 100, ids: 100 },
      { content: 'attempt 2', status_code: 200, count: 50, ids: 50 },
    ]);
    expect([...receiver.attempts.values()].filter((attempts) => attempts === 2)).toHaveLength(50);
    expect(receiver.attempts.size).toBe(150);
    expect(cut.worker.fencedAt).toHaveLength(1);
    expect(hosts.flatMap(({ worker }) => worker.noise)).toEqual([]);
    expect(await cut.worker.stop()).toEqual({ code: 0, signal: null });
  });
});
