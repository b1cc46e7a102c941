import { createServer, type IncomingHttpHeaders, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { onTestFinished } from 'vitest';

/** What a receiver answers to the first request of a path, the second, and so on; the last holds for all that follow. */
export type Answer = { readonly status: number; readonly headers?: Readonly<Record<string, string>> };

/** A server that fails as it is told, and remembers what it was asked. */
export type Receiver = {
  readonly url: string;
  /** The headers of the requests for that path, in their order. */
  asked(path: string): readonly IncomingHttpHeaders[];
  /** How the requests of a path are answered; those of every other with 200. */
  answer(path: string, ...answers: readonly Answer[]): void;
  /** Holds the requests of a path until `letGo`; `held` tells how many. */
  hold(path: string): { readonly held: () => number; readonly letGo: () => void };
};

/** Starts one; closed with the test. */
export async function startReceiver(): Promise<Receiver> {
  const asked = new Map<string, IncomingHttpHeaders[]>();
  const script = new Map<string, readonly Answer[]>();
  const holds = new Map<string, (() => void)[]>();
  const reply = (response: ServerResponse, { status, headers = {} }: Answer): void => {
    response.writeHead(status, headers).end();
  };
  const server = createServer((request, response) => {
    const path = request.url ?? '';
    const before = asked.get(path) ?? [];
    asked.set(path, [...before, request.headers]);
    const answers = script.get(path) ?? [{ status: 200 }];
    const answer = answers[Math.min(before.length, answers.length - 1)] ?? { status: 200 };
    const held = holds.get(path);
    if (held === undefined) reply(response, answer);
    else held.push(() => reply(response, answer));
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  onTestFinished(() => {
    server.closeAllConnections();
    return new Promise<void>((resolve) => server.close(() => resolve()));
  });
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    asked: (path) => asked.get(path) ?? [],
    answer: (path, ...answers) => script.set(path, answers),
    hold: (path) => {
      const waiting: (() => void)[] = [];
      holds.set(path, waiting);
      return {
        held: () => waiting.length,
        letGo: () => {
          holds.delete(path);
          for (const go of waiting.splice(0)) go();
        },
      };
    },
  };
}
