import { createPrivateKey, type KeyObject, X509Certificate } from 'node:crypto';
import { createSecureContext } from 'node:tls';
import { z } from 'zod';
import type { ClientCertificate } from '../core/client-certificate.ts';
import { canonicalHost, isHostPattern } from '../core/hosts.ts';

const certificatesMax = 100;
const hostsMax = 1_000;

// What is wrong with a text is said without quoting it: there may be a key in it, whatever was expected.
const pem = z.string({ error: 'must be a text in PEM' });

/** The option `ca`. Written anew: of a text that is not quite PEM, Node.js would take the beginning and say nothing. */
export const authorities: z.ZodType<string[]> = z
  .array(
    pem.transform((text, context) => {
      const certificates = certificatesIn(text);
      if (typeof certificates !== 'string') return certificates.join('');
      context.addIssue(certificates);
      return z.NEVER;
    }),
    { error: 'must be a list of texts' },
  )
  .refine(...atMost(certificatesMax))
  .default([]);

const hosts = z
  .array(
    z.string({ error: 'must be a text' }).refine(isHostPattern, {
      error: 'must be a host name (api.example.com), *.example.com or an IP address, without scheme, port and path',
    }),
    { error: 'must be a list of texts' },
  )
  .min(1, 'must have one entry at least')
  .refine(...atMost(hostsMax));

const clientCertificate = z.strictObject({
  hosts,
  cert: pem,
  key: pem.optional(),
  passphrase: z.string({ error: 'must be a text' }).optional(),
});

/** What one of them has. */
export const clientCertificateKeys: readonly string[] = Object.keys(clientCertificate.shape);

/** The option `clientCertificates`. */
export const clientCertificates: z.ZodType<ClientCertificate[]> = z
  .array(
    clientCertificate.superRefine((certificate, context) => {
      const problem = clientCertificateProblem(certificate);
      if (problem !== undefined) context.addIssue(problem);
    }),
    { error: 'must be a list' },
  )
  .refine(...atMost(certificatesMax))
  .superRefine((list, context) => {
    const all = list.flatMap((certificate) => certificate.hosts.map(canonicalHost));
    const repeated = all.find((host, index) => all.indexOf(host) < index);
    if (repeated !== undefined)
      context.addIssue(`has ${JSON.stringify(repeated)} twice; of two certificates one is shown`);
  })
  .default([]);

/** Not zod's `max`, which counts the letters of a text, too, that is given for a list. */
function atMost(entries: number): [(list: readonly unknown[]) => boolean, string] {
  return [(list) => list.length <= entries, `must have at most ${entries} entries`];
}

/** What is wrong with a certificate and its key, or undefined. */
function clientCertificateProblem({ cert, key, passphrase }: ClientCertificate): string | undefined {
  const certificates = certificatesIn(cert);
  if (typeof certificates === 'string') return certificates;
  let privateKey: KeyObject;
  try {
    privateKey = createPrivateKey({ key: key ?? cert, ...(passphrase === undefined ? {} : { passphrase }) });
  } catch {
    return keyProblem(key ?? cert, passphrase);
  }
  if (certificates[0]?.checkPrivateKey(privateKey) !== true) {
    return 'has a key that is not that of its (first) certificate';
  }
  try {
    createSecureContext({ cert, key: key ?? cert, ...(passphrase === undefined ? {} : { passphrase }) });
  } catch (error) {
    return `cannot be used: ${reasonOf(error)}`;
  }
  return undefined;
}

function keyProblem(text: string, passphrase: string | undefined): string {
  if (!/-----BEGIN [A-Z ]*PRIVATE KEY-----/.test(text))
    return 'has no private key in PEM (-----BEGIN PRIVATE KEY-----)';
  if (!/-----BEGIN ENCRYPTED|^Proc-Type: 4,ENCRYPTED/m.test(text)) return 'has a private key that cannot be read';
  return passphrase === undefined
    ? 'has an encrypted key; give its passphrase'
    : 'has an encrypted key that the passphrase does not open';
}

/** What has expired of what a worker was given. It works all the same: other hosts do not depend on it. */
export function expiryWarnings(
  given: { readonly ca: readonly string[]; readonly clientCertificates: readonly ClientCertificate[] },
  now: Date,
): readonly string[] {
  const expiryOf = (text: string): readonly string[] => {
    const certificates = certificatesIn(text);
    return (typeof certificates === 'string' ? [] : certificates)
      .filter(({ validTo }) => new Date(validTo) < now)
      .map(({ subject, validTo }) => `${subject.replaceAll('\n', ', ')} expired on ${new Date(validTo).toISOString()}`);
  };
  return [
    ...given.ca.flatMap(expiryOf).map((expiry) => `an authority (option ca) trusts nobody any more: ${expiry}`),
    ...given.clientCertificates.flatMap(({ hosts, cert }) =>
      expiryOf(cert).map((expiry) => `the client certificate for ${hosts.join(', ')} will be refused: ${expiry}`),
    ),
  ];
}

/** The certificates in a text, or what is wrong with it. */
function certificatesIn(text: string): readonly X509Certificate[] | string {
  const blocks = text.match(/-----BEGIN CERTIFICATE-----[\s\S]*?(?:-----END CERTIFICATE-----|$)/g) ?? [];
  if (blocks.length === 0) return 'has no certificate in PEM (-----BEGIN CERTIFICATE-----)';
  const certificates: X509Certificate[] = [];
  for (const [index, block] of blocks.entries()) {
    try {
      certificates.push(new X509Certificate(block));
    } catch (error) {
      return `has a certificate, the ${index + 1}. of ${blocks.length}, that cannot be read: ${reasonOf(error)}`;
    }
  }
  return certificates;
}

/** OpenSSL's reason, without where in its sources it was found. */
function reasonOf(error: unknown): string {
  const text = error instanceof Error ? error.message : String(error);
  return text.replace(/^error:[0-9A-F]+:/i, '').replace('::', ': ');
}
