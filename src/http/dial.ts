import net from 'node:net';
import type { Deadline } from './deadline.ts';
import { type Problem, problems } from './failures.ts';

/** Head start of an address over the next one (RFC 8305, 8: Connection Attempt Delay). */
const attemptDelayMs = 250;

/** Happy eyeballs over vetted addresses: the next starts when one fails or takes long, the first to connect wins. */
export function dial(
  addresses: readonly string[],
  port: number,
  deadline: Deadline,
  onSocket: (socket: net.Socket) => void,
): Promise<net.Socket | Problem> {
  return new Promise((resolve) => {
    const attempts = new Set<net.Socket>();
    let next = 0;
    let done = false;
    let timer: NodeJS.Timeout | undefined;

    function finish(result: net.Socket | Problem): void {
      if (done) return;
      done = true;
      clearTimeout(timer);
      deadline.onEnd(undefined);
      for (const socket of attempts) if (socket !== result) socket.destroy();
      resolve(result);
    }

    function attempt(): void {
      clearTimeout(timer);
      const host = addresses[next];
      if (done) return;
      if (host === undefined) {
        if (attempts.size === 0) finish(problems.connectFailed);
        return;
      }
      next += 1;
      let socket: net.Socket;
      try {
        socket = net.connect({ host, port, noDelay: true, keepAlive: true, keepAliveInitialDelay: 60_000 });
      } catch {
        attempt();
        return;
      }
      attempts.add(socket);
      onSocket(socket);
      // The listener stays for the socket's life: an error between two owners must not crash the process.
      socket.on('error', () => undefined);
      socket.once('connect', () => finish(socket));
      socket.once('close', () => {
        attempts.delete(socket);
        attempt();
      });
      if (next < addresses.length) timer = setTimeout(attempt, attemptDelayMs);
    }

    deadline.onEnd(() => finish(problems.cancelled));
    attempt();
  });
}
