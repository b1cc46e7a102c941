import { createHmac } from 'node:crypto';
import type { HeaderList } from '../core/request.ts';

// Standard Webhooks 1.0.0, symmetric: https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md

/** The key of a signature, and the text that it stood in. */
export type SigningKey = { readonly text: string; readonly bytes: Uint8Array };

const keyPattern = /^whsec_([A-Za-z0-9+/]+={0,2})$/;
const keyBytesMin = 24;
const keyBytesMax = 64;
const keysMax = 10;
/** No full stop: it parts what is signed, so an id that holds one could be taken for another id and its time. */
const idPattern = /^[!-\-/-~]{1,255}$/;

/** The keys in a secret's value, or why it cannot sign. During a rotation there are several: the first signs first. */
export function signingKeysIn(value: string): readonly SigningKey[] | string {
  const keys = value.split(/ +/).map((text) => ({ text, bytes: bytesOf(text) }));
  return keys.length <= keysMax && keys.every(({ bytes }) => bytes.length >= keyBytesMin && bytes.length <= keyBytesMax)
    ? keys
    : `it must be whsec_ and the base64 of ${keyBytesMin} to ${keyBytesMax} bytes, or at most ${keysMax} of those, separated by blanks`;
}

function bytesOf(text: string): Uint8Array {
  const base64 = keyPattern.exec(text)?.[1] ?? '';
  const bytes = Buffer.from(base64, 'base64');
  // Node.js passes over what is no base64; others would not.
  return bytes.toString('base64').replace(/=+$/, '') === base64.replace(/=+$/, '') ? bytes : new Uint8Array();
}

/**
 * The request's headers with those that sign it: `webhook-timestamp`, and `webhook-signature` over `id.timestamp.body`, the bytes as
 * they are. The id is the caller's, in `webhook-id`: it says which message this is, however often it is sent. Or why it cannot be signed.
 */
export function withSignature(
  headers: HeaderList,
  body: Uint8Array | null,
  keys: readonly SigningKey[],
  unixTimeMs: number,
): HeaderList | string {
  const taken = headers.find(([name]) => /^webhook-(timestamp|signature)$/i.test(name));
  if (taken !== undefined) return `The header "${taken[0].toLowerCase()}" is set by signing`;
  const [id, ...others] = headers
    .filter(([name]) => name.toLowerCase() === 'webhook-id')
    .map(([, value]) => value.trim());
  if (id === undefined || others.length > 0 || !idPattern.test(id)) {
    return 'A request is signed with one header "webhook-id": 1 to 255 visible ASCII characters, no full stop';
  }
  const timestamp = String(Math.floor(unixTimeMs / 1_000));
  const signatures = keys.map(({ bytes }) => {
    const hmac = createHmac('sha256', bytes).update(`${id}.${timestamp}.`);
    if (body !== null) hmac.update(body);
    return `v1,${hmac.digest('base64')}`;
  });
  return [...headers, ['webhook-timestamp', timestamp], ['webhook-signature', signatures.join(' ')]];
}
