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
      '[fd00:42::42]',
      '[fd00:c1::a9fe:a9fe]',
      '[fd00:a9fe:a9fe::1]',
      '[fd00:100::100:200]',
      'instance-data',
      'instance-data.eu-west-1.compute.internal',
      'metadata.tencentyun.com',
      'metadata.platformequinix.com',
      'api.metadata.cloud.ibm.com',
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
    const policy = createAddressPolicy({ allow: ['10.1.0.0/16', '127.0.0.1', 'fd00::/64', '169.254.169.254', '::2'] });
    for (const a of ['10.1.255.255', '127.0.0.1', 'fd00::5', '::2', '169.254.169.254'])
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

  it('a name, but not into a metadata service, unless that is what is named', () => {
    const policy = createAddressPolicy({ allow: ['*.dev.example', 'metadata.google.internal', '169.254.170.2'] });
    for (const address of ['169.254.169.254', '168.63.129.16', 'fd00:ec2::254', '64:ff9b::a9fe:a9fe']) {
      expect(policy.addressDenial(address, 'x.dev.example'), address).toMatch(/metadata service/);
    }
    for (const address of ['169.254.1.1', '10.0.0.1', '127.0.0.1', '64:ff9b::a00:1', '169.254.170.2']) {
      expect(policy.addressDenial(address, 'x.dev.example'), address).toBeUndefined();
    }
    expect(policy.addressDenial('169.254.169.254', 'metadata.google.internal')).toBeUndefined();
    expect(policy.addressDenial('169.254.169.254', 'metadata.example')).toBeDefined();
  });

  it('a network of IPv6 does not open what an address of it hides', () => {
    const translated = ['64:ff9b::/96', '64:ff9b:1::/48', '2002::/16', '2001::/32', '::ffff:0:0/96', '2400::/12'];
    const policy = createAddressPolicy({ allow: translated });
    for (const open of [
      '64:ff9b::808:808',
      '64:ff9b:1::808:808',
      '2002:808:808::1',
      '::ffff:8.8.8.8',
      '2400:cb00::1',
    ]) {
      expect(policy.addressDenial(open), open).toBeUndefined();
    }
    const hidden = [
      '64:ff9b::a00:1',
      '64:ff9b::a9fe:a9fe',
      '64:ff9b:1::a00:1',
      '64:ff9b:1:a00:0:100::',
      '64:ff9b:1:0:a:0:100::',
      '2002:7f00:1::1',
      '2001:0:808:808::80ff:fffe',
      '::ffff:127.0.0.1',
      '2400:cb00::5efe:a00:1',
    ];
    for (const address of hidden) expect(policy.addressDenial(address), address).toBeDefined();
    const both = createAddressPolicy({ allow: [...translated, '10.0.0.0/8'] });
    expect(both.addressDenial('64:ff9b::a00:1')).toBeUndefined();
    expect(both.addressDenial('64:ff9b::7f00:1')).toBe('127.0.0.0/8 (loopback)');
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

describe('what restricts', () => {
  const target = (url: string) => {
    const { protocol, hostname, port } = new URL(url);
    const secure = protocol === 'https:';
    return { secure, host: hostname, port: port === '' ? (secure ? 443 : 80) : Number(port) };
  };

  it('only: the hosts as the URL says them, in every spelling', () => {
    const only = ['api.example.com', '*.Hooks.example.', '93.184.216.0/24', '2606:4700::6810:1', 'fd00::/8'];
    const policy = createAddressPolicy({ only });
    for (const url of [
      'http://api.example.com',
      'http://API.example.com.:8080',
      'http://%61pi.example.com',
      'http://ａｐｉ.example。com',
      'http://a.b.hooks.example',
      'http://93.184.216.34',
      'http://0x5db8d822',
      'http://[2606:4700:0:0::6810:0001]',
      'http://[fd00::1]',
    ]) {
      expect(policy.targetDenial(target(url)), url).toBeUndefined();
    }
    for (const url of [
      'http://example.com',
      'http://x.api.example.com',
      'http://hooks.example',
      'http://badhooks.example',
      'http://93.184.217.1',
      'http://[2606:4700::6810:2]',
      'http://[::ffff:93.184.216.34]',
      'http://api.example.com@evil.example',
      'http://api.example.com.evil.example',
    ]) {
      expect(policy.targetDenial(target(url)), url).toBe('this host is not in the only list');
    }
    // It opens nothing.
    expect(policy.hostDenial('[fd00::1]')).toBe('fc00::/7 (private network)');
  });

  it('ports and schemes, those that go without saying too', () => {
    const policy = createAddressPolicy({ ports: [443, '8000-8999', '80'], schemes: ['https'] });
    for (const url of [
      'https://a.example',
      'https://a.example:8000',
      'https://a.example:8999',
      'https://a.example:80',
    ]) {
      expect(policy.targetDenial(target(url)), url).toBeUndefined();
    }
    for (const port of [7999, 9000, 444, 22]) {
      expect(policy.targetDenial(target(`https://a.example:${port}`))).toBe(`port ${port} is not in the ports list`);
    }
    expect(policy.targetDenial(target('http://a.example'))).toBe('http is not in the schemes list');
    expect(createAddressPolicy({ ports: [443] }).targetDenial(target('http://a.example'))).toMatch(/port 80 /);
  });

  it('nothing: nothing', () => {
    expect(strict.targetDenial(target('http://a.example:1'))).toBeUndefined();
  });

  it.each([
    [{ only: ['loopback'] }, 'Invalid entry "loopback" in only'],
    [{ only: ['10.0.0.0/40'] }, 'Invalid entry "10.0.0.0/40" in only'],
    [{ only: ['https://a.example'] }, 'Invalid entry "https://a.example" in only'],
    [{ ports: [0] }, 'Invalid entry "0" in ports'],
    [{ ports: ['80-79'] }, 'Invalid entry "80-79" in ports'],
    [{ ports: [65_536] }, 'Invalid entry "65536" in ports'],
    [{ ports: [1.5] }, 'Invalid entry "1.5" in ports'],
    [{ ports: ['http'] }, 'Invalid entry "http" in ports'],
  ])('%j is refused', (options, message) => {
    expect(() => createAddressPolicy(options)).toThrow(message);
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

  /** What IDNA takes for ASCII. */
  const fullWidth = (text: string) => text.replace(/./g, (char) => String.fromCodePoint(char.charCodeAt(0) + 0xfee0));
  const circled = (text: string) =>
    text.replace(/./g, (char) =>
      char === '.' ? '。' : char === '0' ? '⓪' : String.fromCodePoint(0x245f + Number(char)),
    );

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
          `[::ffff:0:${hex(n)}]`,
          fullWidth(`${a}.${b}.${c}.${d}`),
          circled(`${a}.${b}.${c}.${d}`),
          [...`${a}.${b}.${c}.${d}`].map((char) => `%${char.charCodeAt(0).toString(16)}`).join(''),
          `${a}.${b}.${c}.${d}.`,
          `user:pass@${a}.${b}.${c}.${d}`,
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
