import type { Orders } from './orders.ts';

/** What one connection's service is told: what the worker is told, and what concerns this connection alone. */
export class ConnectionOrders implements Orders {
  readonly #worker: Pick<Orders, 'stopping' | 'drains'>;
  readonly #onRestartAsked: () => void;
  #isLeaving = false;
  #isRestarting = false;
  #wasAsked = false;

  /** `onRestartAsked` is called once at most; it decides between {@link leave} and {@link obeyRestart}. */
  constructor(worker: Pick<Orders, 'stopping' | 'drains'>, onRestartAsked: () => void) {
    this.#worker = worker;
    this.#onRestartAsked = onRestartAsked;
  }

  get stopping(): boolean {
    return this.#worker.stopping || this.#isLeaving;
  }

  get drains(): number {
    return this.#worker.drains;
  }

  get restart(): boolean {
    return this.#isRestarting;
  }

  /** Somebody asks for a restart, which may be how a pause is announced. */
  set restart(isAsked: boolean) {
    if (isAsked && !this.#wasAsked) {
      this.#wasAsked = true;
      this.#onRestartAsked();
    }
  }

  get isLeaving(): boolean {
    return this.#isLeaving;
  }

  /** The database is paused: claim no more, and end when nothing is held. Unlike a restart it keeps its session until then, so nobody takes it for dead. */
  leave(): void {
    this.#isLeaving = true;
  }

  obeyRestart(): void {
    this.#isRestarting = true;
  }
}
