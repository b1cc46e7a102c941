import type { Database, Row, Session, Statement } from '../postgres/database.ts';
import { ownersError } from './errors.ts';
import {
  foreignSchema,
  inspect,
  lesserOwner,
  lockInstallation,
  noRights,
  notInstalled,
  otherVersion,
  standby,
} from './state.ts';

export type AdoptOptions = {
  /** What becomes of the requests that the original had queued: `keep` sends them from here too, `discard` deletes them. */
  readonly queue: 'keep' | 'discard';
};

export type AdoptReport = {
  readonly kind: 'adopted' | 'already_own';
  readonly database: string;
  /** Requests in the queue that will be sent from here. */
  readonly kept: number;
  /** Requests that were deleted from the queue. */
  readonly discarded: number;
  /** What was done: plain sentences. */
  readonly lines: readonly string[];
};

const discardStatement: Statement = {
  name: 'pgfetch_adopt_discard',
  text: `
    with gone as (delete from net.http_request_queue returning 1)
    select pg_catalog.count(*) as requests from gone`,
};

/** The functions of a copy beside the original are not for what came back to the original. */
const discardCallbacksStatement: Statement = {
  name: 'pgfetch_adopt_callbacks',
  text: `
    with gone as (delete from net.callbacks returning 1)
    select pg_catalog.count(*) as callbacks from gone`,
};

const countStatement: Statement = {
  name: 'pgfetch_adopt_count',
  text: 'select pg_catalog.count(*) as requests from net.http_request_queue',
};

/** The workers of the original are not here, whatever their rows say: what they had claimed is free. */
const forgetWorkersStatement: Statement = {
  name: 'pgfetch_adopt_workers',
  text: 'delete from net.worker',
};
/** Made before the copy was, by a login of the original: whoever adopts a copy wants it served. */
const endPauseStatement: Statement = {
  name: 'pgfetch_adopt_pause',
  text: 'delete from net.pause returning since',
};
const freeStatement: Statement = {
  name: 'pgfetch_adopt_free',
  text: `
    update net.http_request_queue
    set claimed_by = null, due_at = pg_catalog.clock_timestamp()
    where claimed_by is not null`,
};
const withdrawStatement: Statement = {
  name: 'pgfetch_adopt_withdraw',
  text: `select pg_catalog.setval('net.wake_promise', 1)`,
};

/**
 * Requests and responses carry the OIDs of the roles that made them. On another server the same numbers are other roles,
 * who would see what is not theirs: from here on only the owner and net_admin do. So it is with the functions that were to be
 * called back, and with idempotency keys, by which a role would be given the id of another's request.
 */
const forgetRequestersStatement: Statement = {
  name: 'pgfetch_adopt_requesters',
  text: `
    update net.http_request_queue
    set login_role = null, set_role = null, on_success = null, on_error = null
    where pg_catalog.num_nonnulls(login_role, set_role, on_success, on_error) > 0`,
};
const forgetRespondentsStatement: Statement = {
  name: 'pgfetch_adopt_responses',
  text: `
    update net._http_response
    set login_role = null, set_role = null
    where login_role is not null or set_role is not null`,
};

const forgetKeptStatement: Statement = {
  name: 'pgfetch_adopt_kept',
  text: `
    update net.kept_requests
    set login_role = null, set_role = null, on_success = null, on_error = null
    where pg_catalog.num_nonnulls(login_role, set_role, on_success, on_error) > 0`,
};

const forgetAttemptsStatement: Statement = {
  name: 'pgfetch_adopt_attempts',
  text: `
    update net.attempts
    set login_role = null, set_role = null
    where login_role is not null or set_role is not null`,
};
const forgetKeysStatement: Statement = {
  name: 'pgfetch_adopt_keys',
  text: 'with turns as (delete from net.ordering_keys) delete from net.idempotency_keys',
};

const identifyStatement: Statement = {
  name: 'pgfetch_adopt_identify',
  text: `
    update net.installation i
    set system_identifier = coalesce(now.system_identifier, i.system_identifier), database_oid = now.oid
    from (
      select net._system_identifier() as system_identifier, d.oid, o.system_identifier as old_identifier
      from pg_catalog.pg_database d, net.installation o
      where d.datname = pg_catalog.current_database()
    ) now
    returning now.system_identifier is distinct from now.old_identifier as other_server`,
};

/**
 * Makes a restored copy of a database an installation of its own, so that workers send from it. One transaction. Does
 * nothing where the installation is this server's already.
 *
 * @throws {@link SchemaError} where nothing of ours is installed, or the role does not own it.
 */
export async function adopt(db: Database, options: AdoptOptions): Promise<AdoptReport> {
  return await db.transaction(async (session) => {
    await lockInstallation(session);
    const found = await inspect(session);
    const { database } = found;
    switch (found.kind) {
      case 'missing':
        throw notInstalled(database);
      case 'foreign':
        throw foreignSchema();
      case 'other_version':
        throw otherVersion(found);
      case 'standby':
        throw standby(database);
      case 'lesser_owner':
        throw lesserOwner(found);
      case 'no_rights':
        throw noRights(database, found.role, found.message);
      case 'ready':
        return {
          kind: 'already_own',
          database,
          kept: 0,
          discarded: 0,
          lines: [`Database ${JSON.stringify(database)} is where pgfetch was installed; nothing was changed.`],
        };
      case 'copy':
        return await adoptCopy(session, database, options);
    }
  });
}

async function adoptCopy(session: Session, database: string, options: AdoptOptions): Promise<AdoptReport> {
  try {
    const otherServer =
      (await session.query<Row & { other_server: boolean }>(identifyStatement))[0]?.other_server === true;
    await session.query(forgetWorkersStatement);
    await session.query(withdrawStatement);
    const wasPaused = (await session.query(endPauseStatement)).length > 0;
    const requests = await countOf(session, options.queue === 'discard' ? discardStatement : countStatement);
    await session.query(freeStatement);
    let uncalled = 0;
    if (otherServer || options.queue === 'discard') {
      const [row] = await session.query<Row & { callbacks: bigint }>(discardCallbacksStatement);
      uncalled = Number(row?.callbacks ?? 0n);
    }
    if (otherServer) {
      await session.query(forgetRequestersStatement);
      await session.query(forgetRespondentsStatement);
      await session.query(forgetKeptStatement);
      await session.query(forgetAttemptsStatement);
      await session.query(forgetKeysStatement);
    }
    const discarded = options.queue === 'discard' ? requests : 0;
    const lines = [
      `Database ${JSON.stringify(database)} is an installation of its own now: workers send from it.`,
      options.queue === 'discard'
        ? `Deleted from the queue, not to be sent from here: ${discarded} request${discarded === 1 ? '' : 's'} of the original.`
        : `Kept in the queue, to be sent from here: ${requests} request${requests === 1 ? '' : 's'} of the original.`,
    ];
    if (uncalled > 0) {
      lines.push(
        `Deleted, not to be called from here: ${uncalled} callback${uncalled === 1 ? '' : 's'} of the original.`,
      );
    }
    if (wasPaused) {
      lines.push('The pause that was copied along is ended.');
    }
    if (otherServer) {
      lines.push('What it holds was requested by roles of another server: only the owner and net_admin see it here.');
    }
    return { kind: 'adopted', database, kept: requests - discarded, discarded, lines };
  } catch (error) {
    throw ownersError(error);
  }
}

async function countOf(session: Session, statement: Statement): Promise<number> {
  const [row] = await session.query<Row & { requests: bigint }>(statement);
  return Number(row?.requests ?? 0n);
}
