import { describe, expect, it } from 'vitest';
import { attemptsOf } from '../../src/postgres/pg-target.ts';

describe('a connection string', () => {
  it('is read in its URL forms', () => {
    expect(attemptsOf({ connectionString: 'postgres://al%40ice:p%2Fw@db.example:6432/app' })).toEqual([
      { user: 'al@ice', password: 'p/w', host: 'db.example', port: 6432, database: 'app' },
    ]);
    expect(attemptsOf({ connectionString: 'postgresql://[::1]/app?user=bob&options=-c%20geqo%3Doff' })).toEqual([
      { user: 'bob', host: '::1', database: 'app', options: '-c geqo=off' },
    ]);
    expect(attemptsOf({ connectionString: '/run/postgresql app' })).toEqual([
      { host: '/run/postgresql', database: 'app' },
    ]);
    expect(attemptsOf({ connectionString: '' })).toEqual([{}]);
  });

  it('gives way to another database and user', () => {
    const target = { connectionString: 'postgres://alice:pw@db/app', database: 'o#t/h er', user: 'bob' };
    expect(attemptsOf(target)).toEqual([{ user: 'bob', password: 'pw', host: 'db', database: 'o#t/h er' }]);
  });

  it.each([
    ['disable', [false]],
    ['prefer', [{ rejectUnauthorized: false }, false]],
    ['allow', [{ rejectUnauthorized: false }, false]],
    ['require', [{ rejectUnauthorized: false }]],
    ['no-verify', [{ rejectUnauthorized: false }]],
    ['verify-full', [{}]],
  ])('means with sslmode=%s what libpq means', (mode, ssl) => {
    const attempts = attemptsOf({ connectionString: `postgres://db/app?sslmode=${mode}` });
    expect(attempts.map((attempt) => attempt.ssl)).toEqual(ssl);
  });

  it('that cannot be read is refused without quoting the password', () => {
    const read = (): unknown => attemptsOf({ connectionString: 'postgres://alice:s3cret@db:port:x/app' });
    expect(read).toThrow('the connection string cannot be read');
    expect(read).not.toThrow('s3cret');
  });
});
