// x509 needs it, and it must come first.
import 'reflect-metadata';
import { webcrypto } from 'node:crypto';
import * as x509 from '@peculiar/x509';

/** A certificate and the key to it, in PEM. */
export type Issued = { readonly cert: string; readonly key: string };

export type Subject = {
  /** Default `localhost` alone. Those that are IP addresses are written as such. */
  readonly hosts?: readonly string[];
  /** Default: the first host. */
  readonly commonName?: string;
  /** In days from now, negative ones in the past. Default: from yesterday to tomorrow. */
  readonly validDays?: readonly [from: number, to: number];
};

/** Signs certificates; made for one test, or one file of tests. */
export type Authority = {
  readonly cert: string;
  issue(subject?: Subject): Promise<Issued>;
  /** Another authority, below this one; or what signs without being allowed to. */
  intermediate(commonName: string, options?: { readonly mayNot?: boolean }): Promise<Authority>;
};

const algorithm = { name: 'ECDSA', namedCurve: 'P-256', hash: 'SHA-256' } as const;
const dayMs = 86_400_000;
const { BasicConstraintsExtension, KeyUsagesExtension, KeyUsageFlags, SubjectAlternativeNameExtension } = x509;
const authorityExtensions = [
  new BasicConstraintsExtension(true, undefined, true),
  new KeyUsagesExtension(KeyUsageFlags.keyCertSign, true),
];

/** An authority that nobody trusts yet. */
export async function createAuthority(
  commonName: string,
  validDays: readonly [number, number] = [-1, 1],
): Promise<Authority> {
  const keys = await keyPair();
  const subject = `CN=${commonName}`;
  const cert = await certificate(subject, keys.publicKey, validDays, authorityExtensions, { name: subject, keys });
  return authority(subject, keys, cert);
}

/** A certificate that nobody vouches for but itself. */
export async function selfSigned(subject: Subject = {}): Promise<Issued> {
  const keys = await keyPair();
  const { name, validDays, extensions } = described(subject);
  return {
    cert: await certificate(name, keys.publicKey, validDays, extensions, { name, keys }),
    key: await pemOf(keys),
  };
}

function authority(name: string, keys: webcrypto.CryptoKeyPair, cert: string): Authority {
  const issuer = { name, keys };
  return {
    cert,
    async issue(subject = {}) {
      const own = await keyPair();
      const { name: ownName, validDays, extensions } = described(subject);
      return {
        cert: await certificate(ownName, own.publicKey, validDays, extensions, issuer),
        key: await pemOf(own),
      };
    },
    async intermediate(commonName, { mayNot = false } = {}) {
      const own = await keyPair();
      const ownName = `CN=${commonName}`;
      const extensions = mayNot ? [] : authorityExtensions;
      return authority(ownName, own, await certificate(ownName, own.publicKey, [-1, 1], extensions, issuer));
    },
  };
}

function described({ hosts = ['localhost'], commonName = hosts[0] ?? 'nobody', validDays = [-1, 1] }: Subject) {
  const names = hosts.map((value) => ({ type: /^[\d.]+$|:/.test(value) ? 'ip' : 'dns', value }) as const);
  const extensions: x509.Extension[] = names.length === 0 ? [] : [new SubjectAlternativeNameExtension(names)];
  return { name: `CN=${commonName}`, validDays, extensions };
}

async function certificate(
  subject: string,
  publicKey: webcrypto.CryptoKey,
  [from, to]: readonly [number, number],
  extensions: x509.Extension[],
  issuer: { readonly name: string; readonly keys: webcrypto.CryptoKeyPair },
): Promise<string> {
  const issued = await x509.X509CertificateGenerator.create(
    {
      subject,
      issuer: issuer.name,
      notBefore: new Date(Date.now() + from * dayMs),
      notAfter: new Date(Date.now() + to * dayMs),
      publicKey,
      signingKey: issuer.keys.privateKey,
      signingAlgorithm: algorithm,
      extensions,
    },
    webcrypto,
  );
  return `${issued.toString('pem')}\n`;
}

function keyPair(): Promise<webcrypto.CryptoKeyPair> {
  return webcrypto.subtle.generateKey(algorithm, true, ['sign', 'verify']);
}

async function pemOf({ privateKey }: webcrypto.CryptoKeyPair): Promise<string> {
  return `${x509.PemConverter.encode(await webcrypto.subtle.exportKey('pkcs8', privateKey), 'PRIVATE KEY')}\n`;
}
