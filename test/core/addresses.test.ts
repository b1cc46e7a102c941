import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { createAddressPolicy } from '../../src/core/addresses.ts';
import corpus from '../http/ssrf-corpus.json' with { type: 'json' };

const strict = createAddressPolicy();

/** The host of a URL as the HTTP client hands it over. */
function host(url: string): string {
  return new URL(url).hostname;
}

const hosts = (urls: readonly string[]) =>
  urls.filter((url) => URL.canParse(url) && new URL(url).protocol === 'http:').map((url) => [url, host(url)] as const);

describe('the default policy', () => {
  it.each(hosts(corpus.deny))('denies %s', (_url, name) => {
    expect(strict.hostDenial(name)).toEqual(expect.any(String));
  });

  it.each(corpus.allow.map((url) => [url, host(url)]))('allows %s', (_url, name) => {
    expect(strict.hostDenial(name)).toBeUndefined();
  });

  it.each([
    ['127.0.0.1', '127.0.0.0/8 (loopback)'],
    ['10.1.2.3', '10.0.0.0/8 (private network)'],
    ['169.254.169.254', '169.254.169.254/32 (metadata service)'],
    ['168.63.129.16', '168.63.129.16/32 (metadata service)'],
    ['100.64.0.1', '100.64.0.0/10 (carrier-grade NAT)'],
    ['::ffff:8.8.8.8', '::ffff:0:0/96 (IPv4-mapped)'],
    ['::8.8.8.8', '::/96 (IPv4-compatible)'],
    ['2001:4860::5efe:8.8.8.8', '::5efe:0:0 (ISATAP)'],
    ['2606:4700::200:5efe:808:808', '::5efe:0:0 (ISATAP)'],
    ['4000::1', 'outside 2000::/3 (not global unicast)'],
  ])('says which rule denies %s', (address, rule) => {
    expect(strict.addressDenial(address)).toBe(rule);
  });

  it.each(['', '127.1', '0x7f000001', 'localhost', '1.2.3.4.5', 'fe80::1%eth0', '010.0.0.1', '8.8.8.8 '])(
    'takes %j for no address to dial',
    (address) => {
      expect(strict.addressDenial(address)).toBe('not an IP address');
    },
  );

  it.each([
    'a b.example',
    'exa_mple..com',
    '-',
    'x/y',
    '1.2.3.4.5',
    '256.1.1.1',
    'example.0x7f',
    `${'a.'.repeat(140)}com`,
  ])('takes %j for no host', (name) => {
    expect(strict.hostDenial(name)).toEqual(expect.any(String));
  });

  it.each([
    'example.com',
    'example.com.',
    'EXAMPLE.com',
    'localhost.example.com',
    'internal.example.org',
    '_x.example.com',
  ])('allows the public name %s', (name) => {
    expect(strict.hostDenial(name)).toBeUndefined();
  });
});

