import type { Command } from 'commander';
import { type Grants, sqlForMigration } from '../schema/scripts.ts';
import { grantsOption } from './install.ts';
import { print } from './output.ts';

export function addSqlCommand(program: Command): void {
  program
    .command('sql')
    .description('print the SQL that install would run, for a migration; connects to nothing')
    .option('--no-transaction', 'leave out BEGIN and COMMIT, for tools that run each migration in a transaction')
    .option('--show-settings', 'also make pg_settings show pg_net.%; changes a system view, so it takes a superuser')
    .addOption(grantsOption())
    .configureHelp({ showGlobalOptions: false })
    .addHelpText(
      'after',
      `
Examples:
  pgfetch sql | psql -v ON_ERROR_STOP=1 "$DATABASE_URL"
  pgfetch sql --no-transaction > migrations/20260101_pgfetch.sql
`,
    )
    .action(async (options: { transaction: boolean; showSettings?: boolean; grants?: Grants }) => {
      print((await sqlForMigration(options)).trimEnd());
    });
}
