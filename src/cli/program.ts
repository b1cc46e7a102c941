import { Command } from 'commander';
import { version } from '../config/version.ts';
import { addAdoptCommand } from './adopt.ts';
import { collect } from './arguments.ts';
import { addCancelCommand } from './cancel.ts';
import { addDevCommand } from './dev.ts';
import { addDoctorCommand } from './doctor.ts';
import { addEchoCommand } from './echo.ts';
import { addInstallCommand } from './install.ts';
import { addPauseCommand, addResumeCommand } from './pause.ts';
import { addRedeliverCommand } from './redeliver.ts';
import { addSqlCommand } from './sql.ts';
import { addStatusCommand } from './status.ts';
import { addUninstallCommand } from './uninstall.ts';
import { addWorkerCommand } from './worker.ts';

/** The command line `pgfetch`. Parsing throws for whatever goes wrong; main.ts reports it. */
export function createProgram(): Command {
  const program = new Command('pgfetch')
    .description('Asynchronous HTTP from SQL: a transaction enqueues, the worker sends, the response is a row.')
    .version(version, '-V, --version', 'print the version')
    .helpOption('-h, --help', 'print help, with examples')
    .helpCommand('help [command]', 'print help for a command')
    .option(
      '-d, --database-url <url>',
      'postgres://user:password@host:5432/database; default: $DATABASE_URL, else $PGHOST, $PGPORT, $PGUSER, $PGPASSWORD, $PGDATABASE, $PGSSLMODE (worker: repeatable)',
      collect,
    )
    .configureHelp({ showGlobalOptions: true })
    // Before the commands are added: they take it over.
    .exitOverride()
    .configureOutput({ outputError: () => {} })
    .addHelpText(
      'after',
      `
Examples:
  pgfetch dev                                 try it: a PostgreSQL server, a worker and an echo server
  pgfetch install -d postgres://localhost/app install the schema "net" into a database
  pgfetch worker                              serve the database that $DATABASE_URL names
  pgfetch doctor                              look for what is wrong, and what to do about it
`,
    );
  for (const add of [
    addDevCommand,
    addInstallCommand,
    addWorkerCommand,
    addStatusCommand,
    addDoctorCommand,
    addCancelCommand,
    addPauseCommand,
    addResumeCommand,
    addRedeliverCommand,
    addSqlCommand,
    addAdoptCommand,
    addUninstallCommand,
    addEchoCommand,
  ]) {
    add(program);
  }
  return program;
}
