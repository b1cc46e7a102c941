import { readdir, readFile } from 'node:fs/promises';

/**
 * Who may enqueue. `public`: every role. `members`: the members of the role `net_user`. `none`: only the owner of the
 * schema, and whom the owner grants it to. Whoever may sees its own requests (without headers and body) and responses.
 */
export type Grants = 'public' | 'members' | 'none';

export const grantsProfiles: readonly Grants[] = Object.freeze(['public', 'members', 'none']);

/** What the install scripts do beyond the schema. */
export type ScriptOptions = {
  /**
   * Also make `pg_settings` show pg_net's settings. This changes the rule of a system view, so only a superuser can run
   * the script. Default false; `net.settings` shows them everywhere.
   */
  readonly showSettings?: boolean;
};

export type MigrationOptions = ScriptOptions & {
  /** Default `public`: every role may enqueue. */
  readonly grants?: Grants;
  /** Default true: the script brings its own BEGIN and COMMIT. False for a tool that runs a migration in its own transaction. */
  readonly transaction?: boolean;
};

const packageRoot = new URL('../../', import.meta.url);
const sqlDirectory = new URL('sql/', packageRoot);

/** The version of this package, which is the version of the schema that it installs. */
export async function packageVersion(): Promise<string> {
  const manifest: unknown = JSON.parse(await readFile(new URL('package.json', packageRoot), 'utf8'));
  if (
    typeof manifest === 'object' &&
    manifest !== null &&
    'version' in manifest &&
    typeof manifest.version === 'string'
  ) {
    return manifest.version;
  }
  throw new Error('package.json has no version');
}

/**
 * The whole schema `net`, to be run once in one transaction (it sets search_path for the rest of it). Raises where a
 * schema `net` exists.
 */
export async function installScript(options: ScriptOptions = {}): Promise<string> {
  return `set local search_path = pg_catalog, pg_temp;\n\n${await topics(options)}`;
}

/** What `pgfetch sql` prints: {@link installScript} for psql or a migration tool. Leaves the session's search_path as it was. */
export async function sqlForMigration(options: MigrationOptions = {}): Promise<string> {
  const header = [
    `-- pgfetch ${await packageVersion()}: the schema "net" (asynchronous HTTP from SQL, with the API of pg_net).`,
    '-- Written by: pgfetch sql. Run it once per database, as the role that is to own the schema: it needs CREATE on the',
    '-- database, and CREATEROLE for the roles net_admin, net_worker and net_callback.',
  ];
  const narrow = grantsScripts[options.grants ?? 'public'];
  if (options.transaction === false) {
    header.push('-- To be run in one transaction, as migration tools do by themselves.');
    return `${header.join('\n')}\n\n${rememberSearchPath}\n${await topics(options)}\n${narrow}${restoreSearchPath}`;
  }
  return `${header.join('\n')}\n\nbegin;\n\n${await installScript(options)}\n${narrow}commit;\n`;
}

/** The schema comes with the rights of `public`. Within DO: a migration tool may not expect rows. */
const grantsScripts: Readonly<Record<Grants, string>> = Object.freeze({
  public: '',
  members: "do $$ begin perform net.set_grants('members'); end $$;\n\n",
  none: "do $$ begin perform net.set_grants('none'); end $$;\n\n",
});

/** The files of the extension `pg_net`, by name, for the server's `share/postgresql/extension`. */
export async function extensionFiles(options: ScriptOptions = {}): Promise<Record<string, string>> {
  const version = await packageVersion();
  return {
    'pg_net.control': [
      `comment = 'Asynchronous HTTP from SQL (pgfetch)'`,
      `default_version = '${version}'`,
      'relocatable = false',
      'superuser = false',
      'trusted = false',
      '',
    ].join('\n'),
    [`pg_net--${version}.sql`]: [
      '\\echo Use "CREATE EXTENSION pg_net" to load this file. \\quit',
      '',
      await installScript(options),
      await sqlFile('optional/extension_dump.sql'),
    ].join('\n'),
  };
}

async function topics(options: ScriptOptions): Promise<string> {
  const names = (await readdir(sqlDirectory)).filter((name) => /^\d{3}_.*\.sql$/.test(name)).sort();
  if (options.showSettings === true) {
    names.push('optional/show_settings.sql');
  }
  const texts = await Promise.all(names.map((name) => sqlFile(name)));
  return texts.join('\n');
}

/** A file of the package's `sql/` directory. */
export function sqlFile(name: string): Promise<string> {
  return readFile(new URL(name, sqlDirectory), 'utf8');
}

// SET LOCAL would reach into what the tool runs after us in the same transaction, or do nothing where there is none.
const rememberSearchPath = `do $$
begin
  perform pg_catalog.set_config('pgfetch.search_path', pg_catalog.current_setting('search_path'), false);
  perform pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', false);
end
$$;
`;
const restoreSearchPath = `do $$
begin
  perform pg_catalog.set_config('search_path', pg_catalog.current_setting('pgfetch.search_path'), false);
end
$$;
`;
