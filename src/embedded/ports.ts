import { randomInt } from 'node:crypto';
import { createServer } from 'node:net';
import { EmbeddedServerError, errorCode, errorText } from './errors.ts';

/**
 * Where free ports are looked for: below what operating systems hand out to outgoing connections (Linux from 32768, macOS and
 * Windows from 49152). From that range a client that keeps dialling a stopped server's port can be given that very
 * port as its own, and then holds it against the server's restart.
 */
const portsFrom = 20_000;
const portsTo = 32_768;
const attemptsMax = 100;

/** Returns `wanted` if a server can listen there on 127.0.0.1, and for 0 a port that is free now. */
export async function choosePort(wanted: number): Promise<number> {
  if (!Number.isInteger(wanted) || wanted < 0 || wanted > 65_535) {
    throw new EmbeddedServerError(`A port is a whole number from 1 to 65535, or 0 for any free one, not ${wanted}.`);
  }
  if (wanted !== 0) {
    const problem = await listenProblem(wanted);
    if (problem !== undefined) throw portError(wanted, problem);
    return wanted;
  }
  for (let attempt = 0; attempt < attemptsMax; attempt += 1) {
    const port = randomInt(portsFrom, portsTo);
    if ((await listenProblem(port)) === undefined) return port;
  }
  throw new EmbeddedServerError(
    `No free TCP port was found on 127.0.0.1 in ${attemptsMax} attempts between ${portsFrom} and ${portsTo}. Name one that is free.`,
  );
}

/** Says why a server cannot listen on a port, and what to do. */
export function portError(port: number, problem: unknown, host: string = '127.0.0.1'): EmbeddedServerError {
  const text = `Port ${port} on ${host}`;
  const otherPort = 'choose another port, or 0 for any free one';
  switch (errorCode(problem)) {
    case 'EADDRINUSE':
      return new EmbeddedServerError(`${text} is taken by another program. Stop that program, ${otherPort}.`, {
        cause: problem,
      });
    case 'EACCES':
      return new EmbeddedServerError(
        `${text} may not be used by this user; ports below 1024 often need root. Please ${otherPort}.`,
        { cause: problem },
      );
    default:
      return new EmbeddedServerError(`${text} cannot be used (${errorText(problem)}). Please ${otherPort}.`, {
        cause: problem,
      });
  }
}

function listenProblem(port: number): Promise<Error | undefined> {
  return new Promise((resolve) => {
    const probe = createServer();
    probe.once('error', resolve);
    probe.listen({ port, host: '127.0.0.1', exclusive: true }, () => {
      probe.close(() => resolve(undefined));
    });
  });
}
