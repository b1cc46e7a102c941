import dns from 'node:dns';
import { type Permit, Supply } from '../../core/permits.ts';
import type { Lookup } from '../resolve.ts';

/**
 * getaddrinfo blocks a thread, cannot be cancelled, and Node.js gives it half of its pool of four. So the lookups that wait
 * for their turn wait here, where they can be given up.
 */
const lookupsMax = 2;

const askSystem = (hostname: string) => dns.promises.lookup(hostname, { all: true, order: 'verbatim' });

/** Makes a {@link Lookup} that asks the operating system: all addresses, in its order. */
export function createGetaddrinfo(ask: (hostname: string) => ReturnType<Lookup> = askSystem): Lookup {
  const turns = new Supply(lookupsMax);

  function taken(turn: Permit, signal: AbortSignal): Promise<boolean> {
    return new Promise((resolve) => {
      const granted = (): void => {
        signal.removeEventListener('abort', giveUp);
        resolve(true);
      };
      const giveUp = (): void => {
        turn.withdraw();
        resolve(false);
      };
      if (turn.request(1, granted)) resolve(true);
      else signal.addEventListener('abort', giveUp, { once: true });
    });
  }

  return async (hostname, signal) => {
    const turn = turns.permit();
    if (signal.aborted || !(await taken(turn, signal))) return [];
    try {
      return await ask(hostname);
    } finally {
      turn.release();
    }
  };
}
