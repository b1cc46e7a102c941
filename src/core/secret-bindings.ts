import { canonicalHost, isHostPattern, matchesHost } from './hosts.ts';
import { secretNamePattern } from './secret-references.ts';

/** Where a secret may be sent, and for whom. */
export type SecretBinding = {
  /**
   * Names (`api.stripe.com`), `*.stripe.com` for all names below one, or IP addresses; whatever the port. By https only, but for
   * an entry such as `http://service.internal`, which may get it in plain text, too.
   */
  readonly hosts: readonly string[];
  /** Roles of the database: they and whoever has their rights may use it. `public`: every role. */
  readonly roles: readonly string[];
};

/** By the names of the secrets. */
export type SecretBindings = Readonly<Record<string, SecretBinding>>;

/** PostgreSQL's word for every role; no role can have this name. */
export const everyRole = 'public';

const plainScheme = 'http://';
const secretsMax = 1_000;
const entriesMax = 100;
const nameLengthMax = 63;

/** What is wrong with what is given for {@link SecretBindings}, one text for each problem. */
export function bindingProblems(given: unknown): readonly string[] {
  if (!isRecord(given)) return ['must be an object: { name: { hosts: [...], roles: [...] } }'];
  const all = Object.entries(given);
  if (all.length > secretsMax) return [`must have at most ${secretsMax} entries`];
  return all.flatMap(([name, binding]) =>
    [...nameProblems(name), ...problemsOf(binding)].map((problem) => `${JSON.stringify(name)} ${problem}`),
  );
}

function nameProblems(name: string): readonly string[] {
  return secretNamePattern.test(name)
    ? []
    : [
        'cannot be the name of a secret: it must begin with a lower-case letter, and have at most 63 of a-z, 0-9, "_" and "-"',
      ];
}

function problemsOf(binding: unknown): readonly string[] {
  if (!isRecord(binding)) return ['must be { hosts: [...], roles: [...] }'];
  const { hosts, roles, ...others } = binding;
  const unknown = Object.keys(others).map((key) => `has no ${JSON.stringify(key)}; there are hosts and roles`);
  return [
    ...unknown,
    ...listProblems('hosts that it may be sent to', hosts, hostProblem),
    ...listProblems('roles that may use it', roles, roleProblem),
  ];
}

function listProblems(
  what: string,
  list: unknown,
  problemOf: (entry: unknown, index: number) => string | undefined,
): readonly string[] {
  if (!Array.isArray(list) || list.length === 0) return [`must list the ${what}`];
  if (list.length > entriesMax) return [`must list at most ${entriesMax} ${what}`];
  return list.map(problemOf).filter((problem) => problem !== undefined);
}

/** It is not quoted: who mistakes the option writes the value of the secret there. */
function hostProblem(host: unknown, index: number): string | undefined {
  return typeof host === 'string' && isHostPattern(withoutPlainScheme(host))
    ? undefined
    : `has as host ${index + 1} what is none: it must be a host name (api.example.com), *.example.com or an IP address, without port and path; https goes without saying, and "http://" before it allows plain text, too`;
}

function roleProblem(role: unknown): string | undefined {
  if (typeof role !== 'string' || role === '') return 'has a role without a name';
  // The @ that stands before the roles on the command line, taken for part of the word.
  return role === `@${everyRole}` ? `has the role "${role}": every role is ${JSON.stringify(everyRole)}` : undefined;
}

function isRecord(given: unknown): given is Readonly<Record<string, unknown>> {
  return typeof given === 'object' && given !== null && !Array.isArray(given);
}

/** The roles whose rights have to be asked for. */
export function rolesOf(bindings: SecretBindings): readonly string[] {
  const names = new Set(Object.values(bindings).flatMap(({ roles }) => roles));
  names.delete(everyRole);
  return [...names];
}

/**
 * Why a secret is not sent to `url` (undefined: it cannot be read) for somebody with the rights of `roles`; or undefined. Who may
 * not use it does not learn whether there is one.
 */
export function bindingDenial(
  name: string,
  binding: SecretBinding | undefined,
  roles: ReadonlySet<string>,
  url: URL | undefined,
): string | undefined {
  if (binding === undefined || !binding.roles.some((role) => role === everyRole || roles.has(role))) {
    // Of a row by hand the name may be any text.
    return `There is no secret ${JSON.stringify(name.slice(0, nameLengthMax))} that this role may use`;
  }
  const host = url === undefined ? '' : canonicalHost(url.hostname);
  const forHost = binding.hosts.filter((entry) => matchesHost([canonicalHost(withoutPlainScheme(entry))], host));
  if (forHost.length === 0) return `The secret ${JSON.stringify(name)} is not for this host`;
  const mayBePlain = url?.protocol === 'http:' && forHost.some((entry) => entry.startsWith(plainScheme));
  return url?.protocol === 'https:' || mayBePlain
    ? undefined
    : `The secret ${JSON.stringify(name)} is sent to this host over https only`;
}

/** Whether a header Host names the host that the URL does; a front that serves several would otherwise hand a secret to another. */
export function namesHostOf(hostHeader: string, url: URL | undefined): boolean {
  const [, host] = /^(\[[^\]]*\]|[^:]*)(?::\d*)?$/.exec(hostHeader.trim()) ?? [];
  return host !== undefined && url !== undefined && canonicalHost(host) === canonicalHost(url.hostname);
}

function withoutPlainScheme(entry: string): string {
  return entry.startsWith(plainScheme) ? entry.slice(plainScheme.length) : entry;
}
