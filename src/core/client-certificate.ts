import { canonicalHost, matchesHost } from './hosts.ts';

/** A certificate that is shown to some hosts and to no other, and the key to it. */
export type ClientCertificate = {
  /** Names (`api.bank.example`), `*.bank.example` for all names below one, or IP addresses; whatever the port. */
  readonly hosts: readonly string[];
  /** In PEM: the certificate, then those between it and the authority, if any. */
  readonly cert: string;
  /** In PEM. Default: it is in `cert`. */
  readonly key?: string | undefined;
  /** What the key is encrypted with, if it is. */
  readonly passphrase?: string | undefined;
};

/** The first that is meant for the host, as `URL.hostname` writes it. */
export function certificateFor(
  host: string,
  certificates: readonly ClientCertificate[],
): ClientCertificate | undefined {
  const canonical = canonicalHost(host);
  return certificates.find(({ hosts }) => matchesHost(hosts.map(canonicalHost), canonical));
}
