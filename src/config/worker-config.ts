import { hostname } from 'node:os';
import { z } from 'zod';
import { createAddressPolicy, type Scheme } from '../core/addresses.ts';
import type { ClientCertificate } from '../core/client-certificate.ts';
import { isPortEntry } from '../core/ports.ts';
import type { ProxyOptions } from '../core/proxies.ts';
import { bindingProblems, type SecretBindings } from '../core/secret-bindings.ts';
import type { SecretSource } from '../core/secret-values.ts';
import { authorities, clientCertificateKeys, clientCertificates } from './certificates.ts';
import { proxySchema } from './proxy-config.ts';
import { nearestName } from './suggest.ts';
import { version } from './version.ts';

/** What a worker can be told. Everything has a default; what the database's settings say (`pg_net.ttl`, ...) is not here. */
export type WorkerOptions = {
  /**
   * `postgres://user:password@host:5432/database`. Default: empty, which leaves the choice to the PG* environment variables, as
   * libpq has them.
   */
  readonly connectionString?: string;
  /**
   * The login by which `on_success` and `on_error` are called: `postgres://user:password@host:5432/`, of the server that is
   * served; which database is the worker's matter. A member of `net_callback` and of nothing else: another one is refused, because
   * what a user's function leaves behind runs with its rights. Default: empty; callbacks then wait.
   */
  readonly callbackDatabaseUrl?: string;
  /**
   * Networks and hosts that requests may reach beyond the public internet: CIDR blocks (`10.1.0.0/16`), addresses, host names
   * (`db.internal`, `*.example.local`), or the words `loopback`, `private`, `all`. Everything else that is not public is denied,
   * because whoever can run SQL could otherwise reach the worker's neighbours. An allowed *name* may resolve to any address
   * that `deny` does not list. Default: nothing. At most 1,000 entries.
   */
  readonly allow?: readonly string[];
  /** The same kinds of entries, refused whatever `allow` says. Default: nothing. At most 1,000 entries. */
  readonly deny?: readonly string[];
  /**
   * The only hosts that requests may reach: names, `*.example.com` for all names below one, addresses, CIDR blocks. It goes by
   * what the URL says, for redirects too, and behind a proxy: a name that is not listed is refused even if its addresses are. It
   * only restricts: what is private must still be in `allow`. Default: nothing, which restricts nothing. At most 1,000 entries.
   */
  readonly only?: readonly string[];
  /** The only ports that requests may go to: 443, or a range (`'8000-8999'`). Default: nothing, which is every port. At most 1,000 entries. */
  readonly ports?: readonly (number | string)[];
  /** The only schemes of requests and of what they are redirected to: `['https']`. Default: nothing, which is both. */
  readonly schemes?: readonly Scheme[];
  /**
   * Certificates in PEM, one or several in each text, that are trusted beside the authorities that Node.js trusts: those of
   * private authorities, or of single servers. Default: none. At most 100 entries.
   */
  readonly ca?: readonly string[];
  /**
   * Certificates that are shown to the hosts they name, and to no other, where these ask for one: mutual TLS. Default: none. At
   * most 100; no host in two of them, and of patterns that overlap the first decides.
   */
  readonly clientCertificates?: readonly ClientCertificate[];
  /**
   * Who resolves the names of requests. `auto`, the default: on Linux the worker itself, as /etc/nsswitch.conf, /etc/hosts and
   * /etc/resolv.conf say, so that a name whose servers are silent holds up no other; elsewhere as `system`. `system`:
   * getaddrinfo, at most two names at a time, with whatever modules the machine has for it.
   */
  readonly resolver?: 'auto' | 'system';
  /**
   * Proxies: `{ http: 'http://user:password@proxy.example:3128', https: ..., noProxy: 'localhost,.internal,10.0.0.0/8' }`. Through
   * a proxy host *names* are vetted, but not the addresses that the proxy finds for them: it must refuse private networks
   * itself. Default: none; the environment is read by `pgfetch worker` only.
   */
  readonly proxy?: ProxyOptions;
  /**
   * Secrets that requests may refer to in headers (`{{secret.stripe}}`) and be signed with, each bound to the hosts and the roles
   * that may use it: `{ stripe: { hosts: ['api.stripe.com'], roles: ['billing'] } }`. Default: none. At most 1,000, with 100 hosts
   * and 100 roles each.
   */
  readonly secrets?: SecretBindings;
  /** Where the values of `secrets` come from, such as `secretDirectory('/etc/pgfetch/secrets')`. Default: nowhere; needed with `secrets`. */
  readonly secretSource?: SecretSource;
  /** How long `stop()` waits for requests in flight before it gives them back to the queue. 0 to 600,000 ms, default 10,000. Longer than the requests' time-outs: none is sent twice. */
  readonly stopTimeoutMs?: number;
  /** How long what a worker has claimed stays its own without a sign of life. 1,000 to 3,600,000 ms, default 15,000. Shorter: a hung worker's requests come free sooner; longer: a slow database is forgiven more. */
  readonly leaseMs?: number;
  /** How often the queue is looked at where notifications do not arrive (a transaction-mode pooler). 10 to 60,000 ms, default 500. Shorter: less latency, more statements. */
  readonly pollEveryMs?: number;
  /** Bounds name lookup, connect, TLS and authentication with the database together. 100 to 300,000 ms, default 10,000. */
  readonly connectTimeoutMs?: number;
  /** Default true: statements are prepared and settings pinned once a session. False for a transaction-mode pooler that cannot be recognised. */
  readonly prepare?: boolean;
  /** Where the worker runs, for people: `net.worker.name`. 1 to 200 characters, default `host:pid`. */
  readonly name?: string;
  /** The User-Agent of requests that bring none. Visible ASCII, at most 200 characters, default `pg_net/<version> (pgfetch)`. */
  readonly userAgent?: string;
};

