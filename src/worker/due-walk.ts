import { type DuePlace, dueStart } from '../store/claim.ts';

/** How often at most a walk begins anew. */
const beginEveryMs = 1_000;

/**
 * A walk over the requests that are due, look by look, beside backlogs: those of a backlog are gone by, and must not be read again
 * at every look. What falls due later lies ahead of it. What it cannot have seen (a transaction that took long committed, or
 * somebody had locked a row) lies behind: it begins anew when it has come to the end, at most once a second.
 */
export class DueWalk {
  #place: DuePlace = dueStart;
  #isAtEnd = true;
  #beganMs = Number.NEGATIVE_INFINITY;

  /** Nothing that is due lies ahead. */
  get isAtEnd(): boolean {
    return this.#isAtEnd;
  }

  /** When it may begin anew. */
  get beginsAtMs(): number {
    return this.#beganMs + beginEveryMs;
  }

  /** From where a look is to walk on. */
  next(nowMs: number): DuePlace {
    if (this.#isAtEnd && nowMs >= this.beginsAtMs) {
      this.#place = dueStart;
      this.#isAtEnd = false;
      this.#beganMs = nowMs;
    }
    return this.#place;
  }

  /** Takes note of a look: it walked up to there; null: there was nothing to walk over. */
  looked(upTo: DuePlace | null): void {
    this.#isAtEnd = upTo === null;
    this.#place = upTo ?? this.#place;
  }
}
