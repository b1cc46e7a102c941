/** Exponential backoff with full jitter: a random delay up to a bound that doubles with every failure. */
export type BackoffOptions = {
  /** Bound of the first delay, in milliseconds. */
  readonly firstMs: number;
  /** Bound that the doubling never passes, in milliseconds. */
  readonly lastMs: number;
};

/**
 * The delay before try number `attempt` (0: the first retry), in milliseconds. `random` gives numbers in [0, 1). At least
 * a tenth of the bound, so that no unlucky draw hammers a server that is down.
 */
export function backoffMs(attempt: number, options: BackoffOptions, random: () => number = Math.random): number {
  const bound = Math.min(options.lastMs, options.firstMs * 2 ** Math.min(attempt, 60));
  return Math.round(bound * (0.1 + 0.9 * random()));
}
