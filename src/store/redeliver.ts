import type { Row, Session, Statement } from '../postgres/database.ts';

const redeliverStatement: Statement = {
  name: 'pgfetch_redeliver',
  text: 'select net.redeliver(k.id) as new_id from pg_catalog.unnest($1::bigint[]) k (id)',
};

const redeliverWhereStatement: Statement = {
  name: 'pgfetch_redeliver_where',
  text: `
    select r.id, r.new_id, r.method, r.host, r.status_code, r.error_code, r.label, r.finished, r.run_at
    from net.redeliver_where(
      host => $1::text, status => $2::text, since => $3::timestamptz, until => $4::timestamptz, label => $5::text,
      state => $6::text, dry_run => $7::boolean, per_second => $8::numeric, max_requests => $9::integer
    ) r`,
};

/** Which kept requests to send again: those that fit all that is given, of which there must be something. */
export type RedeliveryFilter = {
  /** A host, of any port, or `host:port`. */
  readonly host?: string | undefined;
  /** `503`, `5xx`, `500-504`, `error` (there was no answer), or several of them with commas. */
  readonly status?: string | undefined;
  /** When they finished: from this instant on, ... */
  readonly since?: Date | undefined;
  /** ... and before this one. */
  readonly until?: Date | undefined;
  readonly label?: string | undefined;
  /** Default: those that failed, whether or not attempts were left: `failed` and `dead`. */
  readonly state?: 'failed' | 'dead' | 'cancelled' | 'succeeded' | undefined;
};

export type RedeliveryOptions = {
  /** Nothing is changed, and the result is what would be sent. Default true. */
  readonly dryRun?: boolean | undefined;
  /** How many of them are sent in a second, 0.001 to 10,000: more may be too much for a receiver that has just come back. Default 10. */
  readonly perSecond?: number | undefined;
  /** The oldest so many, 1 to 100,000. Default 1,000. What was sent again is not chosen again: another call goes on with the rest. */
  readonly requestsMax?: number | undefined;
};

/** A kept request that was chosen. */
export type Redelivery = {
  readonly id: bigint;
  /** The request that sends it again; null in a dry run. */
  readonly newId: bigint | null;
  readonly method: string;
  /** The host and port, as the URL has them. */
  readonly host: string | null;
  /** Its status; null where there was no answer. */
  readonly statusCode: number | null;
  /** Why there was no answer; null where there was one. */
  readonly errorCode: string | null;
  readonly label: string | null;
  readonly finished: Date;
  /** When it is sent, or would be. */
  readonly runAt: Date;
};

/**
 * Sends kept requests again, at once and as new ones, for the roles that made them: `net.redeliver`. All of them or none. The
 * session's role must have the rights of those roles, of `net_admin` or of the owner of the schema.
 *
 * @returns The ids of the new requests, in the same order.
 * @throws `PostgresError` P0002 where one of them is not kept; its detail says why.
 */
export async function redeliver(session: Session, ids: readonly bigint[]): Promise<readonly bigint[]> {
  const rows = await session.query<Row & { new_id: bigint }>(redeliverStatement, [ids]);
  return rows.map((row) => row.new_id);
}

/**
 * Sends those kept requests again that fit, spread over time, or in a dry run (the default) only shows them:
 * `net.redeliver_where`. It chooses none that was sent again already.
 *
 * @returns What is sent again, those first that were made first.
 * @throws `PostgresError` 22023 where nothing is given to choose by, or something makes no sense.
 */
export async function redeliverWhere(
  session: Session,
  filter: RedeliveryFilter,
  options: RedeliveryOptions = {},
): Promise<readonly Redelivery[]> {
  type Chosen = Row & {
    id: bigint;
    new_id: bigint | null;
    method: string;
    host: string | null;
    status_code: number | null;
    error_code: string | null;
    label: string | null;
    finished: Date;
    run_at: Date;
  };
  const rows = await session.query<Chosen>(redeliverWhereStatement, [
    filter.host ?? null,
    filter.status ?? null,
    filter.since?.toISOString() ?? null,
    filter.until?.toISOString() ?? null,
    filter.label ?? null,
    filter.state ?? null,
    options.dryRun ?? true,
    options.perSecond ?? null,
    options.requestsMax ?? null,
  ]);
  return rows.map((row) => ({
    id: row.id,
    newId: row.new_id,
    method: row.method,
    host: row.host,
    statusCode: row.status_code,
    errorCode: row.error_code,
    label: row.label,
    finished: row.finished,
    runAt: row.run_at,
  }));
}
