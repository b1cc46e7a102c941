import type { Command } from 'commander';
import { startEchoServer } from '../embedded/echo.ts';
import { port } from './arguments.ts';
import { withPortOption } from './errors.ts';
import { print, printable } from './output.ts';
import { redactUrl } from './redact.ts';
import { untilStopSignal } from './signals.ts';

/** Of the ports that no well-known service claims, below those that operating systems give to outgoing connections. */
export const defaultEchoPort = 26_480;

export function addEchoCommand(program: Command): void {
  program
    .command('echo')
    .description('run an HTTP server that answers with what it was sent, for trying out requests')
    .option('-p, --port <port>', 'port on 127.0.0.1; 0: any free one', port, defaultEchoPort)
    .option('--quiet', 'do not print the requests')
    .configureHelp({ showGlobalOptions: false })
    .addHelpText(
      'after',
      `
Routes: /get /post /put /patch /delete /headers /status/:code /delay/:seconds /redirect/:n /bytes/:n; any other path echoes too.

Examples:
  pgfetch echo
  pgfetch echo --port 0                       on any free port, which is printed
  curl -d '{"a": 1}' http://127.0.0.1:${defaultEchoPort}/post
`,
    )
    .action(async (options: { port: number; quiet?: boolean }) => {
      const stop = untilStopSignal();
      const server = await startEchoServer({
        port: options.port,
        ...(options.quiet === true ? {} : { onRequest: ({ method, path }) => print(`${method} ${shownPath(path)}`) }),
      }).catch((error: unknown) => {
        throw withPortOption(error, '--port');
      });
      print(`Echo server: ${server.url} (Ctrl-C stops it)`);
      await stop.signal;
      await server.close();
      stop.ignore();
    });
}

/** Paths may carry secrets in their queries, and this is a log. */
function shownPath(path: string): string {
  return printable(path.startsWith('/') ? redactUrl(`http://localhost${path}`).slice('http://localhost'.length) : path);
}
