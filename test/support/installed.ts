import { connectPg } from '../../src/postgres/pg.ts';
import { installScript } from '../../src/schema/scripts.ts';
import { createDatabase, type TestServer } from './servers.ts';

/** A fresh database with pgfetch installed as plain SQL. */
export async function installedDatabase(
  server: TestServer,
): Promise<{ url: string; name: string; drop(): Promise<void> }> {
  const database = await createDatabase(server);
  const db = await connectPg({
    connectionString: database.url,
    applicationName: 'pgfetch test install',
    connectTimeoutMs: 10_000,
  });
  try {
    await db.execute(await installScript({}));
  } finally {
    await db.close();
  }
  return database;
}
