import { expect, test } from 'vitest';
import { hostOfOrigin, limitOfHost, limitOfKey, parseLimits } from '../../src/core/limits.ts';

const rows = parseLimits(
  JSON.stringify([
    { host: '*', key: null, requests_per_second: null, concurrency: 1, breaker: true },
    { host: '*.example.com', key: null, requests_per_second: null, concurrency: 2, breaker: false },
    { host: '*.eu.example.com', key: null, requests_per_second: null, concurrency: 3, breaker: false },
    { host: 'api.eu.example.com', key: null, requests_per_second: 0.5, concurrency: 4, breaker: false },
    { host: null, key: 'tenant-*', requests_per_second: null, concurrency: 5, breaker: false },
    { host: null, key: 'tenant-1*', requests_per_second: null, concurrency: 6, breaker: false },
    { host: null, key: 'tenant-1', requests_per_second: null, concurrency: 7, breaker: false },
  ]),
);

test('the row that matches most closely is obeyed', () => {
  const ofHost = (host: string): number | undefined => limitOfHost(rows, host)?.concurrency;
  expect(ofHost('other.org')).toBe(1);
  expect(ofHost('example.com')).toBe(1);
  expect(ofHost('badexample.com')).toBe(1);
  expect(ofHost('a.example.com')).toBe(2);
  expect(ofHost('b.eu.example.com')).toBe(3);
  expect(ofHost('api.eu.example.com')).toBe(4);
  const ofKey = (key: string): number | undefined => limitOfKey(rows, key)?.concurrency;
  expect(ofKey('tenant-2')).toBe(5);
  expect(ofKey('tenant-')).toBe(5);
  expect(ofKey('tenant-12')).toBe(6);
  expect(ofKey('tenant-1')).toBe(7);
  expect(ofKey('other')).toBeUndefined();
  expect(limitOfHost([], 'example.com')).toBeUndefined();
  expect(parseLimits(null)).toEqual([]);
});

test('a host is the same however it is written', () => {
  for (const origin of ['api.example.com', 'API.Example.com:443', 'user:word@api.example.com.:8080']) {
    expect(hostOfOrigin(origin)).toBe('api.example.com');
  }
  expect(hostOfOrigin('[2001:DB8:0::1]:80')).toBe('2001:db8::1');
  expect(hostOfOrigin('')).toBeUndefined();
  expect(hostOfOrigin('a b')).toBeUndefined();
});
