/**
 * By which a request that is being sent can be given up. Why not an AbortSignal: one of those for each request would cost more
 * than all that the worker does with it otherwise.
 */
export class Cancellation {
  #isAsked = false;
  #onAsked: (() => void) | undefined;

  get isAsked(): boolean {
    return this.#isAsked;
  }

  /** Gives the request up, as far as that is still possible. Safe to call twice. */
  ask(): void {
    this.#isAsked = true;
    const onAsked = this.#onAsked;
    this.#onAsked = undefined;
    onAsked?.();
  }

  /** Says what is to be done when it is asked for; undefined: nothing any more. */
  onAsked(act: (() => void) | undefined): void {
    this.#onAsked = act;
  }
}
