import type { Timings } from '../core/outcome.ts';

/** What a request is waiting for: a name, a connection, or the exchange itself. */
export type Phase = 'dns' | 'connect' | 'transfer';

/** What can stop waiting when the request has its outcome. */
export type Waiting = { stop(): void };

/** The longest delay a Node.js timer takes (2^31 - 1 ms); more would fire at once. */
const timerMsMax = 2_147_483_647;

/**
 * The one deadline of a request, from `send()` to its outcome across all redirects, and the account of where its time
 * went. Whatever waits registers how to stop waiting ({@link onEnd}); the deadline does not wait for it to stop.
 */
export class Deadline {
  readonly timeoutMs: number;
  readonly #now: () => number;
  readonly #startedAtMs: number;
  #dnsMs = 0;
  #connectMs = 0;
  #transferMs = 0;
  #phase: Phase = 'connect';
  #phaseSinceMs: number;
  #timer: NodeJS.Timeout | undefined;
  #grace: NodeJS.Immediate | undefined;
  readonly #onExpiry: () => void;
  #waiting: Waiting | (() => void) | undefined;
  #ended = false;

  /** Starts the clock, of which `spentMs` have gone by. `onExpiry` is called once, unless {@link end} comes first. */
  constructor(timeoutMs: number, now: () => number, onExpiry: () => void, spentMs: number = 0) {
    this.timeoutMs = timeoutMs;
    this.#now = now;
    this.#phaseSinceMs = now();
    this.#startedAtMs = this.#phaseSinceMs - spentMs;
    this.#onExpiry = onExpiry;
    // Not unref'd: a request in flight is work, and its timer is cleared with it. A lookup that never returns would
    // otherwise let the process exit with a promise pending.
    this.#timer = setTimeout(expire, Math.min(Math.max(timeoutMs - spentMs, 0), timerMsMax), this);
  }

  /**
   * A process that was held up runs its overdue timers before it reads its sockets. What has arrived by then is an answer in
   * time, so the deadline lets one round of reading go first.
   */
  expire(): void {
    this.#grace = setImmediate(this.#onExpiry);
  }

  get ended(): boolean {
    return this.#ended;
  }

  /** From now on time counts for `phase`. */
  enter(phase: Phase): void {
    const nowMs = this.#now();
    const spentMs = nowMs - this.#phaseSinceMs;
    if (this.#phase === 'dns') this.#dnsMs += spentMs;
    else if (this.#phase === 'connect') this.#connectMs += spentMs;
    else this.#transferMs += spentMs;
    this.#phase = phase;
    this.#phaseSinceMs = nowMs;
  }

  /** Where the time went until now. */
  timings(): Timings {
    this.enter(this.#phase);
    return {
      dnsMs: this.#dnsMs,
      connectMs: this.#connectMs,
      transferMs: this.#transferMs,
      totalMs: this.#phaseSinceMs - this.#startedAtMs,
    };
  }

  /** Says how to stop what the request now waits for; undefined when it waits for nothing. Called at once if too late. */
  onEnd(waiting: Waiting | (() => void) | undefined): void {
    if (this.#ended) stop(waiting);
    else this.#waiting = waiting;
  }

  /** The request has its outcome: stops the clock, and whatever is still under way for it. */
  end(): void {
    if (this.#ended) return;
    this.#ended = true;
    clearTimeout(this.#timer);
    this.#timer = undefined;
    clearImmediate(this.#grace);
    const waiting = this.#waiting;
    this.#waiting = undefined;
    stop(waiting);
  }
}

function expire(deadline: Deadline): void {
  deadline.expire();
}

function stop(waiting: Waiting | (() => void) | undefined): void {
  if (typeof waiting === 'function') waiting();
  else waiting?.stop();
}
