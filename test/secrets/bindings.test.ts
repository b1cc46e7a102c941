import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { createSecrets, noSecrets } from '../../src/secrets/secrets.ts';
import { bindings, claimed, expectFurnished, furnish, type Given, value } from './furnish.ts';

const denied = (message: string | RegExp) =>
  expect.objectContaining({ kind: 'failure', code: 'secret_refused', message: expect.stringMatching(message) });

describe('who may use a secret, and where', () => {
  const authorization = `Bearer ${value}`;

  test.each<[string, Given]>([
    ['for a role and a host that it is bound to', {}],
    ['for another of its roles', { roles: ['audit'] }],
    ['whatever the port and the spelling of the host', { url: 'https://API.Example.com.:8443/' }],
    ['to a name below one', { url: 'https://a.b.eu.example.com/' }],
    ['by plain http to a host for which that is allowed', { url: 'http://plain.example/' }],
    ['by https to such a host', { url: 'https://plain.example/' }],
    [
      'with a header Host that names the same host',
      {
        headers: [
          ['host', 'API.example.com:443'],
          ['Authorization', 'Bearer {{secret.stripe}}'],
        ],
      },
    ],
  ])('it is sent %s', async (_what, given) => {
    const { request, secrets } = expectFurnished(await furnish(given));
    expect(request.headers).toContainEqual(['Authorization', authorization]);
    expect(request.secretHeaders).toEqual(new Set(['authorization']));
    expect(secrets).toEqual([{ name: 'stripe', value }]);
  });

  test.each<[string, Given, RegExp]>([
    ['to another host', { url: 'https://evil.example/' }, /^The secret "stripe" is not for this host$/],
    ['to the parent of a pattern', { url: 'https://eu.example.com/' }, /not for this host/],
    ['to a name that only ends alike', { url: 'https://xapi.example.com/' }, /not for this host/],
    ['to a host in the user information', { url: 'https://api.example.com@evil.example/' }, /not for this host/],
    ['to a URL that is none', { url: 'https://api.example.com:x/' }, /not for this host/],
    ['by plain http', { url: 'http://api.example.com/' }, /^The secret "stripe" is sent to this host over https only$/],
    ['for another role', { roles: ['other'] }, /^There is no secret "stripe" that this role may use$/],
    ['for no role', { roles: [] }, /^There is no secret "stripe" that this role may use$/],
    [
      'with a header Host that names another',
      {
        headers: [
          ['Host', 'evil.example'],
          ['X', '{{secret.shared}}'],
        ],
      },
      /header "Host" that names another host/,
    ],
    [
      'with a header Host that is none',
      {
        headers: [
          ['Host', ''],
          ['X', '{{secret.shared}}'],
        ],
      },
      /header "Host"/,
    ],
    ['in the header Host', { headers: [['HOST', '{{secret.shared}}']] }, /^The header "Host" cannot hold a secret$/],
    [
      'by a signature of another host',
      { url: 'https://evil.example/', headers: [], signWith: 'hook' },
      /"hook" is not for this host/,
    ],
  ])('it is not sent %s', async (_what, given, message) => {
    const read: string[] = [];
    const source = {
      read: async (name: string) => {
        read.push(name);
        return value;
      },
    };
    expect(await furnish(given, { source })).toEqual(denied(message));
    expect(read, 'nothing was asked for its value').toEqual([]);
  });

  test('a header Host of a row by hand, however long, takes no time', async () => {
    const host = `${' '.repeat(60_000)}a${' '.repeat(60_000)}:x`;
    const headers = [
      ['Host', host],
      ['X', '{{secret.shared}}'],
    ] as const;
    expect(await furnish({ headers })).toEqual(denied(/header "Host" that names another host/));
  });

  test('who may not use it does not learn whether there is one', async () => {
    const of = async (name: string): Promise<string> => {
      const result = await furnish({ headers: [['X', `{{secret.${name}}}`]], roles: [] });
      return result.kind === 'failure' ? `${result.code} ${result.message.replace(name, '?')}` : 'sent';
    };
    expect(await of('stripe')).toBe(await of('nosuch'));
    const evil = { url: 'https://evil.example/', headers: [['X', '{{secret.stripe}}']] as const, roles: [] };
    expect(await furnish(evil)).toEqual(denied(/^There is no secret "stripe" that this role may use$/));
  });

  test('a worker that has none refuses what refers to one', async () => {
    expect(await noSecrets.furnish(claimed(), { hostRules: undefined, roles: new Set() })).toEqual(denied(/no secret/));
    const row = claimed({ headers: [], signWith: 'x'.repeat(10_000) });
    const refused = await noSecrets.furnish(row, { hostRules: undefined, roles: new Set() });
    expect(refused.kind === 'failure' && refused.message.length).toBeLessThan(200);
  });

  test('a request with a secret asks for no compressed reply, in which nobody would find what the server said', async () => {
    const headers = [
      ['accept-Encoding', 'gzip'],
      ['X', '{{secret.shared}}'],
    ] as const;
    expect(expectFurnished(await furnish({ headers })).request.headers).toEqual([['X', value]]);
  });

  test('only one of several that is not bound is enough to refuse', async () => {
    const headers = [
      ['A', '{{secret.shared}}'],
      ['B', 'x {{ secret.stripe }}'],
    ] as const;
    expect(await furnish({ headers, roles: [] })).toEqual(denied(/"stripe"/));
  });

  test('whatever host is bound, no other gets it', async () => {
    const label = fc.stringMatching(/^[a-z][a-z0-9]{0,5}$/);
    const host = fc.array(label, { minLength: 2, maxLength: 4 }).map((labels) => labels.join('.'));
    await fc.assert(
      fc.asyncProperty(host, host, fc.boolean(), async (bound, asked, below) => {
        const secrets = createSecrets({
          bindings: { stripe: { hosts: [below ? `*.${bound}` : bound], roles: ['public'] } },
          source: { read: async () => value },
        });
        const standing = { hostRules: undefined, roles: new Set<string>() };
        const { kind } = await secrets.furnish(claimed({ url: `https://${asked}/` }), standing);
        expect(kind).toBe((below ? asked.endsWith(`.${bound}`) : asked === bound) ? 'furnished' : 'failure');
      }),
    );
  });
});

