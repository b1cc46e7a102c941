import { statSync } from 'node:fs';
import { join } from 'node:path';
import type { WorkerOptions } from '../config/worker-config.ts';
import { secretDirectory } from '../secrets/directory.ts';
import { createSecrets } from '../secrets/secrets.ts';
import type { WorkerLog } from '../worker/parts.ts';
import { list } from './arguments.ts';
import { UsageError } from './errors.ts';

/** The values of --secret, as often as it was given, and of --secrets-dir. */
export type SecretFlags = {
  readonly secret?: readonly string[];
  readonly secretsDir?: string;
};

/** What they declare. The values are in the files of the directory or else in variables, and are read when they are needed. */
export function readSecrets({
  secret = [],
  secretsDir,
}: SecretFlags): Required<Pick<WorkerOptions, 'secrets' | 'secretSource'>> {
  const declared = secret.map(parted);
  const names = declared.map(({ name }) => name);
  const repeated = names.find((name, index) => names.indexOf(name) < index);
  if (repeated !== undefined) throw new UsageError(`--secret ${JSON.stringify(repeated)} is declared twice.`);
  const variables = names.map(variableOf);
  const shared = variables.find((variable, index) => variables.indexOf(variable) < index);
  if (shared !== undefined) throw new UsageError(`--secret: two of the names have the same variable, ${shared}.`);
  if (secretsDir !== undefined && statSync(secretsDir, { throwIfNoEntry: false })?.isDirectory() !== true) {
    throw new UsageError(`--secrets-dir: there is no directory ${JSON.stringify(secretsDir)}.`);
  }
  const directory = secretsDir === undefined ? undefined : secretDirectory(secretsDir);
  return {
    secrets: Object.fromEntries(declared.map(({ name, hosts, roles }) => [name, { hosts, roles }])),
    secretSource: { read: async (name) => (await directory?.read(name)) ?? process.env[variableOf(name)] },
  };
}

/** Says which declared secrets cannot be used as things are; requests that refer to one fail until they can. */
export async function logSecretProblems(flags: SecretFlags, log: WorkerLog): Promise<void> {
  const { secrets, secretSource } = readSecrets(flags);
  if (flags.secretsDir !== undefined && Object.keys(secrets).length === 0) {
    log.warn(
      {},
      '--secrets-dir is given and no --secret: no request may use what is there; say where each may be sent and for whom, such as --secret stripe=api.stripe.com@billing',
    );
  }
  for (const { name, problem } of await createSecrets({ bindings: secrets, source: secretSource }).problems()) {
    const { secretsDir } = flags;
    const places = [...(secretsDir === undefined ? [] : [join(secretsDir, name)]), `$${variableOf(name)}`];
    log.warn({ secret: name }, `the secret "${name}" ${problem}; it is read from ${places.join(', else from ')}`);
  }
}

function variableOf(name: string): string {
  return `PGFETCH_SECRET_${name.toUpperCase().replaceAll('-', '_')}`;
}

/** `NAME=HOST,HOST@ROLE,ROLE` */
function parted(given: string): { name: string; hosts: readonly string[]; roles: readonly string[] } {
  const [, name = '', hosts = '', roles = ''] = /^([^=]+)=([^@]+)@(.+)$/.exec(given) ?? [];
  if (name === '') {
    // Not quoted: it may hold the value, where it does not belong.
    const [, begun] = /^([a-z][a-z0-9_-]{0,62})=/.exec(given) ?? [];
    throw new UsageError(
      `--secret${begun === undefined ? '' : ` "${begun}"`} must be NAME=HOSTS@ROLES, such as stripe=api.stripe.com@billing: the hosts that it may be sent to and the roles that may use it, separated by commas; "public" is every role. Its value does not belong there, but into a file or a variable (--help).`,
    );
  }
  return { name, hosts: list(hosts), roles: list(roles) };
}
