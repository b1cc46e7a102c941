import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { addressesInHosts, parseHosts } from '../../src/http/names/hosts-file.ts';
import { parseNsswitch, stepsFor } from '../../src/http/names/nsswitch.ts';
import { candidatesOf, parseResolvConf } from '../../src/http/names/resolv-conf.ts';

const blanks = fc.constantFrom(' ', '\t', '  \t ');
const label = fc.stringMatching(/^[a-z0-9]([a-z0-9-]{0,10}[a-z0-9])?$/);
const dnsName = fc.array(label, { minLength: 1, maxLength: 5 }).map((labels) => labels.join('.'));
const address = fc.oneof(fc.ipV4(), fc.ipV6());
const comment = fc.constantFrom('', '#', ' # 127.0.0.1 commented.example');
const spelling = (name: string) => fc.constantFrom(name, name.toUpperCase());
/** Lines as such files have them, and others. */
const anyText = fc.oneof(
  fc.string({ unit: 'binary' }),
  fc
    .array(
      fc.oneof(
        fc.constantFrom(
          ...['hosts:', 'files', 'dns', '[', ']', '!', '=', 'return', 'NOTFOUND', 'nameserver', 'search'],
        ),
        fc.constantFrom(...['options', 'ndots:', 'timeout:', '99999999999', '127.0.0.1', '::1', ' ', '\n', '\t', '#']),
      ),
    )
    .map((parts) => parts.join('')),
);

const settingsOf = (text: string, hostname = 'worker') => {
  const settings = parseResolvConf(text, hostname);
  if (settings === undefined) throw new Error('left to getaddrinfo');
  return settings;
};

describe('the hosts file', () => {
  it('gives each name the addresses of all its lines, in their order, once each', () => {
    const lineOf = fc.tuple(address, fc.array(dnsName, { minLength: 1, maxLength: 3 }));
    const written = fc
      .array(lineOf, { maxLength: 8 })
      .chain((lines) =>
        fc
          .tuple(
            ...lines.map(([ip, names]) =>
              fc
                .tuple(blanks, comment, fc.constantFrom('', ' '), ...names.map(spelling))
                .map(([blank, after, before, ...spelt]) => `${before}${[ip, ...spelt].join(blank)}${after}`),
            ),
          )
          .map((texts) => ({ lines, text: texts.join('\n') })),
      );
    fc.assert(
      fc.property(written, ({ lines, text }) => {
        const hosts = parseHosts(text);
        for (const name of new Set(lines.flatMap(([, names]) => names))) {
          const expected = lines.filter(([, names]) => names.includes(name)).map(([ip]) => ip);
          expect(addressesInHosts(hosts, name.toUpperCase())).toEqual([...new Set(expected)]);
        }
        expect(hosts.size).toBe(new Set(lines.flatMap(([, names]) => names)).size);
      }),
    );
  });

  it('says nothing in lines without an address, and of nothing it does not name', () => {
    const hosts = parseHosts(
      'localhost 127.0.0.1\n127.0.0.1\n127.1 short.example\n# 127.0.0.1 a.example\n\r\n::1 b.example\r\n',
    );
    expect([...hosts]).toEqual([['b.example', ['::1']]]);
    expect(addressesInHosts(hosts, '__proto__')).toEqual([]);
    expect(addressesInHosts(hosts, 'b.example.')).toEqual([]);
  });
});

