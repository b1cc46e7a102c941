import { type Command, InvalidArgumentError } from 'commander';
import { cancel } from '../store/cancel.ts';
import { withDatabase } from './connection.ts';
import { requireReadable } from './installation.ts';
import { print, printJson } from './output.ts';

const meanings: Readonly<Record<string, string>> = {
  cancelled: 'is cancelled: it will not be sent (again)',
  cancelling: 'is being sent, and its worker gives it up: whether the server has seen it is not known',
  finished: 'is finished; nothing was changed',
};

export function addCancelCommand(program: Command): void {
  program
    .command('cancel')
    .description('cancel a request that waits, is scheduled, is to be tried again, or is being sent')
    .argument('<id>', 'the id of the request', requestId)
    .option('--json', 'print the outcome as JSON')
    .addHelpText(
      'after',
      `
For the role that made the request, the schema's owner, or net_admin. The same as select net.cancel(id).

Examples:
  pgfetch cancel 4711 -d postgres://localhost/app
`,
    )
    .action(async (id: bigint, options: { json?: boolean }, command: Command) => {
      await withDatabase(command, async (db) => {
        await requireReadable(db);
        const outcome = await cancel(db, id);
        if (options.json) {
          printJson({ id: Number(id), outcome });
        } else {
          print(`Request ${id} ${meanings[outcome] ?? `is ${outcome}`}.`);
        }
      });
    });
}

function requestId(text: string): bigint {
  if (!/^\d{1,18}$/.test(text)) {
    throw new InvalidArgumentError('It must be the id of a request, a whole number.');
  }
  return BigInt(text);
}
