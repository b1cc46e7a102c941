import { createHash } from 'node:crypto';
import { retryPolicyOf, type Terms } from '../core/aftermath.ts';
import type { ClaimedRequest, SendableRequest } from '../core/request.ts';

const headerName = 'Idempotency-Key';

/**
 * The key that a request is to carry though nobody gave it one, so that a receiver can tell a second attempt from a second
 * request: a UUID (version 8) made from the installation and the request's id, hence the same at every attempt, by whichever
 * worker, and written nowhere. Undefined for what is tried once, what has a key, and where `pg_net.idempotency_keys` is off.
 */
export function madeKeyOf(request: SendableRequest | ClaimedRequest, terms: Terms): string | undefined {
  const { row, headers } = request;
  if (
    terms.keysFrom === undefined ||
    retryPolicyOf(row, terms).maxAttempts <= 1 ||
    headers.some(([name]) => name.toLowerCase() === 'idempotency-key')
  ) {
    return undefined;
  }
  const hex = createHash('sha256').update(`${terms.keysFrom}/${row.id}`).digest('hex');
  const variant = ((Number.parseInt(hex.slice(16, 17), 16) & 3) | 8).toString(16);
  return [
    hex.slice(0, 8),
    hex.slice(8, 12),
    `8${hex.slice(13, 16)}`,
    variant + hex.slice(17, 20),
    hex.slice(20, 32),
  ].join('-');
}

/** The request with that key. */
export function withKey<R extends SendableRequest | ClaimedRequest>(request: R, key: string): R {
  return { ...request, headers: [...request.headers, [headerName, key]] };
}
