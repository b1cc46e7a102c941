import { type Command, Option } from 'commander';
import { install } from '../schema/install.ts';
import { type Grants, grantsProfiles } from '../schema/scripts.ts';
import { withDatabase } from './connection.ts';
import { print, printJson } from './output.ts';

type InstallFlags = {
  readonly showSettings?: boolean;
  readonly durable?: boolean;
  readonly grants?: Grants;
  readonly json?: boolean;
};

export function addInstallCommand(program: Command): void {
  program
    .command('install')
    .description(
      'install the schema "net" into a database: one transaction, safe to repeat, takes over nothing of yours',
    )
    .option('--show-settings', 'also make pg_settings show pg_net.%; changes a system view, so it takes a superuser')
    .option('--durable', 'also make the queue and the responses survive a crash of the server: logged tables, more WAL')
    .addOption(grantsOption())
    .option('--json', 'print the report as JSON')
    .addHelpText(
      'after',
      `
Examples:
  pgfetch install -d postgres://app@localhost/app
  DATABASE_URL=postgres://app@localhost/app pgfetch install
  pgfetch install --grants members            only members of the role net_user may enqueue
  pgfetch install --durable                   requests survive a crash of the server
  pgfetch install --show-settings             as a superuser, for tools that read pg_settings

The role that installs owns the schema. To print the SQL instead, for a migration: pgfetch sql
`,
    )
    .action(async ({ json, ...options }: InstallFlags, command: Command) => {
      const report = await withDatabase(command, (db) => install(db, options));
      if (json) printJson(report);
      else print(report.lines.join('\n'));
    });
}

/** Without it an installation keeps what it has. */
export function grantsOption(): Option {
  return new Option(
    '--grants <profile>',
    'who may enqueue: every role (public), members of net_user (members), or whom you grant it to (none)',
  ).choices(grantsProfiles);
}
