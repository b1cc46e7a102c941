import { defaultTerms, type KeepRequests, type Terms } from '../core/aftermath.ts';
import type { RetryPolicy } from '../core/retry.ts';
import { defaultSendRules, type SendRules } from '../core/send-rules.ts';
import { parseStatuses } from '../core/statuses.ts';
import type { Row, Session, Statement } from '../postgres/database.ts';

const settingsStatement: Statement = {
  name: 'pgfetch_settings',
  text: `
    select
      s.name,
      s.setting,
      s.source,
      s.boot_val,
      (extract(epoch from net._interval_or_null(case when s.name in ('pg_net.ttl', 'pg_net.keep_requests_ttl') then s.setting end)) * 1000)::double precision as ms,
      net._bytes_or_null(case when s.name = 'pg_net.max_response_bytes' then s.setting end)::double precision as bytes
    from net._settings_for((select r.oid from pg_catalog.pg_roles r where r.rolname = current_user)) s`,
};

const targetStatement: Statement = {
  name: 'pgfetch_target',
  text: `
    select
      nullif(pg_catalog.current_setting('pg_net.database_name', true), '') as database,
      nullif(pg_catalog.current_setting('pg_net.username', true), '') as username`,
};

const whereStatement: Statement = {
  name: 'pgfetch_where',
  text: 'select pg_catalog.current_database()::text as database, session_user::text as username',
};

const policyStatement: Statement = {
  name: 'pgfetch_retry_policy',
  text: `
    select
      p.max_attempts,
      (extract(epoch from p.first_delay) * 1000)::double precision as first_delay_ms,
      (extract(epoch from p.max_delay) * 1000)::double precision as max_delay_ms,
      (extract(epoch from p.time_limit) * 1000)::double precision as time_limit_ms,
      p.statuses,
      p.errors,
      (extract(epoch from p.max_retry_after) * 1000)::double precision as max_retry_after_ms
    from net.retry_policy p
    where p.name = $1`,
};

// Every installation's is another, a copy's too: a receiver must not take the one's requests for the other's.
const identityStatement: Statement = {
  name: 'pgfetch_identity',
  text: `
    select pg_catalog.concat_ws('/', coalesce(i.system_identifier, ''), i.database_oid, extract(epoch from i.installed_at)) as identity
    from net.installation i`,
};

/**
 * Where the server says that the worker belongs (`pg_net.database_name`, `pg_net.username`), if that is elsewhere; null
 * where it is here. Without settings (no schema of ours, or no right to read it) only what holds for this session is known.
 */
export async function readTarget(
  session: Session,
  settings: Settings | null,
): Promise<{ database?: string; user?: string } | null> {
  type Where = Row & { database: string | null; username: string | null };
  const [here] = await session.query<Where>(whereStatement);
  const [wanted] =
    settings === null
      ? await session.query<Where>(targetStatement)
      : [{ database: settings.databaseName, username: settings.username }];
  const { database, username } = wanted ?? {};
  const target = {
    ...(database && database !== here?.database && { database }),
    ...(username && username !== here?.username && { user: username }),
  };
  return Object.keys(target).length === 0 ? null : target;
}

/** The settings in force for this worker, as the server holds them. */
export type Settings = {
  /** How long responses are kept. */
  readonly ttlMs: number;
  /** How long requests are kept for redelivery. */
  readonly keptTtlMs: number;
  /** The most requests that one claim takes. */
  readonly batchSize: number;
  /** The most requests in flight. */
  readonly concurrency: number;
  /** The most requests in flight to one host and port, beside its fair share; 0: no limit of its own. */
  readonly concurrencyPerOrigin: number;
  /** How requests are sent. */
  readonly sendRules: SendRules;
  /** What follows when they are done. */
  readonly terms: Terms;
  /** The database to connect to, where the server says so. */
  readonly databaseName: string | null;
  /** The role to connect as, where the server says so. */
  readonly username: string | null;
  /** What was wrong with a setting and what is used instead, for the log. */
  readonly problems: readonly string[];
};

type SettingRow = Row & {
  name: string;
  setting: string;
  source: string;
  boot_val: string;
  ms: number | null;
  bytes: number | null;
};

const responseBytesBounds = { min: 1024, max: 256 * 1024 * 1024 };

export const defaultSettings: Settings = Object.freeze({
  ttlMs: 6 * 3600 * 1000,
  keptTtlMs: 7 * 24 * 3600 * 1000,
  batchSize: 200,
  concurrency: 200,
  concurrencyPerOrigin: 0,
  sendRules: defaultSendRules,
  terms: defaultTerms,
  databaseName: null,
  username: null,
  problems: Object.freeze([]),
});