describe('references', () => {
  const resolved = async (text: string) => {
    const result = await furnish({ headers: [['X', text]] });
    return result.kind === 'failure' ? `${result.code}: ${result.message}` : result.request.headers[0]?.[1];
  };

  test.each([
    ['{{secret.stripe}}', value],
    ['{{ secret.stripe\t}}', value],
    ['a {{secret.stripe}}{{secret.shared}} b', `a ${value}${value} b`],
    ['{{secret.stripe}} {{other}} { {secret.x}}', `${value} {{other}} { {secret.x}}`],
    ['{{{secret.stripe}}}', `{${value}}`],
  ])('%s', async (text, expected) => {
    expect(await resolved(text)).toBe(expected);
  });

  test.each([
    '{{secret.Stripe}}',
    '{{Secret.stripe}}',
    '{{secretary}}',
    '{{secret.}}',
    '{{secret.stripe}',
    '{{secret}}',
    '{{secret .stripe}}',
    '{{secret.a/b}}',
    '{{secret.../x}}',
    `{{secret.${'a'.repeat(64)}}}`,
    '{{secret.stripe}} {{secret.}}',
    '{{secret.{{secret.stripe}}}}',
    '{{ secret.stripe\n}}',
  ])('%j is malformed, and is not quoted', async (text) => {
    const message = await resolved(text);
    expect(message).toMatch(/^secret_refused: The header "X" holds a malformed reference to a secret/);
    expect(message).not.toContain(text);
  });

  test('a value is put in as it is, and nothing in it is replaced again', async () => {
    const source = { read: async (name: string) => (name === 'stripe' ? '{{secret.shared}} $1 $& $$' : value) };
    const { request } = expectFurnished(await furnish({ headers: [['X', '{{secret.stripe}}']] }, { source }));
    expect(request.headers).toEqual([['X', '{{secret.shared}} $1 $& $$']]);
  });

  test('a few bytes do not become thousands', async () => {
    const source = { read: async () => 'x'.repeat(8_000) };
    const many = await furnish({ headers: [['X', '{{secret.stripe}}'.repeat(3_000)]] }, { source });
    expect(many).toMatchObject({ code: 'invalid_request', message: expect.stringMatching(/too large/) });
    expectFurnished(await furnish({ headers: [['X', '{{secret.stripe}}'.repeat(8)]] }, { source }));
  });

  test('without a reference nothing is made of text that looks like a pattern', async () => {
    await fc.assert(
      fc.asyncProperty(fc.string({ unit: fc.constantFrom('{', '}', ' ', 's', '.', '$', 'a') }), async (text) => {
        expect(await resolved(`${text}{{secret.stripe}}`)).toBe(`${text}${value}`);
      }),
    );
  });
});

test.each<[string, unknown, RegExp]>([
  ['a name in upper case', { Stripe: bindings['stripe'] }, /"Stripe" cannot be the name of a secret/],
  ['a name with a path', { '../x': bindings['stripe'] }, /"\.\.\/x" cannot be the name of a secret/],
  ['no hosts', { a: { hosts: [], roles: ['public'] } }, /"a" must list the hosts/],
  ['no roles', { a: { hosts: ['x.example'] } }, /"a" must list the roles/],
  ['every host', { a: { hosts: ['*'], roles: ['public'] } }, /has as host 1 what is none/],
  ['a URL', { a: { hosts: ['https://x.example/'], roles: ['public'] } }, /has as host 1 what is none/],
  ['a port', { a: { hosts: ['x.example:443'], roles: ['public'] } }, /without port and path/],
  ['a role without a name', { a: { hosts: ['x.example'], roles: [''] } }, /role without a name/],
  ['another key', { a: { hosts: ['x.example'], roles: ['public'], value: 'x' } }, /"a" has no "value"/],
  ['no object', [], /must be an object/],
])('a binding with %s is refused', (_what, given, message) => {
  expect(() => createSecrets({ bindings: given as typeof bindings, source: { read: async () => undefined } })).toThrow(
    message,
  );
});
