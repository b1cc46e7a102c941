/**
 * What a worker's session sets for the statements in this room.
 *
 * A queue is empty at one moment and holds a million rows at the next, so its statistics are always wrong, and a plan that
 * reads the whole table can only be a mistake: every statement here goes by an index, in a nested loop. Planned once, for
 * all parameters.
 *
 * `synchronous_commit`: what a crash of the server may take back of the workers' marks is sent again, which the leases allow
 * for; waiting for the disk would cost every group of responses a flush.
 *
 * `lock_timeout`: shorter than the server's deadlock_timeout (1 s), so that where a user's DROP or ALTER and a statement of ours
 * wait for each other, ours gives way and is tried again, and not theirs.
 */
export const sessionSettings: Readonly<Record<string, string>> = Object.freeze({
  enable_seqscan: 'off',
  enable_bitmapscan: 'off',
  enable_hashjoin: 'off',
  enable_mergejoin: 'off',
  lock_timeout: '400ms',
  statement_timeout: '30s',
  plan_cache_mode: 'force_generic_plan',
  synchronous_commit: 'off',
});
