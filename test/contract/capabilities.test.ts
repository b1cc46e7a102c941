import { describe, expect, test, vi } from 'vitest';
import { type Backend, type Capability, newestBackends, type Stage } from './backends.ts';

vi.setConfig({ testTimeout: 60_000 });

/** Tries what the capability is about; rejects, with what the user would read, where the backend cannot do it. */
const attempts: Readonly<Record<Capability, (stage: Stage, backend: Backend) => Promise<void>>> = {
  async severalSessions(stage) {
    const other = await stage.session();
    await stage.sql.query('begin; create table mine (n int)');
    expect(await other.query(`select to_regclass('mine') as mine`)).toEqual([{ mine: null }]);
    await stage.sql.query('rollback');
  },
  async waitingInsideAStatement(stage) {
    const id = await stage.get('/delay/0.1');
    await stage.sql.query(`select net._await_response(${id})`);
    await stage.response(id);
  },
  async roleSettingsInSessions(stage) {
    await stage.sql.query(`alter role current_user set pg_net.ttl = '1 hour'`);
    const later = await stage.session().catch(() => stage.sql);
    const [row] = await later.query<{ ttl: string }>(`select current_setting('pg_net.ttl', true) as ttl`);
    if (row?.ttl !== '1 hour') throw new Error(`in the session pg_net.ttl is ${JSON.stringify(row?.ttl)}`);
  },
  async alterSystem(stage) {
    await stage.sql.query(`alter system set pg_net.ttl = '1 hour'`);
  },
  async reload(stage) {
    // Where the server takes the name only once a session has used it, this one has.
    await stage.sql.query(`set pg_net.ttl = '2 hours'`);
    await stage.sql.query(`alter system set pg_net.ttl = '1 hour'`);
    await stage.sql.query('reset pg_net.ttl');
    const [row] = await stage.sql.query<{ reloaded: boolean }>('select pg_reload_conf() as reloaded');
    if (row?.reloaded !== true) throw new Error('pg_reload_conf() returned false');
    await stage.until(async () => {
      const [row] = await stage.sql.query<{ setting: string }>(
        `select setting from net.settings where name = 'pg_net.ttl'`,
      );
      return row?.setting === '1 hour';
    }, 'the setting is in force');
  },
  async otherEncodings(_stage, backend) {
    const latin1 = await backend.open({ encoding: 'LATIN1', worker: false });
    expect(await latin1.sql.query('show server_encoding')).toEqual([{ server_encoding: 'LATIN1' }]);
  },
  async preparedTransactions(stage) {
    await stage.sql.query(`begin; create table mine (n int)`);
    try {
      await stage.sql.query(`prepare transaction 'contract'`);
    } catch (error) {
      await stage.sql.query('rollback');
      throw error;
    }
    await stage.sql.query(`rollback prepared 'contract'`);
  },
};

describe.each(newestBackends)('$name', (backend) => {
  for (const [capability, attempt] of Object.entries(attempts)) {
    const declared = backend.capabilities[capability as Capability];
    test(`${capability}: ${declared === true ? 'can' : 'refuses clearly'}`, async () => {
      const stage = await backend.open();
      if (declared === true) {
        await attempt(stage, backend);
      } else {
        await expect(attempt(stage, backend)).rejects.toThrow(declared);
      }
      // Whatever was refused, the queue is served as before.
      await stage.response(await stage.get('/get'));
    });
  }
});
