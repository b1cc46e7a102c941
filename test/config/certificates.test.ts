import { createPrivateKey } from 'node:crypto';
import tls from 'node:tls';
import { beforeAll, describe, expect, it } from 'vitest';
import { expiryWarnings } from '../../src/config/certificates.ts';
import { ConfigError, readWorkerConfig } from '../../src/config/worker-config.ts';
import { type Authority, createAuthority, type Issued } from '../support/authority.ts';

let authority: Authority;
let client: Issued;
let other: Issued;
let encryptedKey: string;

beforeAll(async () => {
  authority = await createAuthority('Test authority');
  client = await authority.issue({ hosts: [], commonName: 'client' });
  other = await authority.issue({ hosts: [], commonName: 'other' });
  encryptedKey = encrypted(client.key, 'pkcs8');
});

const encrypted = (key: string, type: 'pkcs8' | 'sec1'): string =>
  String(createPrivateKey(key).export({ type, format: 'pem', cipher: 'aes-256-cbc', passphrase: 'tops3cret' }));

/** What is wrong with these options, in one text; it must never quote what is secret. */
function problemWith(options: unknown): string {
  try {
    readWorkerConfig(options);
  } catch (error) {
    if (!(error instanceof ConfigError)) throw error;
    expect(error.message).not.toContain('tops3cret');
    expect(error.message).not.toContain(client.key.split('\n')[1]);
    return error.problems.join('\n');
  }
  return 'nothing';
}

const hosts = ['api.example'];

describe('authorities', () => {
  it('are none by default', () => {
    expect(readWorkerConfig()).toMatchObject({ ca: [], clientCertificates: [] });
  });

  it('may be several in one text, whatever is between them and however its lines end', () => {
    const second = client.cert.trimEnd();
    for (const text of [
      authority.cert + second,
      second + authority.cert,
      `# ours\n${authority.cert}\n\n# theirs\n${second}`,
      `${authority.cert}${second}`.replaceAll('\n', '\r\n'),
      `\uFEFF${authority.cert}${second}`,
    ]) {
      const [read = ''] = readWorkerConfig({ ca: [text] }).ca;
      expect(read.match(/^-----BEGIN CERTIFICATE-----$/gm), JSON.stringify(text)).toHaveLength(2);
      expect(() => tls.createSecureContext({ cert: read })).not.toThrow();
    }
  });

  it.each([
    ['a file name', () => ['/etc/ssl/ca.pem'], /^ca\[0\] has no certificate in PEM/],
    ['nothing', () => [''], /^ca\[0\] has no certificate in PEM/],
    ['a key', () => [authority.cert, client.key], /^ca\[1\] has no certificate in PEM/],
    [
      'a text that is cut off',
      () => [authority.cert + client.cert.slice(0, 200)],
      /^ca\[0\] .* 2\. of 2, that cannot be/,
    ],
    ['a text with a mistake', () => [authority.cert.replace(/^MII/m, 'MIX')], /^ca\[0\] .* 1\. of 1, that cannot be/],
    ['no list', () => authority.cert, /^ca must be a list of texts$/],
    ['no text', () => [7], /^ca\[0\] must be a text in PEM$/],
  ])('are refused: %s', (_what, ca, says) => {
    expect(problemWith({ ca: ca() })).toMatch(says);
  });
});

