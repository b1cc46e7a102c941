/** The times that a worker runs by, all in milliseconds; each with its trade-off. */
export type Timing = {
  /** How long claimed requests stay this worker's without a sign of life. Shorter: a hung worker's requests come free sooner; longer: a slow database is forgiven more. */
  readonly leaseMs: number;
  /** How often a busy worker looks into the queue. Shorter: less latency under load, more statements. */
  readonly watchEveryMs: number;
  /** How long a busy worker keeps looking after it last found something. */
  readonly lingerMs: number;
  /** How long one promise to look by itself lasts. Longer: fewer renewals, and a longer wait if the worker dies meanwhile. */
  readonly promiseMs: number;
  /** How often a worker without LISTEN looks. */
  readonly pollEveryMs: number;
  /** How long everything must have been quiet before the worker takes its last look and falls silent. */
  readonly quietMs: number;
  /** While requests are held, by us or by others, how often to look whether the other workers' sessions still live. */
  readonly reclaimEveryMs: number;
  /** How often a silent connection is checked for life (a protocol-level Sync, no statement). */
  readonly pingEveryMs: number;
  /** How often a worker that a pause keeps away looks whether it has ended: by a short connection, since none may stay. */
  readonly pausedEveryMs: number;
  /** How long the function of a callback may take. Longer: it may do more; others of the same role wait for it. */
  readonly callbackTimeoutMs: number;
};

export const defaultTiming: Timing = Object.freeze({
  leaseMs: 15_000,
  watchEveryMs: 1,
  lingerMs: 50,
  promiseMs: 2_000,
  pollEveryMs: 500,
  quietMs: 1_000,
  reclaimEveryMs: 2_000,
  pingEveryMs: 30_000,
  pausedEveryMs: 3_000,
  callbackTimeoutMs: 30_000,
});
