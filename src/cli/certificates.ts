import { readFileSync } from 'node:fs';
import tls from 'node:tls';
import type { WorkerOptions } from '../config/worker-config.ts';
import { UsageError } from './errors.ts';

/** The values of --ca and --client-cert, as often as each was given. */
export type CertificateFlags = {
  readonly ca?: readonly string[];
  readonly clientCert?: readonly string[];
};

/** Where the passphrase of encrypted keys is looked for: a command line is no place for secrets. */
export const passphraseVariable = 'PGFETCH_CLIENT_KEY_PASSPHRASE';

/** Reads the files that they name. */
export function readCertificates({
  ca = [],
  clientCert = [],
}: CertificateFlags): Pick<WorkerOptions, 'ca' | 'clientCertificates'> {
  const passphrase = process.env[passphraseVariable] || undefined;
  return {
    ca: [...ca.map((file) => contentsOf(file, '--ca')), ...extraAuthorities(ca)],
    clientCertificates: clientCert.map((given) => {
      const { host, files } = parted(given);
      const [cert = '', key] = files.map((file) => contentsOf(file, '--client-cert'));
      return { hosts: [host], cert, key, passphrase };
    }),
  };
}

/** `HOST=CERT` or `HOST=CERT,KEY`. */
function parted(given: string): { host: string; files: readonly string[] } {
  const [, host = '', list = ''] = /^([^=]+)=(.+)$/.exec(given) ?? [];
  const files = list.split(',');
  if (host === '' || files.length > 2 || files.includes('')) {
    throw new UsageError(
      `--client-cert ${JSON.stringify(given)} must be HOST=CERT.pem,KEY.pem, or HOST=BOTH.pem where one file has both`,
    );
  }
  return { host, files };
}

/** Node.js before 22.15 does not tell what NODE_EXTRA_CA_CERTS names, and trusts only those that it is told to where it is told any. */
function extraAuthorities(ca: readonly string[]): readonly string[] {
  const file = process.env['NODE_EXTRA_CA_CERTS'] ?? '';
  return ca.length === 0 || file === '' || 'getCACertificates' in tls ? [] : [contentsOf(file, 'NODE_EXTRA_CA_CERTS')];
}

function contentsOf(file: string, given: string): string {
  try {
    return readFileSync(file, 'utf8');
  } catch (error) {
    throw new UsageError(`${given}: cannot read ${JSON.stringify(file)}: ${reasonOf(error)}`);
  }
}

function reasonOf(error: unknown): string {
  const { code = '', message } = error as NodeJS.ErrnoException;
  const reasons: Readonly<Record<string, string>> = {
    ENOENT: 'there is no such file',
    EACCES: 'permission denied',
    EISDIR: 'it is a directory',
  };
  return reasons[code] ?? message;
}
