import { headersBytesMax, headersTooLarge } from '../core/admit.ts';
import { type Failure, type FailureCode, noTimings } from '../core/outcome.ts';
import type { Standing } from '../core/policy.ts';
import type { ClaimedRequest, HeaderList, SendableRequest } from '../core/request.ts';
import { bindingDenial, bindingProblems, namesHostOf, rolesOf, type SecretBindings } from '../core/secret-bindings.ts';
import { headersWithReferences, secretsUsedBy, withSecretValues } from '../core/secret-references.ts';
import type { SecretSource, UsedSecret } from '../core/secret-values.ts';
import { parseAbsoluteUrl } from '../core/urls.ts';
import { readTimeoutMs, SecretValues } from './values.ts';
import { type SigningKey, signingKeysIn, withSignature } from './webhook-signature.ts';

/** A request that can be sent, and what of its response is not to be recorded. */
export type Furnished = {
  readonly kind: 'furnished';
  readonly request: SendableRequest;
  readonly secrets: readonly UsedSecret[];
};

/** Fills the secrets into a request, and signs it; or says why not. Never rejects. */
export type Furnish = (request: ClaimedRequest, standing: Standing) => Promise<Furnished | Failure>;

export type SecretsParts = {
  readonly bindings: SecretBindings;
  readonly source: SecretSource;
  /** A monotonic clock, in milliseconds. */
  readonly now?: () => number;
  /** The time of day, in milliseconds since 1970: what signatures say. */
  readonly unixTimeMs?: () => number;
};

/** The secrets of a worker, or of several. */
export type Secrets = {
  /** The roles that they are bound to: a {@link Standing} says which of them somebody has. */
  readonly roleNames: readonly string[];
  readonly furnish: Furnish;
  /** Declared secrets that cannot be used as things are, and why: `has no value`. */
  problems(): Promise<readonly { readonly name: string; readonly problem: string }[]>;
};

/**
 * Declares secrets: each bound to the hosts and roles that may use it, by whoever runs the worker, never by the database.
 *
 * @throws RangeError for bindings that make no sense.
 */
export function createSecrets(parts: SecretsParts): Secrets {
  const problems = bindingProblems(parts.bindings);
  if (problems.length > 0) throw new RangeError(`secrets: ${problems.join('; ')}`);
  const bindings = new Map(Object.entries(structuredClone(parts.bindings)));
  const now = parts.now ?? (() => performance.now());
  const values = new SecretValues(parts.source, now);
  const furnisher = new Furnisher(bindings, values, now, parts.unixTimeMs ?? (() => Date.now()));
  return {
    roleNames: rolesOf(parts.bindings),
    furnish: (request, standing) => furnisher.furnish(request, standing),
    problems: async () => {
      const readings = await Promise.all(
        [...bindings.keys()].map(async (name) => ({ name, reading: await values.read(name, readTimeoutMs) })),
      );
      return readings.flatMap(({ name, reading }) =>
        'problem' in reading ? [{ name, problem: reading.problem }] : [],
      );
    },
  };
}

class Furnisher {
  readonly #bindings: ReadonlyMap<string, SecretBindings[string]>;
  readonly #values: SecretValues;
  readonly #now: () => number;
  readonly #unixTimeMs: () => number;

  constructor(
    bindings: ReadonlyMap<string, SecretBindings[string]>,
    values: SecretValues,
    now: () => number,
    unixTimeMs: () => number,
  ) {
    this.#bindings = bindings;
    this.#values = values;
    this.#now = now;
    this.#unixTimeMs = unixTimeMs;
  }

  async furnish(claimed: ClaimedRequest, { roles }: Standing): Promise<Furnished | Failure> {
    const beganMs = this.#now();
    const { row, headers } = claimed;
    const names = secretsUsedBy(claimed);
    if (typeof names === 'string') return failure('secret_refused', names);
    const denial = this.#denialOf(claimed, names, roles);
    if (denial !== undefined) return failure('secret_refused', denial);
    const values = await this.#valuesOf(names, row.timeoutMs);
    if (typeof values === 'string') return failure('secret_unavailable', values);
    const keys = row.signWith === null ? [] : signingKeysIn(values.get(row.signWith) ?? '');
    if (typeof keys === 'string') {
      return failure('secret_unavailable', `The secret ${JSON.stringify(row.signWith)} cannot sign: ${keys}`);
    }
    const resolved = withSecretValues(withoutCodings(headers), values, headersBytesMax);
    if (resolved === undefined) return failure('invalid_request', headersTooLarge);
    const complete = row.signWith === null ? resolved : withSignature(resolved, row.body, keys, this.#unixTimeMs());
    if (typeof complete === 'string') return failure('invalid_request', complete);
    return {
      kind: 'furnished',
      request: {
        ...claimed,
        kind: 'sendable',
        headers: complete,
        secretHeaders: headersWithReferences(headers),
        spentMs: this.#now() - beganMs,
      },
      secrets: usedSecrets(values, row.signWith, keys),
    };
  }

  #denialOf(
    { row, headers }: ClaimedRequest,
    names: readonly string[],
    roles: ReadonlySet<string>,
  ): string | undefined {
    const url = parseAbsoluteUrl(row.url);
    for (const name of names) {
      const denial = bindingDenial(name, this.#bindings.get(name), roles, url);
      if (denial !== undefined) return denial;
    }
    const isForeign = headers.some(([name, value]) => name.toLowerCase() === 'host' && !namesHostOf(value, url));
    return isForeign
      ? 'A request with a secret cannot have a header "Host" that names another host than its URL'
      : undefined;
  }

  /** Those of all the names, or why there is one without. */
  async #valuesOf(names: readonly string[], timeoutMs: number): Promise<ReadonlyMap<string, string> | string> {
    const values = new Map<string, string>();
    const readings = await Promise.all(names.map((name) => this.#values.read(name, timeoutMs)));
    for (const [index, reading] of readings.entries()) {
      const name = names[index] ?? '';
      if ('problem' in reading) return `The secret ${JSON.stringify(name)} ${reading.problem}`;
      values.set(name, reading.value);
    }
    return values;
  }
}

/** In a compressed reply nobody would find a secret that the server said. What is asked for by ourselves is decoded before. */
function withoutCodings(headers: HeaderList): HeaderList {
  return headers.filter(([name]) => name.toLowerCase() !== 'accept-encoding');
}

/** A key that signs goes nowhere; whoever checks signatures has it, and may say it. */
function usedSecrets(
  values: ReadonlyMap<string, string>,
  signWith: string | null,
  keys: readonly SigningKey[],
): readonly UsedSecret[] {
  return [
    ...[...values].map(([name, value]) => ({ name, value })),
    ...(signWith === null ? [] : keys.map(({ text }) => ({ name: signWith, value: text }))),
  ];
}

function failure(code: FailureCode, message: string): Failure {
  return { kind: 'failure', code, message, timings: noTimings };
}

/** Of a worker that has none: what refers to one is refused. */
export const noSecrets: Secrets = createSecrets({ bindings: {}, source: { read: async () => undefined } });
