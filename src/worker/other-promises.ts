/** How much later than the end of another's promise we look: its clock and the notification take their time. */
const slackMs = 100;
/** However often promises are announced, we look after so many times the length of one: any login may announce one. */
const believedMax = 60;

/** When the promises of other workers to look have ended: if one of them dies meanwhile, we must look afterwards. */
export class OtherPromises {
  readonly #promiseMs: number;
  /** Since when announcements have put the end off. */
  #sinceMs = 0;
  #overAtMs = Number.POSITIVE_INFINITY;

  /** `promiseMs` is how long one promise lasts. */
  constructor(promiseMs: number) {
    this.#promiseMs = promiseMs;
  }

  /** When to look in their stead; Infinity: none stands. */
  get overAtMs(): number {
    return this.#overAtMs;
  }

  announced(nowMs: number): void {
    if (this.#overAtMs === Number.POSITIVE_INFINITY) {
      this.#sinceMs = nowMs;
    }
    this.#overAtMs = Math.min(nowMs + this.#promiseMs + slackMs, this.#sinceMs + believedMax * this.#promiseMs);
  }

  /** Somebody looks in their stead. */
  forget(): void {
    this.#overAtMs = Number.POSITIVE_INFINITY;
  }
}