/** {@link WorkerOptions}, checked, completed and frozen. */
export type WorkerConfig = Required<WorkerOptions>;

/** Options that make no sense. The message lists all of them, each with what would. */
export class ConfigError extends Error {
  override readonly name = 'ConfigError';
  /** One sentence for each problem. */
  readonly problems: readonly string[];

  constructor(problems: readonly string[]) {
    super(
      problems.length === 1
        ? `Invalid option: ${problems[0]}`
        : `Invalid options:\n${problems.map((problem) => `  - ${problem}`).join('\n')}`,
    );
    this.problems = problems;
  }
}

const entriesMax = 1_000;

const nowhere: SecretSource = Object.freeze({ read: async () => undefined });

const ports = z
  .array(
    z
      .union([z.number(), z.string()], { error: 'must be a number or a text' })
      .refine(isPortEntry, 'must be a port from 1 to 65535 or a range of them (8000-8999)'),
    { error: 'must be a list of ports' },
  )
  .max(entriesMax, `must have at most ${entriesMax} entries`)
  .default([]);

const connectionString = z
  .string({ error: 'must be a text' })
  .superRefine((text, context) => {
    const problem = connectionStringProblem(text);
    if (problem !== undefined) context.addIssue(problem);
  })
  .default('');

const schema = z.strictObject({
  connectionString,
  callbackDatabaseUrl: connectionString,
  allow: networks('allow'),
  deny: networks('deny'),
  only: networks('only'),
  ports,
  schemes: z
    .array(z.enum(['http', 'https'], { error: 'must be "http" or "https"' }), { error: 'must be a list of texts' })
    .default([]),
  ca: authorities,
  clientCertificates,
  resolver: z.enum(['auto', 'system'], { error: 'must be "auto" or "system"' }).default('auto'),
  proxy: proxySchema,
  secrets: z
    .custom<SecretBindings>()
    .superRefine((given, context) => {
      for (const problem of bindingProblems(given)) context.addIssue(problem);
    })
    .transform((given) => structuredClone(given))
    .default({}),
  secretSource: z
    .custom<SecretSource>((given) => typeof (given as Partial<SecretSource> | null)?.read === 'function', {
      error: 'must have a method read(name) that resolves with a text or undefined',
    })
    .optional(),
  stopTimeoutMs: whole(0, 600_000, 10_000, 'milliseconds'),
  leaseMs: whole(1_000, 3_600_000, 15_000, 'milliseconds'),
  pollEveryMs: whole(10, 60_000, 500, 'milliseconds'),
  connectTimeoutMs: whole(100, 300_000, 10_000, 'milliseconds'),
  prepare: z.boolean({ error: 'must be true or false' }).default(true),
  name: z
    .string({ error: 'must be a text' })
    .regex(/^\P{Cc}{1,200}$/u, 'must have 1 to 200 characters, none of them control characters')
    .default(() => `${hostname()}:${process.pid}`),
  userAgent: z
    .string({ error: 'must be a text' })
    .regex(/^[!-~]([ -~]{0,198}[!-~])?$/, 'must be visible ASCII, 1 to 200 characters')
    .default(`pg_net/${version} (pgfetch)`),
});

