import pg from 'pg';
import { afterEach } from 'vitest';
import { type EchoServer, startEchoServer } from '../../src/embedded/echo.ts';

/** What a test has opened: put in how to close it. After each test all of it is closed, the last one first. */
export type Opened = (() => unknown)[];

/** To be called within `describe`. */
export function closedAfterEach(): Opened {
  const opened: Opened = [];
  afterEach(async () => {
    for (const close of opened.splice(0).reverse()) await close();
  });
  return opened;
}

/** A session that may be ended by the server: what comes of that is seen by who uses it next. */
export async function openSession(opened: Opened, url: string): Promise<pg.Client> {
  const client = new pg.Client(url);
  client.on('error', () => {});
  await client.connect();
  opened.push(() => client.end().catch(() => {}));
  return client;
}

/** An echo server, and the paths that it has seen. */
export async function openReceiver(opened: Opened): Promise<EchoServer & { readonly seen: string[] }> {
  const seen: string[] = [];
  const echo = await startEchoServer({ onRequest: ({ path }) => seen.push(path) });
  opened.push(() => echo.close());
  return Object.assign(echo, { seen });
}
