import { parseRetryPolicy, type RetryPolicy } from './retry.ts';

/** What is kept of a response: all of it, its status, or not even that. */
export type Keep = 'full' | 'status' | 'none';

/** What `net.request` was asked for beyond a request, and what became of it so far: `net._extras` in SQL. */
export type Extras = {
  /** What it says of how it is tried again; the rest is as the settings say. */
  readonly retry: Partial<RetryPolicy> | undefined;
  /** The attempts that have ended. */
  readonly attempts: number;
  /** When the first of them began, in milliseconds since 1970; undefined: none has. */
  readonly firstSentAtMs: number | undefined;
  readonly orderingKey: string | undefined;
  /** Whether those of its key wait behind it when it has failed. */
  readonly blocksKey: boolean;
  readonly priority: number;
  readonly limitKey: string | undefined;
  /** The functions to be called back, by OID. */
  readonly onSuccess: number | undefined;
  readonly onError: number | undefined;
  readonly keep: Keep;
  readonly label: string | undefined;
  /** `net.cancel` has been called for it. */
  readonly cancelAsked: boolean;
};

/** Reads what the claim tells. A row that was inserted by hand may hold anything; what makes no sense is as good as none. */
export function parseExtras(json: string): Extras {
  const given: unknown = JSON.parse(json);
  const of: Readonly<Record<string, unknown>> = typeof given === 'object' && given !== null ? { ...given } : {};
  const text = (value: unknown): string | undefined => (typeof value === 'string' ? value : undefined);
  const number = (value: unknown): number | undefined => (typeof value === 'number' ? value : undefined);
  return {
    retry: parseRetryPolicy(of['retry']),
    attempts: Math.max(number(of['attempts']) ?? 0, 0),
    firstSentAtMs: number(of['firstSentAtMs']),
    orderingKey: text(of['orderingKey']),
    blocksKey: of['blocksKey'] === true,
    priority: number(of['priority']) ?? 0,
    limitKey: text(of['limitKey']),
    onSuccess: number(of['onSuccess']),
    onError: number(of['onError']),
    keep: of['keep'] === 'status' || of['keep'] === 'none' ? of['keep'] : 'full',
    label: text(of['label']),
    cancelAsked: of['cancelAsked'] === true,
  };
}