/**
 * Checks options from anywhere and completes them with the defaults. The result is frozen.
 *
 * @throws {@link ConfigError} listing everything that is wrong.
 */
export function readWorkerConfig(input: unknown = {}): WorkerConfig {
  const result = schema.safeParse(withoutUndefined(input));
  if (!result.success) {
    throw new ConfigError(result.error.issues.flatMap(problemsOf));
  }
  const { allow, deny, only, ports, schemes, ca, clientCertificates: certificates } = result.data;
  const { secrets, secretSource = nowhere } = result.data;
  if (Object.keys(secrets).length > 0 && secretSource === nowhere) {
    throw new ConfigError(['secrets need a secretSource: where their values come from']);
  }
  return Object.freeze({
    ...result.data,
    allow: Object.freeze(allow),
    deny: Object.freeze(deny),
    only: Object.freeze(only),
    ports: Object.freeze(ports),
    schemes: Object.freeze(schemes),
    ca: Object.freeze(ca),
    clientCertificates: Object.freeze(certificates.map((certificate) => Object.freeze(certificate))),
    secrets: Object.freeze(secrets),
    secretSource,
  });
}

/** An option that is undefined is one that was not given. */
function withoutUndefined(input: unknown): unknown {
  if (typeof input !== 'object' || input === null || Array.isArray(input)) return input;
  return Object.fromEntries(Object.entries(input).filter(([, value]) => value !== undefined));
}

function whole(min: number, max: number, fallback: number, unit: string): z.ZodDefault<z.ZodInt> {
  const error = `must be a whole number of ${unit} from ${min} to ${max} (default ${fallback})`;
  return z.int({ error }).min(min, error).max(max, error).default(fallback);
}

function networks(option: 'allow' | 'deny' | 'only'): z.ZodDefault<z.ZodArray<z.ZodString>> {
  const entry = z.string({ error: 'must be a text' }).superRefine((text, context) => {
    try {
      createAddressPolicy({ [option]: [text] });
    } catch (error) {
      if (!(error instanceof RangeError)) throw error;
      context.addIssue(
        option === 'only'
          ? 'must be a CIDR block (10.0.0.0/8), an address, a host name or *.example.com, without scheme, port and path'
          : 'must be a CIDR block (10.0.0.0/8), an address, a host name, or one of the words "loopback", "private", "all"; without scheme, port and path',
      );
    }
  });
  return z
    .array(entry, { error: 'must be a list of texts' })
    .max(entriesMax, `must have at most ${entriesMax} entries`)
    .default([]);
}

/** What is wrong with a connection string, or undefined. The text itself is never quoted: it may hold a password. */
export function connectionStringProblem(text: string): string | undefined {
  if (text === '' || text.startsWith('/') || /^(postgres|postgresql|socket):/i.test(text)) {
    // The host may be missing (it then comes from PGHOST, or is a socket's directory), which a URL cannot say.
    const withHost = text.replace(/^(\w+:\/\/(?:[^/?#@]*@)?)(?=[/?]|$)/, '$1localhost');
    return !/^postgres/i.test(text) || URL.canParse(withHost)
      ? undefined
      : 'cannot be read as a URL; special characters in the password must be percent-encoded (@ is %40, / is %2F, # is %23)';
  }
  return /^\s*\w+\s*=/.test(text)
    ? 'must be a URL such as postgres://user:password@host:5432/database, not "key=value" pairs'
    : 'must look like postgres://user:password@host:5432/database';
}

function problemsOf(issue: z.core.$ZodIssue): readonly string[] {
  if (issue.code === 'unrecognized_keys') {
    const isOption = issue.path.length === 0;
    const known = isOption ? Object.keys(schema.shape) : clientCertificateKeys;
    const missing = isOption ? 'there is no option' : `${placeOf(issue.path)} has no`;
    return issue.keys.map((key) => {
      const meant = nearestName(key, known);
      return meant === undefined
        ? `${missing} ${JSON.stringify(key)}; there are ${known.join(', ')}`
        : `${missing} ${JSON.stringify(key)}; did you mean "${meant}"?`;
    });
  }
  return [issue.path.length === 0 ? 'the options must be an object' : `${placeOf(issue.path)} ${issue.message}`];
}

/** `allow[0]`, `clientCertificates[0].hosts[1]`. */
function placeOf(path: readonly PropertyKey[]): string {
  return path
    .map((step, depth) => (typeof step === 'number' ? `[${step}]` : `${depth > 0 ? '.' : ''}${String(step)}`))
    .join('');
}
