import type { Command } from 'commander';
import { uninstall } from '../schema/uninstall.ts';
import { withDatabase } from './connection.ts';
import { print, printJson } from './output.ts';

export function addUninstallCommand(program: Command): void {
  program
    .command('uninstall')
    .description('remove the schema "net" with its requests and responses, and leave nothing behind')
    .option('--cascade', 'also drop what of yours depends on it (views, triggers, functions)')
    .option('--json', 'print the report as JSON')
    .addHelpText(
      'after',
      `
Examples:
  pgfetch uninstall -d postgres://app@localhost/app
  pgfetch uninstall --cascade                 without it, the command refuses and lists what depends on the schema
`,
    )
    .action(async (options: { cascade?: boolean; json?: boolean }, command: Command) => {
      const report = await withDatabase(command, (db) => uninstall(db, { cascade: options.cascade === true }));
      if (options.json) printJson(report);
      else print(report.lines.join('\n'));
    });
}
