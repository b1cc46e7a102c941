import type { IncomingMessage, ServerResponse } from 'node:http';
import { httpServer } from '../http/loopback.ts';

/** A server that answers nobody until it is told to: for requests that must be in flight while something happens. */
export type Gate = {
  readonly url: string;
  /** How many requests wait for their answer. */
  waiting(): number;
  /** How many requests have waited at the same time, at most. */
  waitingMost(): number;
  /** Answers all that wait and all that come later: 200, `opened`. */
  open(): void;
  /** Answers the one that has waited longest. */
  letOneThrough(): void;
};

/** Starts a gate; it is gone when the test ends. Requests that `mayPass` are answered at once. */
export async function startGate(mayPass: (request: IncomingMessage) => boolean = () => false): Promise<Gate> {
  const held: ServerResponse[] = [];
  let isOpen = false;
  let most = 0;
  const answer = (response: ServerResponse | undefined): void => {
    response?.writeHead(200, { 'content-type': 'text/plain' }).end('opened');
  };
  const { url } = await httpServer((request, response) => {
    if (isOpen || mayPass(request)) {
      answer(response);
      return;
    }
    held.push(response);
    most = Math.max(most, held.length);
  });
  return {
    url,
    waiting: () => held.length,
    waitingMost: () => most,
    open() {
      isOpen = true;
      for (const response of held.splice(0)) answer(response);
    },
    letOneThrough: () => answer(held.shift()),
  };
}
