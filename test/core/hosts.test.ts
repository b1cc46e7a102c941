import { describe, expect, it } from 'vitest';
import { canonicalHost, isHostPattern, matchesHost } from '../../src/core/hosts.ts';

describe('a host', () => {
  it.each([
    ['API.Example.', 'api.example'],
    ['[0:0::1]', '::1'],
    ['FD00:0:0::5', 'fd00::5'],
    ['192.0.2.1', '192.0.2.1'],
    ['*.Example', '*.example'],
  ])('%s is spelled %s', (given, canonical) => {
    expect(canonicalHost(given)).toBe(canonical);
  });
});

describe('a pattern', () => {
  it.each([
    'api.example',
    'localhost',
    '*.example',
    '*.a.example',
    'x_y.example',
    '192.0.2.1',
    '::1',
    '[fd00::5]',
    'a.',
  ])('%s can be one', (text) => {
    expect(isHostPattern(text)).toBe(true);
  });

  it.each([
    '',
    '.',
    '*',
    '*.',
    '*example',
    'a.*.example',
    '*.192.0.2.1',
    '192.0.2',
    '0x7f.1',
    'https://api.example',
    'api.example:443',
    'api.example/x',
    'a b',
    'bücher.example',
    'fe80::1%eth0',
    '10.0.0.0/8',
  ])('%j cannot', (text) => {
    expect(isHostPattern(text)).toBe(false);
  });

  it.each([
    [['a.example'], 'a.example', true],
    [['a.example'], 'b.a.example', false],
    [['b.example', 'a.example'], 'a.example', true],
    [['*.a.example'], 'b.a.example', true],
    [['*.a.example'], 'c.b.a.example', true],
    [['*.a.example'], 'a.example', false],
    [['*.a.example'], 'ba.example', false],
    [[], 'a.example', false],
  ] as const)('%j and %s: %j', (patterns, host, expected) => {
    expect(matchesHost(patterns, host)).toBe(expected);
  });
});
