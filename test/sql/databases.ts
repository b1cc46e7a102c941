import pg from 'pg';
import { onTestFinished } from 'vitest';
import type { Database } from '../../src/postgres/database.ts';
import { connectPg } from '../../src/postgres/pg.ts';
import { extensionFiles } from '../../src/schema/scripts.ts';
import { createDatabase, startTestPostgres, type TestMajor, type TestServer } from '../support/servers.ts';

/** A database to install into, and the logins that try it. All of it is gone when the test ends. */
export type Site = {
  readonly server: TestServer;
  readonly url: string;
  readonly name: string;
  /** A session of ours, as the CLI opens one; by default the superuser's. */
  open(user?: string): Promise<Database>;
  /** Runs SQL as a user would; by default as the superuser. Returns the rows of the last statement, int8 as numbers. */
  sql(text: string, user?: string): Promise<Record<string, unknown>[]>;
};

/**
 * A fresh database on a server that this test file has to itself: the server's roles are the tests' own, and none of ours
 * is there. The extension's files show the settings in `pg_settings`, as in the embedded server, unless told otherwise.
 */
export async function openSite(major: TestMajor, showSettings = true): Promise<Site> {
  const server = await startTestPostgres({
    major,
    extensionFiles: await extensionFiles({ showSettings }),
    settings: { 'pgfetch_test.name': 'schema' },
  });
  // Registered first, so it runs last: when the test's databases are gone.
  onTestFinished(async () => {
    await siteOf(server, server.connectionString, 'postgres').sql(dropTestRoles);
  });
  return await openDatabase(server);
}

const dropTestRoles = `
  do $$
  declare
    role_name text;
  begin
    for role_name in select rolname from pg_roles where rolname ~ '^(net|test)_' loop
      execute format('drop owned by %I', role_name);
      execute format('drop role %I', role_name);
    end loop;
  end
  $$`;

/** A fresh database on that server. */
export async function openDatabase(server: TestServer): Promise<Site> {
  const database = await createDatabase(server);
  onTestFinished(() => database.drop());
  return siteOf(server, database.url, database.name);
}

/** The same for a database that is there already. */
export function siteOf(server: TestServer, url: string, name: string): Site {
  return {
    server,
    url,
    name,
    async open(user) {
      const db = await connectPg({
        connectionString: url,
        applicationName: 'pgfetch install test',
        connectTimeoutMs: 10_000,
        ...(user === undefined ? {} : { user }),
      });
      onTestFinished(() => db.close());
      return db;
    },
    async sql(text, user) {
      // The connection string wins over the option `user`, so the name goes into it.
      const address = new URL(url);
      if (user !== undefined) address.username = user;
      const client = new pg.Client({
        connectionString: address.href,
        types: {
          getTypeParser: (oid: number, format?: 'text' | 'binary') =>
            oid === pg.types.builtins.INT8 ? Number : pg.types.getTypeParser(oid, format as 'text'),
        },
      });
      await client.connect();
      try {
        const results: pg.QueryResult | pg.QueryResult[] = await client.query(text);
        return (Array.isArray(results) ? results.at(-1) : results)?.rows ?? [];
      } finally {
        await client.end();
      }
    },
  };
}

/** Names of everything that an installation could leave behind, and how `pg_settings` is defined. */
export async function catalog(site: Site): Promise<Record<string, unknown>> {
  const [row = {}] = await site.sql(`
    select
      (select array_agg(format('%s.%s %s %s', n.nspname, c.relname, c.relkind, c.relacl))
        from pg_class c join pg_namespace n on n.oid = c.relnamespace) as classes,
      (select array_agg(format('%s %s', p.oid::regprocedure, p.proacl)) from pg_proc p) as functions,
      (select array_agg(t.oid::regtype::text) from pg_type t) as types,
      (select array_agg(format('%s %s', n.nspname, n.nspacl)) from pg_namespace n where n.nspname !~ '^pg_(toast_)?temp') as namespaces,
      (select array_agg(r.rolname::text) from pg_roles r) as roles,
      (select array_agg(s::text) from pg_db_role_setting s) as settings,
      (select array_agg(e.extname::text) from pg_extension e) as extensions,
      (select array_agg(p.polname::text) from pg_policy p) as policies,
      (select count(*) from pg_depend) as dependencies,
      (select count(*) from pg_shdepend d where d.dbid in (0, (select oid from pg_database where datname = current_database()))) as shared_dependencies,
      (select count(*) from pg_description) as comments,
      (select count(*) from pg_shdescription) as shared_comments,
      (select count(*) from pg_init_privs) as initial_rights,
      pg_get_viewdef('pg_settings'::regclass) as settings_view,
      (select array_agg(name) from pg_settings where name like 'pg_net%') as settings_shown`);
  return Object.fromEntries(
    Object.entries(row).map(([name, value]) => [name, Array.isArray(value) ? value.map(String).sort() : value]),
  );
}
