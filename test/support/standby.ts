import { spawnSync } from 'node:child_process';
import { appendFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { startEmbeddedPostgres } from '../../src/embedded/postgres.ts';
import { type TestMajor, type TestServer, temporaryDirectory, testNativeDirectory } from './servers.ts';

/**
 * Starts a streaming standby of a server of ours: a copy of its data directory, made while it is stopped for a moment (the
 * embedded binaries have no pg_basebackup). Stop it before the primary's file ends. Not on Windows, which has no `cp -a`.
 */
export async function startStandby(primary: TestServer, major: TestMajor): Promise<TestServer> {
  const directory = temporaryDirectory(`standby-${major}`);
  const dataDirectory = join(directory, `postgres-${major}`);
  await primary.stop('fast');
  const copy = spawnSync('cp', ['-a', primary.dataDirectory, dataDirectory], { encoding: 'utf8' });
  await primary.restart();
  if (copy.status !== 0) throw new Error(`the data directory cannot be copied: ${copy.stderr}`);
  rmSync(join(dataDirectory, 'postmaster.pid'), { force: true });
  appendFileSync(
    join(dataDirectory, 'postgresql.auto.conf'),
    `primary_conninfo = 'host=127.0.0.1 port=${primary.port} user=postgres application_name=standby'\n`,
  );
  writeFileSync(join(dataDirectory, 'standby.signal'), '');
  return await startEmbeddedPostgres({
    directory,
    nativeDirectory: testNativeDirectory(major),
    durable: false,
  });
}
