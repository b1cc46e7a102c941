import { reportError } from './errors.ts';
import { createProgram } from './program.ts';

/** Runs the command line of this process. */
export async function run(): Promise<void> {
  // `pgfetch sql | head` closes the pipe early, which is no failure.
  process.stdout.on('error', (error: NodeJS.ErrnoException) => process.exit(error.code === 'EPIPE' ? 0 : 1));
  process.on('uncaughtException', (error) => process.exit(reportError(error)));
  try {
    await createProgram().parseAsync(process.argv);
  } catch (error) {
    process.exitCode = reportError(error);
  }
}
