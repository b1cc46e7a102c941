import { canonicalHost } from './hosts.ts';

/** What a host or a key may be sent, in sum over all workers; undefined: as much as one likes. */
export type Limit = {
  readonly requestsPerSecond: number | undefined;
  /** Requests at a time. */
  readonly concurrency: number | undefined;
  /** Whether requests pause while most of them fail. */
  readonly breaker: boolean;
};

/** A row of `net.limits`: either the host or the key is undefined. */
export type LimitRow = Limit & { readonly host: string | undefined; readonly key: string | undefined };

/** Reads what `net._limits` tells; null: there are none. */
export function parseLimits(json: string | null): readonly LimitRow[] {
  const rows = json === null ? [] : (JSON.parse(json) as readonly Readonly<Record<string, unknown>>[]);
  return rows.map((row) => ({
    host: typeof row['host'] === 'string' ? row['host'] : undefined,
    key: typeof row['key'] === 'string' ? row['key'] : undefined,
    requestsPerSecond: typeof row['requests_per_second'] === 'number' ? row['requests_per_second'] : undefined,
    concurrency: typeof row['concurrency'] === 'number' ? row['concurrency'] : undefined,
    breaker: row['breaker'] === true,
  }));
}

/** The limit of a host in its canonical spelling: of the rows that match it the one that says it most closely. */
export function limitOfHost(rows: readonly LimitRow[], host: string): Limit | undefined {
  return closest(rows, ({ host: pattern }) =>
    pattern === undefined ? undefined : closeness(pattern, host, pattern === '*' || host.endsWith(pattern.slice(1))),
  );
}

/** The limit of a limit_key, likewise. */
export function limitOfKey(rows: readonly LimitRow[], key: string): Limit | undefined {
  return closest(rows, ({ key: pattern }) =>
    pattern === undefined ? undefined : closeness(pattern, key, key.startsWith(pattern.slice(0, -1))),
  );
}

/** Undefined where the pattern does not match. `isWithin`: the text is as the pattern says, where it has a `*`. */
function closeness(pattern: string, text: string, isWithin: boolean): number | undefined {
  if (pattern === text) return Number.POSITIVE_INFINITY;
  return pattern.includes('*') && isWithin ? pattern.length : undefined;
}

function closest(rows: readonly LimitRow[], of: (row: LimitRow) => number | undefined): Limit | undefined {
  let best: LimitRow | undefined;
  let bestCloseness = 0;
  for (const row of rows) {
    const its = of(row) ?? 0;
    if (its > bestCloseness) {
      best = row;
      bestCloseness = its;
    }
  }
  return best;
}

/** The host, in its canonical spelling, of an origin as `originOf` gives it; undefined where it has none. */
export function hostOfOrigin(origin: string): string | undefined {
  const url = URL.canParse(`http://${origin}/`) ? new URL(`http://${origin}/`) : undefined;
  return url === undefined || url.hostname === '' ? undefined : canonicalHost(url.hostname);
}
