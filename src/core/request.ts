import type { Extras } from './extras.ts';
import type { HostRule } from './policy.ts';

/** Header fields in the order in which they are sent; a name may stand more than once. */
export type HeaderList = readonly (readonly [name: string, value: string])[];

/**
 * A request as the queue holds it, made by the claim statement and by nothing else.
 *
 * The first stage of `QueueRow → ClaimedRequest → Outcome → Settlement`.
 */
export type QueueRow = {
  readonly id: bigint;
  readonly method: string;
  readonly url: string;
  /** The `headers` column as JSON text: SQL's `jsonb` may hold what a JavaScript object would distort. */
  readonly headersJson: string;
  readonly body: Uint8Array | null;
  readonly timeoutMs: number;
  /** OID of the login role that enqueued it, and of the role it had SET (null where none). */
  readonly loginRole: number | null;
  readonly setRole: number | null;
  /** The secret that it is to be signed with. */
  readonly signWith: string | null;
  /** What net.request was asked for beyond a request; undefined: nothing. */
  readonly extras: Extras | undefined;
};

/** The same before its body has come: that is too large to come with the claim. */
export type UnloadedRow = Omit<QueueRow, 'body'> & { readonly body: undefined; readonly bodyBytes: number };

/** Who asked: the role that was SET, else the login. Null for a row that was inserted by hand. */
export function requesterOf(row: Pick<QueueRow, 'loginRole' | 'setRole'>): number | null {
  return row.setRole ?? row.loginRole;
}

/**
 * A request that is ours to send, its headers parsed, which refers to secrets or is to be signed: it cannot be sent as it is. Only
 * {@link admit} makes one.
 */
export type ClaimedRequest = {
  readonly kind: 'claimed';
  readonly row: QueueRow;
  readonly headers: HeaderList;
  /** Where it may go, redirects included; undefined: anywhere. */
  readonly hostRules: readonly HostRule[] | undefined;
};

/** A claimed request with nothing left to fill in. */
export type SendableRequest = Omit<ClaimedRequest, 'kind'> & {
  readonly kind: 'sendable';
  /** The names, in lower case, of headers that hold a secret: they go to no other origin. */
  readonly secretHeaders: ReadonlySet<string>;
  /** What of its time has gone by already, in milliseconds. */
  readonly spentMs: number;
};
