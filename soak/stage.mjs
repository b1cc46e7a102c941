// What a run stands on: a PostgreSQL in durable mode, the receiver, the workers, and a proxy on every way between them.
import { fork } from 'node:child_process';
import { once } from 'node:events';
import { chmodSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import pg from 'pg';
import { connectPg, install, startEmbeddedPostgres } from '../dist/index.js';
import { createNetwork, whyNoNamespaces, whyNoNetem } from './namespaces.mjs';
import { startProxy } from './proxy.mjs';
import { askFunction } from './request.mjs';
import { createWorkerProcess } from './workers.mjs';

/**
 * Sets everything up; `close` takes it down again, in the opposite order, whatever has happened.
 *
 * @param {{ seed: number, workers: number, leaseMs: number, capacity: number, wantsNamespaces: boolean, complain: (text: string) => void }} options
 */
export async function openStage({ seed, workers: workerCount, leaseMs, capacity, wantsNamespaces, complain }) {
  const epochMs = Date.now();
  const sinceStart = () => Date.now() - epochMs;
  const closing = [];
  const close = async () => {
    for (const step of closing.splice(0).reverse()) await step();
  };
  try {
    const whyNotHosts = wantsNamespaces ? whyNoNamespaces() : 'not asked for';
    const network = whyNotHosts === undefined ? createNetwork(workerCount) : undefined;
    if (network !== undefined) closing.push(() => network.remove());
    const whyNotNetem = network === undefined ? whyNotHosts : whyNoNetem(network.hosts[0]);
    const address = network?.address ?? '127.0.0.1';

    const server = await startServer(closing);
    const url = server.connectionString;
    const receiver = await startReceiver(closing, [address, capacity, seed, epochMs]);
    const proxyTo = async (host, port) => {
      const proxy = await startProxy(address, { host, port });
      closing.push(() => proxy.close());
      return proxy;
    };
    const receiverProxy = await proxyTo(address, receiver.port);
    const enqueuerProxy = await proxyTo('127.0.0.1', server.port);
    await prepareDatabase(
      url,
      askFunction(seed, `http://${address}:${receiver.port}`, `http://${address}:${receiverProxy.port}`),
    );

    const workerProxies = [];
    const workers = [];
    closing.push(() => Promise.all(workers.map((worker) => worker.kill())));
    for (let i = 0; i < workerCount; i++) {
      const proxy = await proxyTo('127.0.0.1', server.port);
      workerProxies.push(proxy);
      const worker = createWorkerProcess({
        name: `w${i + 1}`,
        url: at(url, address, proxy.port),
        allow: address,
        leaseMs,
        namespace: network?.hosts[i].namespace,
        sinceStart,
      });
      workers.push(worker);
      worker.start();
    }
    const openMonitor = () => {
      const monitor = monitorOf(url);
      closing.push(() => monitor.close());
      return monitor.query;
    };
    return {
      epochMs,
      sinceStart,
      server,
      network,
      whyNotHosts,
      whyNotNetem,
      receiver,
      receiverProxy,
      enqueuerProxy,
      workerProxies,
      workers,
      directUrl: url,
      proxiedUrl: at(url, address, enqueuerProxy.port),
      sql: openMonitor(),
      /** A session of its own, for what must not wait behind the others. */
      openMonitor,
      complain,
      close,
    };
  } catch (error) {
    await close();
    throw error;
  }
}

function at(url, host, port) {
  const other = new URL(url);
  other.hostname = host;
  other.port = String(port);
  return other.href;
}

async function startServer(closing) {
  const directory = mkdtempSync(join(tmpdir(), 'pgfetch-soak-'));
  // As root, the server runs as another user, who must be able to enter.
  chmodSync(directory, 0o755);
  closing.push(() => rmSync(directory, { recursive: true, force: true }));
  const server = await startEmbeddedPostgres({
    directory,
    settings: { max_connections: '60', shared_buffers: '256MB', max_wal_size: '2GB', log_min_messages: 'fatal' },
  });
  closing.push(() => server.stop('immediate'));
  return server;
}

async function prepareDatabase(url, askFunctionText) {
  const db = await connectPg({
    connectionString: url,
    applicationName: 'pgfetch soak',
    connectTimeoutMs: 10_000,
  });
  try {
    await install(db, { durable: true });
    await db.execute(askFunctionText);
    await db.execute(`alter database postgres set pg_net.ttl to '7 days'`);
  } finally {
    await db.close();
  }
}

async function startReceiver(closing, words) {
  const child = fork(new URL('./receiver.mjs', import.meta.url), words.map(String), { serialization: 'advanced' });
  closing.push(async () => {
    if (child.exitCode !== null || child.signalCode !== null) return;
    const exited = once(child, 'exit');
    child.kill('SIGKILL');
    await exited;
  });
  const [{ port }] = await once(child, 'message');
  const receiver = { port, distinct: 0, report: undefined };
  child.on('message', (message) => {
    if ('distinct' in message) receiver.distinct = message.distinct;
  });
  /** All that it has seen. */
  receiver.report = () =>
    new Promise((resolve, reject) => {
      child.once('exit', () => reject(new Error('the receiver is gone')));
      child.on('message', (message) => 'counts' in message && resolve(message));
      child.send('report');
    });
  return receiver;
}

/** A session that comes back by itself; a query on a dead one rejects. One query at a time. */
function monitorOf(url) {
  let opening;
  let last = Promise.resolve();
  const open = async () => {
    const client = new pg.Client({ connectionString: url, connectionTimeoutMillis: 3_000 });
    const forget = () => {
      opening = undefined;
    };
    client.on('error', forget);
    client.on('end', forget);
    await client.connect();
    return client;
  };
  const query = async (text, values) => {
    opening ??= open();
    try {
      return (await (await opening).query(text, values)).rows;
    } catch (error) {
      if (error.severity !== 'ERROR') opening = undefined;
      throw error;
    }
  };
  return {
    query: (text, values) => {
      const answer = last.then(() => query(text, values));
      last = answer.catch(() => {});
      return answer;
    },
    close: async () => {
      const client = await opening?.catch(() => undefined);
      await client?.end().catch(() => {});
    },
  };
}
