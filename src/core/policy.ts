import { canonicalHost, matchesHost } from './hosts.ts';

/** A row of `net.policy`: where requests of those whom it concerns may go. */
export type HostRule = {
  /** A name, `*.parent` for all names below one, an IP address, or `*` for every host; in its canonical spelling. */
  readonly host: string;
  /** In upper case; null: every method. */
  readonly methods: readonly string[] | null;
};

/**
 * What the database says of a role that asks. `hostRules` is undefined where no policy concerns it; `roles` are those of the
 * names that were asked for whose rights it has.
 */
export type Standing = {
  readonly hostRules: readonly HostRule[] | undefined;
  readonly roles: ReadonlySet<string>;
};

/** Of a role of which nothing is known that concerns the request. */
export const unbound: Standing = Object.freeze({ hostRules: undefined, roles: new Set<string>() });

/** Why a request may not go to `host` (as `URL.hostname` writes it), or undefined. Without rules it may go anywhere. */
export function hostRulesDenial(
  rules: readonly HostRule[] | undefined,
  method: string,
  host: string,
): string | undefined {
  if (rules === undefined) return undefined;
  const name = canonicalHost(host);
  const forHost = rules.filter((rule) => rule.host === '*' || matchesHost([rule.host], name));
  if (forHost.length === 0) return 'no row of net.policy lets this role reach this host';
  const upper = method.toUpperCase();
  return forHost.some(({ methods }) => methods === null || methods.includes(upper))
    ? undefined
    : `no row of net.policy lets this role send ${upper} to this host`;
}
