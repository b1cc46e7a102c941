import { execFileSync, spawnSync } from 'node:child_process';
import { EmbeddedServerError } from './errors.ts';

/** The operating system account that PostgreSQL runs under, where that is not our own. */
export type Account = {
  readonly name: string;
  readonly uid: number;
  readonly gid: number;
};

/** PostgreSQL refuses to run as root; these accounts are tried in turn (`_postgres` is what macOS calls it). */
const accountNames = ['postgres', '_postgres', 'nobody'] as const;

/**
 * The account to run the server as: undefined means our own. Only root needs another one, because PostgreSQL refuses
 * to run as root. An existing cluster keeps the account it belongs to.
 */
export function serverAccount(dataDirectoryOwner: number | undefined): Account | undefined {
  if (process.getuid?.() !== 0) return undefined;
  if (dataDirectoryOwner !== undefined && dataDirectoryOwner !== 0) {
    const owner = lookUp(String(dataDirectoryOwner));
    if (owner !== undefined) return owner;
  }
  for (const name of accountNames) {
    const account = lookUp(name);
    if (account !== undefined && account.uid !== 0) return account;
  }
  throw new EmbeddedServerError(
    'PostgreSQL refuses to run as root, and this system has neither a user "postgres" nor a user "nobody" to run it as. ' +
      'Run pgfetch as an ordinary user, or add one with: useradd --system postgres',
  );
}

/**
 * Whether the account can enter `directory`, parents included. Asks the kernel by trying, because mode bits do not tell
 * about access lists and network file systems.
 */
export function canEnter(directory: string, account: Account): boolean {
  const result = spawnSync('/bin/sh', ['-c', 'cd -- "$0"', directory], {
    cwd: '/',
    uid: account.uid,
    gid: account.gid,
    stdio: 'ignore',
  });
  if (result.error !== undefined) {
    throw new EmbeddedServerError(
      `PostgreSQL refuses to run as root, and running it as the user "${account.name}" is not permitted here ` +
        `(${result.error.message}). Run pgfetch as an ordinary user.`,
      { cause: result.error },
    );
  }
  return result.status === 0;
}

/** Asks `id`, which knows every user database (passwd, LDAP, macOS's directory services); Node.js has no call for it. */
function lookUp(nameOrUid: string): Account | undefined {
  const ask = (what: string): string =>
    execFileSync('id', [what, nameOrUid], { encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] }).trim();
  try {
    return { name: ask('-un'), uid: Number(ask('-u')), gid: Number(ask('-g')) };
  } catch {
    return undefined;
  }
}
