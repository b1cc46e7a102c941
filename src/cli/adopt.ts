import { type Command, Option } from 'commander';
import { type AdoptOptions, adopt } from '../schema/adopt.ts';
import { withDatabase } from './connection.ts';
import { print, printJson } from './output.ts';

export function addAdoptCommand(program: Command): void {
  program
    .command('adopt')
    .description('let workers serve a restored copy of a database: until then nothing is sent from it')
    .addOption(
      new Option(
        '--queue <what>',
        'the requests that the original had queued: "keep" sends them from here too, "discard" deletes them',
      )
        .choices(['keep', 'discard'])
        .makeOptionMandatory(),
    )
    .option('--json', 'print the report as JSON')
    .addHelpText(
      'after',
      `
Examples:
  pgfetch adopt --queue discard               a copy for staging: production sends its requests itself
  pgfetch adopt --queue keep                  a restored backup that takes the original's place
`,
    )
    .action(async (options: AdoptOptions & { json?: boolean }, command: Command) => {
      const report = await withDatabase(command, (db) => adopt(db, { queue: options.queue }));
      if (options.json) printJson(report);
      else print(report.lines.join('\n'));
    });
}
