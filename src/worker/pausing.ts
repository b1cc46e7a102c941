import type { Pause } from '../store/pause.ts';
import { describePause } from './explain.ts';
import type { WorkerLog } from './parts.ts';

export type PausingParts = {
  /** How long what is in flight may take to be finished when a pause begins. */
  readonly stopTimeoutMs: number;
  readonly log: WorkerLog;
  readonly now: () => number;
  readonly onPaused: (database: string, pause: Pause) => void;
};

/** Knows whether the database is paused, as far as the worker has seen, and says when that changes: once each. */
export class Pausing {
  readonly #parts: PausingParts;
  #leaveByMs: number | undefined;

  constructor(parts: PausingParts) {
    this.#parts = parts;
  }

  /** How long what is in flight may still take before it is given back; undefined: not paused. */
  get leftMs(): number | undefined {
    return this.#leaveByMs === undefined ? undefined : Math.max(this.#leaveByMs - this.#parts.now(), 0);
  }

  /** What was found when somebody looked, and how many requests were in flight. */
  note(database: string, pause: Pause | null, held: number): void {
    const { log, now, stopTimeoutMs, onPaused } = this.#parts;
    if (pause === null) {
      if (this.#leaveByMs !== undefined) {
        log.info({ database }, 'the pause has ended');
      }
      this.#leaveByMs = undefined;
    } else if (this.#leaveByMs === undefined) {
      this.#leaveByMs = now() + stopTimeoutMs;
      const first = held === 0 ? '' : `finishes what is in flight (${held}), and then `;
      log.warn(
        { database, held },
        `${describePause(pause)}: it claims no more, ${first}stays away until: pgfetch resume`,
      );
      onPaused(database, pause);
    }
  }
}