describe('client certificates', () => {
  it.each([
    ['a certificate and its key', () => ({ hosts, ...client })],
    ['both in one text', () => ({ hosts, cert: client.key + client.cert })],
    ['a chain', () => ({ hosts, cert: client.cert + authority.cert, key: client.key })],
    ['an encrypted key', () => ({ hosts, cert: client.cert, key: encryptedKey, passphrase: 'tops3cret' })],
    ['an encrypted key in the same text', () => ({ hosts, cert: client.cert + encryptedKey, passphrase: 'tops3cret' })],
    [
      'an old-fashioned key',
      () => ({ hosts, cert: client.cert, key: encrypted(client.key, 'sec1'), passphrase: 'tops3cret' }),
    ],
    ['a passphrase that is not needed', () => ({ hosts, ...client, passphrase: 'tops3cret' })],
    [
      'several hosts',
      () => ({ hosts: ['a.example', '*.b.example', '192.0.2.1', '::1', '[fd00::1]', 'localhost'], ...client }),
    ],
  ])('are accepted: %s', (_what, certificate) => {
    const given = certificate();
    const config = readWorkerConfig({ clientCertificates: [given] });
    expect(config.clientCertificates).toEqual([given]);
    expect(Object.isFrozen(config.clientCertificates)).toBe(true);
  });

  const at = 'clientCertificates[0]';
  it.each([
    ['no key', () => ({ hosts, cert: client.cert }), `${at} has no private key in PEM`],
    ['no certificate', () => ({ hosts, cert: client.key, key: client.key }), `${at} has no certificate in PEM`],
    ["another's key", () => ({ hosts, cert: client.cert, key: other.key }), `${at} has a key that is not that of its`],
    [
      'the chain in the wrong order',
      () => ({ hosts, cert: authority.cert + client.cert, key: client.key }),
      `${at} has a key that is not`,
    ],
    [
      'an encrypted key without passphrase',
      () => ({ hosts, cert: client.cert, key: encryptedKey }),
      `${at} has an encrypted key; give its passphrase`,
    ],
    [
      'a wrong passphrase',
      () => ({ hosts, cert: client.cert, key: encryptedKey, passphrase: 'tops3cre' }),
      `${at} has an encrypted key that the passphrase does not open`,
    ],
    [
      'an old-fashioned key with a wrong passphrase',
      () => ({ hosts, cert: client.cert, key: encrypted(client.key, 'sec1'), passphrase: 'x' }),
      `${at} has an encrypted key that the passphrase`,
    ],
    [
      'a damaged key',
      () => ({ hosts, cert: client.cert, key: client.key.replace('MIG', 'MMM') }),
      `${at} has a private key that cannot be read`,
    ],
    ['no host', () => ({ hosts: [], ...client }), `${at}.hosts must have one entry at least`],
    ['a URL', () => ({ hosts: ['a.example', 'https://b.example'], ...client }), `${at}.hosts[1] must be a host name`],
    ['a port', () => ({ hosts: ['b.example:443'], ...client }), `${at}.hosts[0] must be a host name`],
    ['a network', () => ({ hosts: ['10.0.0.0/8'], ...client }), `${at}.hosts[0] must be a host name`],
    ['bytes', () => ({ hosts, ...client, cert: Buffer.from(client.cert) }), `${at}.cert must be a text in PEM`],
    [
      'a misspelt key',
      () => ({ hosts, ...client, pasphrase: 'tops3cret' }),
      `${at} has no "pasphrase"; did you mean "passphrase"?`,
    ],
    [
      'an unknown key',
      () => ({ hosts, ...client, pfx: '' }),
      `${at} has no "pfx"; there are hosts, cert, key, passphrase`,
    ],
  ])('are refused: %s', (_what, certificate, says) => {
    expect(problemWith({ clientCertificates: [certificate()] })).toContain(says);
  });

  it('are refused where a host is meant by two', () => {
    const clientCertificates = [
      { hosts: ['a.example', 'b.example'], ...client },
      { hosts: ['B.example.'], ...other },
    ];
    expect(problemWith({ clientCertificates })).toMatch(/^clientCertificates has "b.example" twice/);
  });

  it('are all named that are wrong', () => {
    const clientCertificates = [
      { hosts, cert: client.cert },
      { hosts: ['b.example'], ...client },
      { hosts: ['c.example'], cert: '' },
    ];
    expect(problemWith({ clientCertificates, leaseMs: 1 }).split('\n')).toEqual([
      expect.stringContaining('clientCertificates[0] has no private key'),
      expect.stringContaining('clientCertificates[2] has no certificate'),
      expect.stringContaining('leaseMs'),
    ]);
  });
});

describe('what has expired', () => {
  it('is a warning, whoever issued it', async () => {
    const old = await createAuthority('Old', [-3, -2]);
    const late = await authority.issue({ hosts: [], commonName: 'late', validDays: [-3, -2] });
    const config = readWorkerConfig({
      ca: [authority.cert + old.cert],
      clientCertificates: [
        { hosts, ...late },
        { hosts: ['b.example'], ...client },
      ],
    });
    expect(expiryWarnings(config, new Date())).toEqual([
      expect.stringMatching(/authority.*CN=Old expired on \d{4}-\d\d-\d\dT/),
      expect.stringMatching(/client certificate for api\.example .*CN=late expired on \d{4}-/),
    ]);
  });
});