/** Reads the settings. A value that makes no sense is replaced by the default and reported in `problems`. */
export async function readSettings(session: Session): Promise<Settings> {
  const rows = await session.query<SettingRow>(settingsStatement);
  const byName = new Map(rows.map((row) => [row.name, row]));
  const problems: string[] = [];

  const integer = (name: string, min: number, max: number, fallback: number): number => {
    const text = byName.get(name)?.setting ?? '';
    const value = Number(text);
    if (/^\d+$/.test(text) && value >= min && value <= max) {
      return value;
    }
    problems.push(
      `${name} is ${JSON.stringify(text)}: it must be a whole number from ${min} to ${max}; using ${fallback}`,
    );
    return fallback;
  };
  const interval = (name: string, fallback: string, fallbackMs: number): number => {
    const row = byName.get(name);
    if (row?.ms !== null && row?.ms !== undefined && row.ms >= 0) {
      return row.ms;
    }
    problems.push(
      `${name} is ${JSON.stringify(row?.setting ?? '')}: it must be an interval such as '${fallback}'; using ${fallback}`,
    );
    return fallbackMs;
  };
  const responseBytesMax = (): number => {
    const { setting, bytes } = byName.get('pg_net.max_response_bytes') ?? { setting: '', bytes: null };
    if (bytes !== null && bytes >= responseBytesBounds.min && bytes <= responseBytesBounds.max) {
      return bytes;
    }
    problems.push(
      `pg_net.max_response_bytes is ${JSON.stringify(setting)}: it must be a number of bytes from 1kB to 256MB; using 8MB`,
    );
    return defaultSendRules.responseBytesMax;
  };
  const isOn = (name: string, fallback: boolean): boolean => {
    const text = byName.get(name)?.setting ?? '';
    if (/^(on|true|yes|1|off|false|no|0)$/i.test(text)) {
      return /^(on|true|yes|1)$/i.test(text);
    }
    problems.push(`${name} is ${JSON.stringify(text)}: it must be on or off; using ${fallback ? 'on' : 'off'}`);
    return fallback;
  };
  const keepRequests = (): KeepRequests => {
    const text = byName.get('pg_net.keep_requests')?.setting ?? '';
    if (text === 'none' || text === 'failed' || text === 'all') {
      return text;
    }
    problems.push(`pg_net.keep_requests is ${JSON.stringify(text)}: it must be none, failed or all; using failed`);
    return 'failed';
  };
  const given = (name: string): string | null => {
    const row = byName.get(name);
    return row === undefined || row.source === 'default' || row.setting === '' ? null : row.setting;
  };
  const policyName = given('pg_net.retry_policy');
  const policy = policyName === null ? undefined : await readPolicy(session, policyName);
  if (policyName !== null && policy === undefined) {
    problems.push(
      `pg_net.retry_policy is ${JSON.stringify(policyName)}: there is no such row in net.retry_policy; using the defaults`,
    );
  }
  const retry = policy ?? defaultTerms.retry;
  return {
    ttlMs: interval('pg_net.ttl', '6 hours', defaultSettings.ttlMs),
    keptTtlMs: interval('pg_net.keep_requests_ttl', '7 days', defaultSettings.keptTtlMs),
    batchSize: integer('pg_net.batch_size', 1, 10_000, defaultSettings.batchSize),
    concurrency: integer('pg_net.concurrency', 1, 10_000, defaultSettings.concurrency),
    concurrencyPerOrigin: integer('pg_net.concurrency_per_origin', 0, 10_000, defaultSettings.concurrencyPerOrigin),
    sendRules: {
      responseBytesMax: responseBytesMax(),
      followInsecureRedirects: isOn('pg_net.follow_insecure_redirects', defaultSendRules.followInsecureRedirects),
      decompress: isOn('pg_net.decompress', defaultSendRules.decompress),
    },
    terms: {
      retry:
        policy !== undefined && given('pg_net.max_attempts') === null
          ? policy
          : { ...retry, maxAttempts: integer('pg_net.max_attempts', 1, 100, retry.maxAttempts) },
      keepRequests: keepRequests(),
      keysFrom: isOn('pg_net.idempotency_keys', false) ? await readIdentity(session) : undefined,
    },
    databaseName: given('pg_net.database_name'),
    username: given('pg_net.username'),
    problems,
  };
}

/** A policy of net.retry_policy; undefined where there is none of that name. */
async function readPolicy(session: Session, name: string): Promise<RetryPolicy | undefined> {
  type PolicyRow = Row & {
    max_attempts: number;
    first_delay_ms: number;
    max_delay_ms: number;
    time_limit_ms: number;
    statuses: string;
    errors: boolean;
    max_retry_after_ms: number;
  };
  const [row] = await session.query<PolicyRow>(policyStatement, [name]);
  return row === undefined
    ? undefined
    : {
        maxAttempts: row.max_attempts,
        firstDelayMs: row.first_delay_ms,
        maxDelayMs: row.max_delay_ms,
        timeLimitMs: row.time_limit_ms,
        // A constraint of the table holds it to what can be parsed.
        statuses: parseStatuses(row.statuses) ?? defaultTerms.retry.statuses,
        errors: row.errors,
        maxRetryAfterMs: row.max_retry_after_ms,
      };
}

/** What tells this installation from every other. */
async function readIdentity(session: Session): Promise<string | undefined> {
  const [row] = await session.query<Row & { identity: string }>(identityStatement);
  return row?.identity;
}
