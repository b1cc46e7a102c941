import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { noTimings, type Outcome, type Reply } from '../../src/core/outcome.ts';
import { withoutSecrets } from '../../src/core/secret-redaction.ts';
import { secretValueProblem } from '../../src/core/secret-values.ts';
import { value } from './furnish.ts';

const secrets = [{ name: 'stripe', value }];
const large = 1_000_000;

function reply(body: string | Uint8Array, parts: Partial<Reply> = {}): Reply {
  const headers = [['Content-Type', 'text/plain']] as const;
  return {
    kind: 'reply',
    status: 200,
    headers,
    body: Buffer.from(body),
    truncated: false,
    timings: noTimings,
    ...parts,
  };
}

function redacted(outcome: Outcome, bytesMax: number = large): Reply {
  const result = withoutSecrets(outcome, secrets, bytesMax);
  if (result.kind !== 'reply') throw new Error('not a reply');
  return result;
}

const text = ({ body }: Reply): string => Buffer.from(body).toString();

describe('of a body', () => {
  test('every occurrence goes, and nothing else', () => {
    expect(text(redacted(reply(`a ${value}, ${value}${value}.`)))).toBe(
      'a {{secret.stripe}}, {{secret.stripe}}{{secret.stripe}}.',
    );
    const bytes = Buffer.from([0, 255, 254, 115, 107, 95]);
    expect(redacted(reply(bytes)).body).toEqual(bytes);
  });

  test('as JSON, a URL and UTF-16 write it', () => {
    expect(text(redacted(reply(JSON.stringify({ a: value }))))).toBe('{"a":"{{secret.stripe}}"}');
    expect(text(redacted(reply(`?key=${encodeURIComponent(value)}&b`)))).toBe('?key={{secret.stripe}}&b');
    const utf16 = Buffer.from(`x ${value} y`, 'utf16le');
    expect(Buffer.from(redacted(reply(utf16)).body).toString('utf16le')).toBe('x {{secret.stripe}} y');
    const swapped = Buffer.from(redacted(reply(Buffer.from(utf16).swap16())).body).swap16();
    expect(swapped.toString('utf16le')).toBe('x {{secret.stripe}} y');
  });

  test('an end that begins a secret goes where the body was cut, and stays where it was not', () => {
    const begun = `ok ${value.slice(0, 7)}`;
    expect(redacted(reply(begun, { truncated: true }))).toMatchObject({ body: Buffer.from('ok '), truncated: true });
    expect(text(redacted(reply(begun)))).toBe(begun);
  });

  test('a longer secret goes before one that it begins with', () => {
    const two = [
      { name: 'short', value: 'abcdefgh' },
      { name: 'long', value: 'abcdefghijkl' },
    ];
    const result = withoutSecrets(reply('abcdefghijkl abcdefghi'), two, large);
    expect(result.kind === 'reply' && text(result)).toBe('{{secret.long}} {{secret.short}}i');
  });

  test('it keeps to the limit though names are longer than values', () => {
    const used = [{ name: 'of-a-long-name', value: '12345678' }];
    const result = withoutSecrets(reply('12345678'.repeat(1_000)), used, 8_000);
    if (result.kind !== 'reply') throw new Error('not a reply');
    expect(result).toMatchObject({ truncated: true, body: { byteLength: 8_000 } });
    expect(text(result)).toMatch(/^({{secret\.of-a-long-name}}){100,}[^1-8]*$/);
  });

  test('whatever the server says around it, and wherever it is cut, no secret is left', () => {
    const secret = fc
      .string({ minLength: 8, maxLength: 12, unit: fc.constantFrom('a', 'b', '"', '\\', ' ', 'é', '𝄞') })
      .filter((text) => secretValueProblem(text) === undefined);
    fc.assert(
      fc.property(
        fc.array(secret, { minLength: 1, maxLength: 3 }),
        fc.array(fc.oneof(fc.nat({ max: 2 }), fc.string({ unit: fc.constantFrom('a', 'b', 'é', '"') })), {
          maxLength: 8,
        }),
        fc.nat({ max: 120 }),
        (values, pieces, bytesMax) => {
          const said = pieces.map((piece) => (typeof piece === 'string' ? piece : (values[piece] ?? ''))).join('');
          const whole = Buffer.from(said);
          const cut = reply(whole.subarray(0, bytesMax), { truncated: whole.length > bytesMax });
          const used = values.map((each, index) => ({ name: `n${index}`, value: each }));
          const result = withoutSecrets(cut, used, bytesMax);
          if (result.kind !== 'reply') throw new Error('not a reply');
          expect(result.body.byteLength).toBeLessThanOrEqual(bytesMax);
          for (const each of values) {
            // One may be put together of what was beside others.
            if (values.some((other) => other !== each && (other.includes(each) || each.includes(other)))) continue;
            expect(Buffer.from(result.body).includes(Buffer.from(each))).toBe(false);
            const beginning = Buffer.from(each).subarray(0, -1);
            if (result.truncated)
              expect(Buffer.from(result.body).subarray(-beginning.length).equals(beginning)).toBe(false);
          }
        },
      ),
      { numRuns: 2_000 },
    );
  });
});

test('of headers, their names, the final URL and errors', () => {
  const bytes = Buffer.from(value).toString('latin1');
  const redirected = { url: `https://api.example.com/?q=${value}`, hops: 1 };
  const result = redacted(
    reply('', {
      headers: [
        ['X-Echo', `Bearer ${bytes}`],
        [bytes, 'x'],
      ],
      redirected,
    }),
  );
  expect(result.headers).toEqual([
    ['X-Echo', 'Bearer {{secret.stripe}}'],
    ['{{secret.stripe}}', 'x'],
  ]);
  expect(result.redirected).toEqual({ url: 'https://api.example.com/?q={{secret.stripe}}', hops: 1 });
  const failure = withoutSecrets(
    { kind: 'failure', code: 'failed', message: `Unexpected failure: ${value}`, redirected, timings: noTimings },
    secrets,
    large,
  );
  expect(failure).toMatchObject({
    message: 'Unexpected failure: {{secret.stripe}}',
    redirected: { url: 'https://api.example.com/?q={{secret.stripe}}' },
  });
});

test.each([
  new URL(`https://api.example.com/?q=${value}`).href,
  new URL(`https://api.example.com/${encodeURIComponent(value)}/x`).href,
  `https://api.example.com/?${[...Buffer.from(value)].map((byte) => `%${byte.toString(16).padStart(2, '0')}`).join('')}`,
])('a URL from which a secret can be read keeps its origin only: %s', (url) => {
  expect(redacted(reply('', { redirected: { url, hops: 1 } })).redirected?.url).toBe('https://api.example.com/');
});
