/**
 * What every session of ours pins, because a role, a database or postgresql.conf may carry another default
 * (`ALTER ROLE ... SET`). Values are as `set_config` takes them.
 *
 * - the timeouts bound a statement, a wait for a lock and a transaction that a paused worker holds open; the two that could
 *   end an idle or busy session by themselves (`idle_session_timeout`, `transaction_timeout`) are off: a worker that
 *   listens is idle by design;
 * - the formats are what values.ts parses;
 * - `jit` only costs with statements as short as ours.
 *
 * Not pinned: `default_transaction_read_only` (providers use it to stop writes when a disk is full), `synchronous_commit`
 * (the user's choice, the caller's record may set it).
 */
export const sessionSettings: Readonly<Record<string, string>> = Object.freeze({
  search_path: 'pg_catalog, pg_temp',
  client_encoding: 'UTF8',
  TimeZone: 'UTC',
  DateStyle: 'ISO, YMD',
  IntervalStyle: 'postgres',
  bytea_output: 'hex',
  extra_float_digits: '1',
  standard_conforming_strings: 'on',
  row_security: 'on',
  default_transaction_isolation: 'read committed',
  statement_timeout: '60s',
  lock_timeout: '5s',
  idle_in_transaction_session_timeout: '60s',
  idle_session_timeout: '0',
  transaction_timeout: '0',
  jit: 'off',
});

/**
 * Sets the settings named in `$1` to the values in `$2`, for the session or (`$3`) for the transaction; those that this
 * server does not know are left out, custom ones (with a dot) are created. Every name is qualified: it runs under whatever
 * search_path the role's default carries.
 */
export const pinSettings: string = `
select pg_catalog.set_config(s.name, s.value, $3::pg_catalog.bool)
from rows from (pg_catalog.unnest($1::pg_catalog.text[]), pg_catalog.unnest($2::pg_catalog.text[])) as s(name, value)
where pg_catalog.strpos(s.name, '.') operator(pg_catalog.>) 0
   or pg_catalog.current_setting(s.name, true) is not null`;
