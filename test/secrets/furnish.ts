import type { Failure } from '../../src/core/outcome.ts';
import type { ClaimedRequest, HeaderList } from '../../src/core/request.ts';
import type { SecretBindings } from '../../src/core/secret-bindings.ts';
import { createSecrets, type Furnished, type SecretsParts } from '../../src/secrets/secrets.ts';

/** Long enough, and with what JSON, URLs and patterns write otherwise. */
export const value = 'sk_live_$&"a b"/\\+é';

export type Given = {
  readonly url?: string;
  readonly headers?: HeaderList;
  readonly roles?: readonly string[];
  readonly signWith?: string | null;
  readonly body?: Uint8Array | null;
  readonly timeoutMs?: number;
};

/** A claimed request for https://api.example.com/ with one header. */
export function claimed(given: Given = {}): ClaimedRequest {
  const { url = 'https://api.example.com/v1', headers = [['Authorization', 'Bearer {{secret.stripe}}']] } = given;
  const { signWith = null, body = null, timeoutMs = 10_000 } = given;
  return {
    kind: 'claimed',
    row: {
      id: 1n,
      method: 'POST',
      url,
      headersJson: JSON.stringify(Object.fromEntries(headers)),
      body,
      timeoutMs,
      loginRole: null,
      setRole: null,
      signWith,
      extras: undefined,
    },
    headers,
    hostRules: undefined,
  };
}

export const bindings: SecretBindings = {
  stripe: { hosts: ['api.example.com', '*.eu.example.com', 'http://plain.example'], roles: ['billing', 'audit'] },
  shared: { hosts: ['api.example.com'], roles: ['public'] },
  hook: { hosts: ['api.example.com'], roles: ['public'] },
};

/** What becomes of a request, by default of a member of `billing`; the source has {@link value} for every name. */
export async function furnish(given: Given, parts: Partial<SecretsParts> = {}): Promise<Furnished | Failure> {
  const secrets = createSecrets({ bindings, source: { read: async () => value }, ...parts });
  return await secrets.furnish(claimed(given), { hostRules: undefined, roles: new Set(given.roles ?? ['billing']) });
}

export function expectFurnished(result: Furnished | Failure): Furnished {
  if (result.kind === 'failure') throw new Error(`${result.code}: ${result.message}`);
  return result;
}
