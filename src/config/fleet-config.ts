import { ConfigError, readWorkerConfig, type WorkerConfig, type WorkerOptions } from './worker-config.ts';

/** What a fleet can be told: what each of its workers can be, and on which servers. */
export type FleetOptions = Omit<WorkerOptions, 'connectionString'> & {
  /** One for each server: any database of it. Default: one, empty, which leaves the choice to the PG* environment variables. */
  readonly connectionStrings?: readonly string[];
  /** How often to look for databases that have come or gone. 1,000 to 86,400,000 ms, default 300,000. Shorter: new ones are found sooner; each look connects, for a moment, to every database. */
  readonly rescanEveryMs?: number;
};

/** {@link FleetOptions}, checked, completed and frozen. */
export type FleetConfig = {
  /** For each server, what its workers are told. The same but for the connection string. */
  readonly servers: readonly [WorkerConfig, ...WorkerConfig[]];
  readonly rescanEveryMs: number;
};

const rescanEveryMsDefault = 300_000;

/**
 * Checks options from anywhere and completes them with the defaults. The result is frozen.
 *
 * @throws {@link ConfigError} listing what is wrong.
 */
export function readFleetConfig(options: FleetOptions = {}): FleetConfig {
  const { connectionStrings = [''], rescanEveryMs = rescanEveryMsDefault, ...rest } = options;
  const [first, ...others] = connectionStrings;
  if (first === undefined) {
    throw new ConfigError(['connectionStrings must have one entry at least']);
  }
  if (!Number.isInteger(rescanEveryMs) || rescanEveryMs < 1_000 || rescanEveryMs > 86_400_000) {
    throw new ConfigError([
      `rescanEveryMs must be a whole number of milliseconds from 1000 to 86400000 (default ${rescanEveryMsDefault})`,
    ]);
  }
  const serverOf = (connectionString: string): WorkerConfig => readWorkerConfig({ ...rest, connectionString });
  return Object.freeze({ servers: [serverOf(first), ...others.map(serverOf)] as const, rescanEveryMs });
}