describe('allow', () => {
  it('loopback: the addresses and localhost, in every spelling, and nothing else', () => {
    const policy = createAddressPolicy({ allow: ['loopback'] });
    for (const name of ['127.0.0.1', '127.255.0.1', '[::1]', 'localhost', 'LOCALHOST.', 'a.localhost', '0x7f.1']) {
      expect(policy.hostDenial(name), name).toBeUndefined();
    }
    for (const name of ['10.0.0.1', '[::ffff:127.0.0.1]', '0.0.0.0', 'db', 'ip6-localhost', '[::2]']) {
      expect(policy.hostDenial(name), name).toEqual(expect.any(String));
    }
  });

  it('private: the private networks and their names, but no metadata service', () => {
    const policy = createAddressPolicy({ allow: ['private'] });
    for (const name of [
      '10.0.0.1',
      '172.31.255.255',
      '192.168.1.1',
      '[fd12::1]',
      'db',
      'printer.local',
      'x.default.svc',
    ]) {
      expect(policy.hostDenial(name), name).toBeUndefined();
    }
    for (const name of [
      '127.0.0.1',
      '169.254.169.254',
      '[fd00:ec2::254]',
      'metadata',
      'metadata.google.internal',
      'localhost',
    ]) {
      expect(policy.hostDenial(name), name).toEqual(expect.any(String));
    }
  });

  it('all: everything but what is in the deny list, hidden in IPv6 or not', () => {
    const policy = createAddressPolicy({ allow: ['all'], deny: ['169.254.0.0/16', 'evil.example', '*.bad.example'] });
    for (const name of ['127.0.0.1', '[::1]', 'db', 'localhost', 'metadata.goog', '[4000::1]', 'bad.example']) {
      expect(policy.hostDenial(name), name).toBeUndefined();
    }
    const hidden = [
      '::ffff:a9fe:101',
      '::a9fe:101',
      '64:ff9b::a9fe:101',
      '2002:a9fe:101::',
      '2001::5601:fefe',
      '2400::5efe:a9fe:101',
    ];
    for (const address of ['169.254.1.1', ...hidden]) {
      expect(policy.addressDenial(address), address).toBe('169.254.0.0/16 is in the deny list');
    }
    for (const name of ['evil.example', 'a.bad.example']) expect(policy.hostDenial(name)).toMatch(/deny list/);
  });

  it('a CIDR block or an address: exactly those, and localhost where it covers an address of it', () => {
    const policy = createAddressPolicy({ allow: ['10.1.0.0/16', '127.0.0.1', 'fd00::/64', '169.254.169.254'] });
    for (const a of ['10.1.255.255', '127.0.0.1', 'fd00::5', '169.254.169.254'])
      expect(policy.addressDenial(a), a).toBeUndefined();
    for (const a of ['10.2.0.0', '127.0.0.2', 'fd00:0:0:1::', '::1']) expect(policy.addressDenial(a), a).toBeDefined();
    expect(policy.hostDenial('localhost')).toBeUndefined();
  });

  it('a name: wherever it points, but not into the deny list', () => {
    const policy = createAddressPolicy({ allow: ['db.internal', '*.svc'], deny: ['10.9.0.0/16'] });
    expect(policy.hostDenial('DB.internal.')).toBeUndefined();
    expect(policy.hostDenial('api.default.svc')).toBeUndefined();
    expect(policy.hostDenial('x.internal')).toBe('names ending in .internal');
    expect(policy.addressDenial('10.1.1.1', 'db.internal')).toBeUndefined();
    expect(policy.addressDenial('10.9.1.1', 'db.internal')).toBe('10.9.0.0/16 is in the deny list');
    expect(policy.addressDenial('10.1.1.1', 'example.com')).toBeDefined();
  });

  it('loses against a denied loopback under the names that systems take for it', () => {
    for (const deny of ['loopback', '127.0.0.0/8', '::1']) {
      const policy = createAddressPolicy({ allow: ['all', 'any.example'], deny: [deny] });
      for (const address of ['0.0.0.0', '::', '::ffff:0.0.0.0', '64:ff9b::']) {
        expect(policy.addressDenial(address, 'any.example'), address).toMatch(/deny list/);
      }
      for (const host of ['0.0.0.0', '0', '0x0', '[::]']) expect(policy.hostDenial(host), host).toMatch(/deny list/);
    }
  });

  it('loses against deny', () => {
    const policy = createAddressPolicy({ allow: ['loopback', '8.8.8.8'], deny: ['loopback', '8.8.8.0/24'] });
    for (const name of ['localhost', '127.0.0.1', '[::1]', '8.8.8.8'])
      expect(policy.hostDenial(name), name).toMatch(/deny list/);
    expect(createAddressPolicy({ deny: ['all'] }).hostDenial('example.com')).toMatch(/deny list/);
  });

  it.each([
    '10.0.0.0/33',
    '10.0.0/8',
    '300.1.1.1',
    'fd00::/129',
    '::/',
    '1.2.3.4/5/6',
    'fe80::1%eth0/64',
    '10.0.0.0/-1',
    '',
    'a b',
    '0x7f.1/8',
  ])('refuses the entry %j by name', (entry) => {
    expect(() => createAddressPolicy({ allow: [entry] })).toThrow(`Invalid entry "${entry}" in allow`);
    expect(() => createAddressPolicy({ deny: [entry] })).toThrow(`Invalid entry "${entry}" in deny`);
  });
});

describe('any denied IPv4 address', () => {
  const deniedBlocks = [
    '0.0.0.0/8',
    '10.0.0.0/8',
    '100.64.0.0/10',
    '127.0.0.0/8',
    '169.254.0.0/16',
    '172.16.0.0/12',
    '192.168.0.0/16',
    '198.18.0.0/15',
    '224.0.0.0/3',
  ];
  const denied = fc.constantFrom(...deniedBlocks).chain((block) => {
    const [base = '', bits = ''] = block.split('/');
    const start = base.split('.').reduce((sum, octet) => sum * 256 + Number(octet), 0);
    return fc.integer({ min: 0, max: 2 ** (32 - Number(bits)) - 1 }).map((offset) => start + offset);
  });
  const octets = (n: number) => [24, 16, 8, 0].map((shift) => Math.floor(n / 2 ** shift) % 256);
  const hex = (n: number) => `${Math.floor(n / 65_536).toString(16)}:${(n % 65_536).toString(16)}`;

  it('is denied in every spelling', () => {
    fc.assert(
      fc.property(denied, (n) => {
        const [a = 0, b = 0, c = 0, d = 0] = octets(n);
        const oct = (part: number) => `0${part.toString(8)}`;
        const spellings = [
          `${a}.${b}.${c}.${d}`,
          String(n),
          `0x${n.toString(16)}`,
          `0${n.toString(8)}`,
          `${oct(a)}.${oct(b)}.${oct(c)}.${oct(d)}`,
          `0x${a.toString(16)}.${b}.${oct(c)}.${d}`,
          `${a}.${n % 2 ** 24}`,
          `${a}.${b}.${n % 65_536}`,
          `[::ffff:${a}.${b}.${c}.${d}]`,
          `[::ffff:${hex(n)}]`,
          `[::${hex(n)}]`,
          `[64:ff9b::${hex(n)}]`,
          `[2002:${hex(n)}::1]`,
          `[2400:cb00::5efe:${hex(n)}]`,
        ];
        for (const spelling of spellings) {
          // As it stands, and as the URL parser makes it canonical.
          expect(strict.hostDenial(spelling), spelling).toBeDefined();
          expect(strict.hostDenial(host(`http://${spelling}/`)), spelling).toBeDefined();
        }
      }),
      { numRuns: 300 },
    );
  });
});