describe('resolv.conf', () => {
  it('that is empty means the server on this machine, and its own domain', () => {
    expect(parseResolvConf('', 'worker.one.example')).toEqual({
      servers: ['127.0.0.1'],
      search: ['one.example'],
      ndots: 1,
      timeoutMs: 1_000,
      attempts: 10,
      rotate: false,
      asksIpv6: true,
    });
    expect(settingsOf('', 'worker').search).toEqual([]);
    expect(settingsOf('', 'worker.').search).toEqual([]);
  });

  it('is read as glibc reads it', () => {
    const text = `# comment
; nameserver 10.0.0.1
 nameserver 10.0.0.2
nameserver 10.0.0.3 # the first
nameserver\t::3
nameserver host.example
nameserver 10.0.0.4
nameserver 10.0.0.5
domain zero.example
search one.example\ttwo.example. .three.example
options rotate ndots:3
options timeout:40 attempts:0 edns0 trust-ad unheard-of
`;
    expect(settingsOf(text)).toEqual({
      servers: ['10.0.0.3', '::3', '10.0.0.4'],
      search: ['one.example', 'two.example', 'three.example'],
      ndots: 3,
      timeoutMs: 5_000,
      attempts: 1,
      rotate: true,
      asksIpv6: true,
    });
    expect(settingsOf('search a.example\ndomain b.example').search).toEqual(['b.example']);
    expect(settingsOf('options timeout:3')).toMatchObject({ timeoutMs: 3_000, attempts: 2 });
    expect(settingsOf('options attempts:3')).toMatchObject({ timeoutMs: 5_000, attempts: 3 });
    expect(settingsOf('options ndots:2 ndots:nine').ndots).toBe(0);
    expect(settingsOf('options no-aaaa').asksIpv6).toBe(false);
    expect(parseResolvConf('options use-vc', '')).toBeUndefined();
    expect(parseResolvConf('options no-tld-query', '')).toBeUndefined();
    expect(parseResolvConf('nameserver fe80::1%eth0', '')).toBeUndefined();
  });

  it.each([
    // name, ndots, in the order of glibc's res_search
    ['db', 1, ['db.one.', 'db.two.', 'db.']],
    ['db.', 1, ['db.']],
    ['a.b', 1, ['a.b.', 'a.b.one.', 'a.b.two.']],
    ['a.b', 2, ['a.b.one.', 'a.b.two.', 'a.b.']],
    ['a.b.c.d', 5, ['a.b.c.d.one.', 'a.b.c.d.two.', 'a.b.c.d.']],
    ['a.b.', 5, ['a.b.']],
    ['db', 0, ['db.', 'db.one.', 'db.two.']],
  ] as const)('has %s, with ndots %d, looked for as %j', (name, ndots, expected) => {
    const settings = settingsOf(`search one two\noptions ndots:${ndots}`);
    expect(candidatesOf(name, settings)).toEqual(expected);
  });

  it('may search the root, which is the name itself', () => {
    expect(candidatesOf('db', settingsOf('search . one'))).toEqual(['db.', 'db.one.']);
  });

  it('makes absolute names only, each once, none too long, the name itself among them', () => {
    const search = fc.array(fc.oneof(dnsName, fc.constant('.')), { maxLength: 40 });
    const name = fc.tuple(dnsName, fc.boolean()).map(([text, dotted]) => (dotted ? `${text}.` : text));
    fc.assert(
      fc.property(name, search, fc.nat(20), (asked, domains, ndots) => {
        const settings = settingsOf(`search ${domains.join(' ')}\noptions ndots:${ndots}`, 'w');
        const candidates = candidatesOf(asked, settings);
        const asIs = asked.endsWith('.') ? asked : `${asked}.`;
        expect(candidates).toContain(asIs);
        expect(new Set(candidates).size).toBe(candidates.length);
        expect(candidates.length).toBeLessThanOrEqual(33);
        for (const candidate of candidates) {
          expect(candidate.startsWith(asked) && candidate.endsWith('.') && !candidate.includes('..')).toBe(true);
          expect(candidate.length).toBeLessThanOrEqual(254);
        }
        if (asked.split('.').length - 1 >= Math.min(ndots, 15)) expect(candidates[0]).toBe(asIs);
      }),
    );
  });
});

describe('nsswitch.conf', () => {
  const sourcesOf = (text: string, name = 'name.example') =>
    stepsFor(parseNsswitch(text), name, 'Worker').map(({ source, returnsOn }) => [source, ...returnsOn].join(' '));

  it.each([
    ['', ['files', 'dns']],
    ['passwd: ldap\nhosts: # nothing\n', ['files', 'dns']],
    ['hosts: dns files', ['dns', 'files']],
    ['hosts: ldap\n  hosts:\tfiles # dns', ['files']],
    ['hosts: files [NOTFOUND=return] dns', ['files notfound', 'dns']],
    ['hosts:files[notfound=RETURN unavail=return]dns', ['files notfound unavail', 'dns']],
    ['hosts: files dns [!UNAVAIL=return] ldap', ['files', 'dns notfound', 'system']],
    ['hosts: files dns [TRYAGAIN=return SUCCESS=return]', ['files', 'dns']],
    ['hosts: resolve [!UNAVAIL=return] dns', ['files', 'dns notfound']],
    ['hosts: files mdns_minimal [NOTFOUND=return] mdns4 dns', ['files', 'dns']],
    ['hosts: mdns6_minimal', []],
    ['hosts: files wins dns', ['files', 'system']],
    ['hosts: [NOTFOUND=return] files', ['system']],
    ['hosts: files [SUCCESS=merge] dns', ['system']],
    ['hosts: files [!NOTFOUND=continue] dns', ['system']],
    ['hosts: files [NOTFOUND=return', ['system']],
    ['hosts: files [] dns', ['system']],
  ])('%j asks %j', (text, expected) => {
    expect(sourcesOf(text)).toEqual(expected);
  });

  it.each([
    ['mdns4_minimal', 'printer.local', true],
    ['mdns', 'printer.local.', true],
    ['mdns', 'local.example', false],
    ['myhostname', 'worker', true],
    ['myhostname', '_gateway', true],
    ['myhostname', '_other', false],
    ['mymachines', 'machine', true],
    ['mymachines', 'machine.example', false],
    ['ldap', 'name.example', true],
  ])('%s for %s: getaddrinfo is asked: %s', (service, name, isAsked) => {
    expect(sourcesOf(`hosts: ${service} dns`, name)).toEqual([isAsked ? 'system' : 'dns']);
  });
});

it('no text makes any of the files unreadable', () => {
  fc.assert(
    fc.property(anyText, anyText, (text, name) => {
      const settings = parseResolvConf(text, name);
      if (settings !== undefined) {
        expect(settings.servers.length).toBeGreaterThan(0);
        expect(settings.servers.length).toBeLessThanOrEqual(3);
        expect(settings.timeoutMs * settings.attempts).toBeLessThanOrEqual(25_000);
        candidatesOf(name, settings);
      }
      addressesInHosts(parseHosts(text), name);
      expect(stepsFor(parseNsswitch(text), name, name).length).toBeLessThanOrEqual(2 * text.length + 2);
    }),
    { numRuns: 1_000 },
  );
});
