import type { Command } from 'commander';
import { install } from '../schema/install.ts';
import { withDatabase } from './connection.ts';
import { print, printJson } from './output.ts';

export function addInstallCommand(program: Command): void {
  program
    .command('install')
    .description(
      'install the schema "net" into a database: one transaction, safe to repeat, takes over nothing of yours',
    )
    .option('--show-settings', 'also make pg_settings show pg_net.%; changes a system view, so it takes a superuser')
    .option('--durable', 'also make the queue and the responses survive a crash of the server: logged tables, more WAL')
    .option('--json', 'print the report as JSON')
    .addHelpText(
      'after',
      `
Examples:
  pgfetch install -d postgres://app@localhost/app
  DATABASE_URL=postgres://app@localhost/app pgfetch install
  pgfetch install --durable                   requests survive a crash of the server
  pgfetch install --show-settings             as a superuser, for tools that read pg_settings

The role that installs owns the schema. To print the SQL instead, for a migration: pgfetch sql
`,
    )
    .action(async (options: { showSettings?: boolean; durable?: boolean; json?: boolean }, command: Command) => {
      const { showSettings = false, durable = false } = options;
      const report = await withDatabase(command, (db) => install(db, { showSettings, durable }));
      if (options.json) printJson(report);
      else print(report.lines.join('\n'));
    });
}
