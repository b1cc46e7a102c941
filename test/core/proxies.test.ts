import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { createProxyChoice, describeProxy, proxyProblem } from '../../src/core/proxies.ts';
import table from './no-proxy.json' with { type: 'json' };

/** Whether the host of a URL is reached directly. */
function isDirect(noProxy: string, host: string): boolean {
  const choose = createProxyChoice({ http: 'http://proxy.example:3128', noProxy });
  return choose({ secure: false, host: new URL(`http://${host}/`).hostname }) === undefined;
}

describe('noProxy', () => {
  const hosts = table.hosts.split(' ');

  // The table is what curl 7.88.1 does with no_proxy, host by host.
  it.each(table.lists)('$noProxy: the same hosts as curl', ({ noProxy, direct }) => {
    expect(hosts.filter((host) => isDirect(noProxy, host)).join(' ')).toBe(direct);
  });

  // curl 7.88 compares IPv6 addresses as texts, although it documents otherwise; later versions do what is documented.
  it.each([
    ['::1', '[::1]', true],
    ['[::1]', '[::1]', true],
    ['0:0:0:0:0:0:0:1', '[::1]', true],
    ['::1/128', '[::1]', true],
    ['::/0', '[::1]', false],
    ['::1/129', '[::1]', false],
    ['fd00::/8', '[fd00:1::1]', true],
    ['[fd00::]/8', '[fd00:1::1]', true],
    ['fc00::/7', '[fd00:1::1]', true],
    ['fd00::/32', '[fd00:1::1]', false],
    ['2001:db8::/61', '[2001:db8:0:7::1]', true],
    ['2001:db8::/61', '[2001:db8:0:8::1]', false],
    ['2001:DB8::5', '[2001:db8::5]', true],
    ['::ffff:10.1.2.3', '[::ffff:a01:203]', true],
    ['10.0.0.0/8', '[::ffff:10.1.2.3]', false],
    ['.2.3', '[::ffff:10.1.2.3]', false],
    ['1', '[::1]', false],
  ])('%s: %s is reached directly: %s', (noProxy, host, direct) => {
    expect(isDirect(noProxy, host)).toBe(direct);
  });

  const label = fc.stringMatching(/^[a-z][a-z0-9]{0,8}$/);
  const name = fc.array(label, { minLength: 1, maxLength: 4 }).map((labels) => labels.join('.'));

  it('matches a name and all below it, and no name that merely ends in the same letters', () => {
    fc.assert(
      fc.property(name, label, fc.constantFrom('', '.'), fc.constantFrom('', '.'), (entry, other, before, after) => {
        const noProxy = `${before}${entry}${after}`;
        expect(isDirect(noProxy, entry)).toBe(true);
        expect(isDirect(noProxy, `${other}.${entry}`)).toBe(true);
        expect(isDirect(noProxy, `${other}${entry}`)).toBe(false);
      }),
    );
  });

  it('matches the addresses of a block and no other', () => {
    fc.assert(
      fc.property(fc.nat(2 ** 32 - 1), fc.nat(2 ** 32 - 1), fc.integer({ min: 1, max: 32 }), (base, address, bits) => {
        const dotted = (n: number) => [n >>> 24, (n >>> 16) & 255, (n >>> 8) & 255, n & 255].join('.');
        const mask = (0xffffffff << (32 - bits)) >>> 0;
        expect(isDirect(`${dotted(base)}/${bits}`, dotted(address))).toBe(((base ^ address) & mask) === 0);
        expect(isDirect(`${dotted(base)}/${bits}`, dotted(((base & mask) | (address & ~mask)) >>> 0))).toBe(true);
      }),
    );
  });

  it('takes any text', () => {
    fc.assert(fc.property(fc.string(), name, (noProxy, host) => typeof isDirect(noProxy, host) === 'boolean'));
  });
});

describe('the text of a proxy', () => {
  const proxyOf = (http: string) => createProxyChoice({ http })({ secure: false, host: 'target.example' });
  const basic = (credentials: string) => `Basic ${Buffer.from(credentials, 'latin1').toString('base64')}`;

  it.each([
    ['http://proxy.example:3128', 'http://proxy.example:3128', undefined],
    ['proxy.example:3128', 'http://proxy.example:3128', undefined],
    ['user:secret@proxy.example:3128', 'http://proxy.example:3128', basic('user:secret')],
    ['http://proxy.example', 'http://proxy.example:1080', undefined],
    ['http://proxy.example:80/', 'http://proxy.example:80', undefined],
    ['https://proxy.example', 'https://proxy.example:443', undefined],
    ['HTTPS://proxy.example:8443/ignored?x', 'https://proxy.example:8443', undefined],
    ['http://[::1]', 'http://[::1]:1080', undefined],
    ['http://[::1]:80', 'http://[::1]:80', undefined],
    ['http://us%40er:p%3Aw%ff@proxy.example', 'http://proxy.example:1080', basic('us@er:p:w\xff')],
    ['http://user@proxy.example', 'http://proxy.example:1080', basic('user:')],
  ])('%s', (text, shown, authorization) => {
    const proxy = proxyOf(text);
    expect(proxy && describeProxy(proxy)).toBe(shown);
    expect(proxy?.authorization).toBe(authorization);
  });

  it.each([
    ['http://user:tops3cret#x@proxy.example:3128', /percent-encoded/],
    ['http://user:tops3cret@', /must look like/],
    ['http://tops3cret proxy.example', /must look like/],
    ['ftp://user:tops3cret@proxy.example', /must look like/],
    ['http://proxy.example:99999', /must look like/],
    ['http://proxy.example:0', /port 0/],
    ['socks5://user:tops3cret@proxy.example', /SOCKS/],
    ['SOCKS4a://proxy.example', /SOCKS/],
  ])('%s is refused, and not quoted', (text, problem) => {
    expect(proxyProblem(text)).toMatch(problem);
    expect(proxyProblem(text)).not.toContain('tops3cret');
    expect(() => createProxyChoice({ https: text })).toThrow(problem);
  });

  it('one that is empty is none; http and https each have their own', () => {
    const choose = createProxyChoice({ http: '', https: 'http://proxy.example:3128' });
    expect(choose({ secure: false, host: 'target.example' })).toBeUndefined();
    expect(choose({ secure: true, host: 'target.example' })).toMatchObject({ host: 'proxy.example', port: 3128 });
  });
});
