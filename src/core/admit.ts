import { type Failure, noTimings } from './outcome.ts';
import type { HostRule } from './policy.ts';
import type { ClaimedRequest, HeaderList, QueueRow, SendableRequest } from './request.ts';
import { usesSecrets } from './secret-references.ts';

/** The same bound holds where requests are enqueued. */
export const headersBytesMax = 65_536;
export const headersTooLarge: string = `The request headers are too large: more than ${headersBytesMax} bytes`;

const none: ReadonlySet<string> = new Set();

/**
 * Makes a row that we claimed into a request that can be sent, at once or when its secrets have been filled in, or says why it
 * cannot be. The functions in SQL check what they enqueue; a row inserted by hand may hold anything.
 */
export function admit(
  row: QueueRow,
  hostRules: readonly HostRule[] | undefined,
): SendableRequest | ClaimedRequest | Failure {
  const headers = parseHeaders(row.headersJson);
  if (typeof headers === 'string') {
    return refused(headers);
  }
  if (row.timeoutMs < 1) {
    return refused(`timeout_milliseconds is ${row.timeoutMs}: it must be at least 1`);
  }
  return usesSecrets(row, headers)
    ? { kind: 'claimed', row, headers, hostRules }
    : { kind: 'sendable', row, headers, hostRules, secretHeaders: none, spentMs: 0 };
}

function refused(message: string): Failure {
  return { kind: 'failure', code: 'invalid_request', message, timings: noTimings };
}

/** The header fields of a JSON object, or what is wrong with it. Values that are no strings are sent as their text. */
function parseHeaders(json: string): HeaderList | string {
  if (json === '{}') {
    return [];
  }
  if (json.length > headersBytesMax / 4 && Buffer.byteLength(json) > headersBytesMax) {
    return headersTooLarge;
  }
  let parsed: unknown;
  try {
    parsed = JSON.parse(json);
  } catch {
    return 'The request headers are not JSON';
  }
  if (typeof parsed !== 'object' || parsed === null || Array.isArray(parsed)) {
    return 'The request headers are not a JSON object';
  }
  const headers: [string, string][] = [];
  for (const [name, value] of Object.entries(parsed)) {
    if (value === null) {
      return `The value of request header ${JSON.stringify(name)} is null`;
    }
    if (typeof value === 'number' && !Number.isSafeInteger(Math.trunc(value))) {
      return `The value of request header ${JSON.stringify(name)} is a number that must be written as a string`;
    }
    headers.push([name, typeof value === 'string' ? value : JSON.stringify(value)]);
  }
  return headers;
}
