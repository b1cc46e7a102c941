import type { Row, Session, Statement } from '../postgres/database.ts';

/** The workers are to stay away from a database, until somebody lets them go on. */
export type Pause = {
  readonly since: Date;
  /** The login that asked for it; null where that role is gone. */
  readonly by: string | null;
};

const pauseStatement: Statement = {
  name: 'pgfetch_pause',
  text: `
    select p.since, (select r.rolname::text from pg_catalog.pg_roles r where r.oid = p.login_role) as by
    from net.pause p`,
};

const setPausedStatement: Statement = {
  name: 'pgfetch_set_paused',
  text: 'select net.set_paused($1::boolean)',
};

/**
 * The sessions of workers in this database: those that are registered, and those that only look for a moment. What has no
 * session of its own (a pooler stands between) is one while its lease lasts.
 */
const sessionsStatement: Statement = {
  name: 'pgfetch_worker_sessions',
  text: `
    select
      coalesce(w.name, a.application_name) as name,
      coalesce(a.pid, w.pid) as pid
    from net.worker w
    full join (
      select s.pid, s.application_name
      from pg_catalog.pg_stat_activity s
      where s.datname = pg_catalog.current_database()
        and s.application_name like 'pg\\_net %'
        and s.pid <> pg_catalog.pg_backend_pid()
    ) a on a.pid = w.pid
    where a.pid is not null or (w.pid is null and w.lease_until > pg_catalog.clock_timestamp())
    order by 2, 1
    limit $1`,
};

/** A worker that is connected. */
export type WorkerSession = {
  readonly name: string;
  /** Null where a pooler stands between. */
  readonly pid: number | null;
};

/** Null where the workers may serve. */
export async function readPause(session: Session): Promise<Pause | null> {
  const [row] = await session.query<Row & Pause>(pauseStatement);
  return row === undefined ? null : { since: row.since, by: row.by };
}

/** Pauses the workers of this database, or lets them go on. For the owner of the schema and net_admin. */
export async function setPaused(session: Session, paused: boolean): Promise<void> {
  await session.query(setPausedStatement, [paused]);
}

/** Which workers are connected to this database, at most `sessionsMax`. */
export async function readWorkerSessions(session: Session, sessionsMax: number): Promise<readonly WorkerSession[]> {
  return await session.query<Row & { name: string; pid: number | null }>(sessionsStatement, [sessionsMax]);
}
