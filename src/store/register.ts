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
    returning w.id, w.restart_seen, exists (select from net.pause) as is_paused`,
};

const renewLeaseStatement: Statement = {
  name: 'pgfetch_renew_lease',
  text: `
    update net.worker w
    set lease_until = pg_catalog.clock_timestamp() + $2 * interval '1 millisecond'
    where w.id = $1
    returning (select s.last_value from net.worker_restart_seq s) as restarts`,
};

const restartsStatement: Statement = {
  name: 'pgfetch_restarts',
  text: 'select s.last_value as restarts from net.worker_restart_seq s',
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

export type Registration = {
  readonly workerId: bigint;
  /** The restart request that this registration already obeys. */
  readonly restartSeen: bigint;
  /** Workers are to stay away: whoever finds that only now was about to miss the notification of it. */
  readonly isPaused: boolean;
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
  const [row] = await session.query<Row & { id: bigint; restart_seen: bigint; is_paused: boolean }>(registerStatement, [
    options.workerId,
    options.name,
    options.version,
    options.ownsSession,
    options.leaseMs,
  ]);
  return row === undefined ? null : { workerId: row.id, restartSeen: row.restart_seen, isPaused: row.is_paused };
}

/** Extends the lease; returns the number of restarts asked for so far, or null where the registration is gone. */
export async function renewLease(session: Session, workerId: bigint, leaseMs: number): Promise<bigint | null> {
  const [row] = await session.query<Row & { restarts: bigint }>(renewLeaseStatement, [workerId, leaseMs]);
  return row?.restarts ?? null;
}

/** The number of restarts asked for so far. */
export async function readRestarts(session: Session): Promise<bigint> {
  const [row] = await session.query<Row & { restarts: bigint }>(restartsStatement);
  return row?.restarts ?? 0n;
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
