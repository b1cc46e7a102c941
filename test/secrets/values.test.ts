import { execFileSync } from 'node:child_process';
import { chmodSync, mkdirSync, renameSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test, vi } from 'vitest';
import { secretDirectory } from '../../src/secrets/directory.ts';
import { createSecrets } from '../../src/secrets/secrets.ts';
import { temporaryDirectory } from '../support/servers.ts';
import { bindings, claimed, expectFurnished, furnish } from './furnish.ts';

const standing = { hostRules: undefined, roles: new Set(['billing']) };

describe('a value', () => {
  const unavailable = (message: string) =>
    expect.objectContaining({ kind: 'failure', code: 'secret_unavailable', message: `The secret "stripe" ${message}` });

  test.each<[string | undefined, string]>([
    [undefined, 'has no value'],
    ['', 'cannot be used: it has fewer than 8 characters'],
    ['1234567', 'cannot be used: it has fewer than 8 characters'],
    ['é'.repeat(4_097), 'cannot be used: it has more than 8192 bytes'],
    ['two\r\nlines: x', 'cannot be used: it holds control characters'],
    ['nul\0nulnul', 'cannot be used: it holds control characters'],
    [' 12345678', 'cannot be used: it begins or ends with a blank'],
    ['12345678 ', 'cannot be used: it begins or ends with a blank'],
    ['12345678\ud800', 'cannot be used: it is not Unicode'],
  ])('%j: %s', async (value, message) => {
    expect(await furnish({}, { source: { read: async () => value } })).toEqual(unavailable(message));
  });

  test('whose source fails is told without the source’s words', async () => {
    const failing = (error: unknown) => furnish({}, { source: { read: () => Promise.reject(error) } });
    expect(await failing(new Error('token sk_live_12345678 is bad'))).toEqual(unavailable('could not be read'));
    expect(await failing('sk_live_12345678')).toEqual(unavailable('could not be read'));
    expect(await failing(Object.assign(new Error(), { code: 'EACCES' }))).toEqual(
      unavailable('could not be read (EACCES)'),
    );
    expect(await failing(Object.assign(new Error(), { code: 'sk_live' }))).toEqual(unavailable('could not be read'));
    const throwing = {
      read: () => {
        throw new Error('sk_live_12345678');
      },
    };
    expect(await furnish({}, { source: throwing })).toEqual(unavailable('could not be read'));
  });

  test('whose source hangs is given up by the request’s time, or after some seconds; the next request asks anew', async () => {
    vi.useFakeTimers();
    try {
      let asked = 0;
      const source = {
        read: () => {
          asked += 1;
          return new Promise<string>(() => {});
        },
      };
      const secrets = createSecrets({ bindings, source });
      const short = secrets.furnish(claimed({ timeoutMs: 50 }), standing);
      const long = secrets.furnish(claimed({ timeoutMs: 86_400_000 }), standing);
      await vi.advanceTimersByTimeAsync(60);
      expect(await short).toEqual(unavailable('could not be read in time'));
      await vi.advanceTimersByTimeAsync(5_000);
      expect(await long).toEqual(unavailable('could not be read in time'));
      expect(asked, 'they shared one reading').toBe(1);
      const next = secrets.furnish(claimed({ timeoutMs: 10 }), standing);
      await vi.advanceTimersByTimeAsync(10);
      await next;
      expect(asked).toBe(2);
      await vi.advanceTimersByTimeAsync(5_000);
      expect(vi.getTimerCount()).toBe(0);
    } finally {
      vi.useRealTimers();
    }
  });

  test('is kept for a second, and what the reading took counts for the request', async () => {
    let nowMs = 0;
    let asked = 0;
    const source = {
      read: async () => {
        nowMs += 30;
        return `the value ${++asked}`;
      },
    };
    const secrets = createSecrets({ bindings, source, now: () => nowMs });
    const sent = async () => {
      const { request } = expectFurnished(await secrets.furnish(claimed(), standing));
      return [request.headers[0]?.[1], request.spentMs];
    };
    expect(await sent()).toEqual(['Bearer the value 1', 30]);
    nowMs += 999;
    expect(await sent()).toEqual(['Bearer the value 1', 0]);
    nowMs += 1;
    expect(await sent()).toEqual(['Bearer the value 2', 30]);
  });

  test('that was not there is looked for again at once', async () => {
    let value: string | undefined;
    const secrets = createSecrets({ bindings, source: { read: async () => value } });
    expect(await secrets.furnish(claimed(), standing)).toEqual(unavailable('has no value'));
    expect(await secrets.problems()).toContainEqual({ name: 'stripe', problem: 'has no value' });
    value = 'now it is there';
    expectFurnished(await secrets.furnish(claimed(), standing));
    expect(await secrets.problems()).toEqual([]);
  });
});

describe('a directory', () => {
  test('has a file for each secret; a line break at the end is none of its value', async () => {
    const path = temporaryDirectory('secrets');
    const write = (content: string | Uint8Array) => writeFileSync(join(path, 'stripe'), content);
    const read = () => secretDirectory(path).read('stripe');
    expect(await read()).toBeUndefined();
    write('value\n');
    expect(await read()).toBe('value');
    write('value\r\n');
    expect(await read()).toBe('value');
    write('value\n\n');
    expect(await read()).toBe('value\n');
    write('');
    expect(await read()).toBe('');
    write('x'.repeat(100_000));
    expect((await read())?.length).toBeGreaterThan(8_192);
    write(Buffer.from([0xff, 0xfe]));
    await expect(read()).rejects.toThrow();
  });

  test('is read through links, as Kubernetes has them, and anew when they point elsewhere', async () => {
    const path = temporaryDirectory('secrets');
    for (const version of ['one', 'two']) {
      mkdirSync(join(path, `..${version}`));
      writeFileSync(join(path, `..${version}`, 'stripe'), `value ${version}`);
    }
    symlinkSync('..one', join(path, '..data'));
    symlinkSync('..data/stripe', join(path, 'stripe'));
    const source = secretDirectory(path);
    expect(await source.read('stripe')).toBe('value one');
    symlinkSync('..two', join(path, '..data_tmp'));
    renameSync(join(path, '..data_tmp'), join(path, '..data'));
    expect(await source.read('stripe')).toBe('value two');
    rmSync(join(path, '..two'), { recursive: true });
    expect(await source.read('stripe')).toBeUndefined();
  });

  test('is not left, and what is no file is not read', async () => {
    const parent = temporaryDirectory('secrets');
    const path = join(parent, 'inner');
    mkdirSync(join(path, 'directory'), { recursive: true });
    writeFileSync(join(parent, 'outside'), 'a value outside');
    chmodSync(path, 0o755);
    execFileSync('mkfifo', [join(path, 'pipe')]);
    const source = secretDirectory(path);
    for (const name of ['../outside', '..', '.', '', 'a/b', 'A', `inner\0`]) {
      expect(await source.read(name), name).toBeUndefined();
    }
    await expect(source.read('directory')).rejects.toMatchObject({ code: expect.stringMatching(/^E/) });
    await expect(source.read('pipe')).rejects.toMatchObject({ code: 'EINVAL' });
  });
});
