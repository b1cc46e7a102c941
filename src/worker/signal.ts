/**
 * Wakes one waiting loop. Raising it while nobody waits is remembered, so a change between looking and waiting is never
 * missed.
 */
export class Signal {
  #raised = false;
  #wake: (() => void) | undefined;

  raise(): void {
    this.#raised = true;
    this.#wake?.();
  }

  /** Resolves when the signal is raised, or after `timeoutMs` (never by time where that is undefined). */
  async wait(timeoutMs?: number): Promise<void> {
    if (!this.#raised) {
      await new Promise<void>((resolve) => {
        // Longer timers overflow in Node and would fire at once; waking early is harmless.
        const timer =
          timeoutMs === undefined ? undefined : setTimeout(resolve, Math.min(Math.max(timeoutMs, 0), 2 ** 30));
        this.#wake = () => {
          clearTimeout(timer);
          resolve();
        };
      });
      this.#wake = undefined;
    }
    this.#raised = false;
  }
}
