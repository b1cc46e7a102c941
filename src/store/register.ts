import type { Row, Session, Statement } from '../postgres/database.ts';

/**
 * Registers a worker, or gives its registration a new session. A registration that is gone is not made again: it was fenced.
 * The lock waits for a claim of the old session that is still under way; none can begin after it.
 */
const registerStatement: Statement = {
  name: 'pgfetch_register',
  text: `
    with held as materialized (
      select o.id from net.worker o where o.id = $1 for update
    )
    insert into net.worker as w (id, name, version, role, pid, backend_start, lease_until, restart_seen)
    select
      coalesce($1, pg_catalog.nextval('net.worker_id_seq')), $2, $3,
      (select r.oid from pg_catalog.pg_roles r where r.rolname = current_user),
      case when $4 then pg_catalog.pg_backend_pid() end,
      case when $4 then (select a.backend_start from pg_catalog.pg_stat_activity a where a.pid = pg_catalog.pg_backend_pid()) end,
      pg_catalog.clock_timestamp() + $5 * interval '1 millisecond',
      (select s.last_value from net.worker_restart_seq s)
    where $1::bigint is null or exists (select from held)
    on conflict (id) do update
    set role = excluded.role,
        pid = excluded.pid,
        backend_start = excluded.backend_start,
        lease_until = excluded.lease_until,
        restart_seen = excluded.restart_seen
    returning w.id, w.restart_seen as restarts,
      exists (select from net.pause) as is_paused,
      exists (select from net.policy) as has_policies, net._limits() as limits,
      (
        select pg_catalog.string_agg(s.name || '=' || s.setting || coalesce(p::text, ''), ', ' order by s.name)
        from net._settings_for((select r.oid from pg_catalog.pg_roles r where r.rolname = current_user)) s
        left join net.retry_policy p on s.name = 'pg_net.retry_policy' and p.name = s.setting
      ) as settings`,
};

const renewLeaseStatement: Statement = {
  name: 'pgfetch_renew_lease',
  text: `
    update net.worker w
    set lease_until = pg_catalog.clock_timestamp() + $2 * interval '1 millisecond'
    where w.id = $1
    returning (select s.last_value from net.worker_restart_seq s) as restarts,
      exists (select from net.pause) as is_paused,
      exists (select from net.policy) as has_policies, net._limits() as limits,
      (
        select pg_catalog.string_agg(s.name || '=' || s.setting || coalesce(p::text, ''), ', ' order by s.name)
        from net._settings_for((select r.oid from pg_catalog.pg_roles r where r.rolname = current_user)) s
        left join net.retry_policy p on s.name = 'pg_net.retry_policy' and p.name = s.setting
      ) as settings`,
};

const askedStatement: Statement = {
  name: 'pgfetch_asked',
  text: `
    select s.last_value as restarts,
      exists (select from net.pause) as is_paused,
      exists (select from net.policy) as has_policies, net._limits() as limits,
      (
        select pg_catalog.string_agg(s.name || '=' || s.setting || coalesce(p::text, ''), ', ' order by s.name)
        from net._settings_for((select r.oid from pg_catalog.pg_roles r where r.rolname = current_user)) s
        left join net.retry_policy p on s.name = 'pg_net.retry_policy' and p.name = s.setting
      ) as settings
    from net.worker_restart_seq s`,
};

/** Without a session of its own a registration lives by its lease (see net._session_lives). */
const detachStatement: Statement = {
  name: 'pgfetch_detach',
  text: `
    update net.worker w
    set pid = null,
        backend_start = null,
        lease_until = pg_catalog.clock_timestamp() + $2 * interval '1 millisecond'
    where w.id = $1`,
};

const deregisterStatement: Statement = {
  name: 'pgfetch_deregister',
  text: 'delete from net.worker w where w.id = $1',
};

/**
 * What workers are asked to do. Restarts are counted when they are asked for, and heard of at commit: a worker that connects
 * in between has counted one whose pause, policies, limits or settings it could not see. So those are compared, too.
 */
export type Asked = {
  /** How many restarts have been asked for so far. */
  readonly restarts: bigint;
  /** Workers are to stay away. */
  readonly isPaused: boolean;
  /** Some roles' requests are bound to hosts. */
  readonly hasPolicies: boolean;
  /** The rows of net.limits, as JSON; null: there are none. */
  readonly limits: string | null;
  /** All settings, to be compared. */
  readonly settings: string;
};

export type Registration = {
  readonly workerId: bigint;
  /** The notification of what is new in it may have been missed. */
  readonly asked: Asked;
};

export type RegisterOptions = {
  /** Our id from before a reconnect; null for a new worker. */
  readonly workerId: bigint | null;
  /** Where the worker runs, for people. */
  readonly name: string;
  readonly version: string;
  /** Whether the server process behind this connection stays ours (false through a transaction-mode pooler). */
  readonly ownsSession: boolean;
  readonly leaseMs: number;
};

/** Registers; null where `workerId` was given and is known no more: what it had claimed has been given to others. */
export async function register(session: Session, options: RegisterOptions): Promise<Registration | null> {
  const [row] = await session.query<AskedRow & { id: bigint }>(registerStatement, [
    options.workerId,
    options.name,
    options.version,
    options.ownsSession,
    options.leaseMs,
  ]);
  return row === undefined ? null : { workerId: row.id, asked: askedOf(row) };
}

/** Extends the lease; returns what is asked of the workers, or null where the registration is gone. */
export async function renewLease(session: Session, workerId: bigint, leaseMs: number): Promise<Asked | null> {
  const [row] = await session.query<AskedRow>(renewLeaseStatement, [workerId, leaseMs]);
  return row === undefined ? null : askedOf(row);
}

/** What is asked of the workers now. */
export async function readAsked(session: Session): Promise<Asked> {
  const [row] = await session.query<AskedRow>(askedStatement);
  if (row === undefined) {
    throw new Error('the statement for what is asked returned no row');
  }
  return askedOf(row);
}

type AskedRow = Row & {
  restarts: bigint;
  is_paused: boolean;
  has_policies: boolean;
  limits: string | null;
  settings: string;
};

function askedOf(row: AskedRow): Asked {
  return {
    restarts: row.restarts,
    isPaused: row.is_paused,
    hasPolicies: row.has_policies,
    limits: row.limits,
    settings: row.settings,
  };
}

/**
 * Before a session that is to be followed by another: what is held stays ours meanwhile. Else the other workers would see that
 * the session is gone, and send it again.
 */
export async function detach(session: Session, workerId: bigint, leaseMs: number): Promise<void> {
  await session.query(detachStatement, [workerId, leaseMs]);
}

/** Ends the registration: what is still claimed is an orphan that the next start frees. */
export async function deregister(session: Session, workerId: bigint): Promise<void> {
  await session.query(deregisterStatement, [workerId]);
}
