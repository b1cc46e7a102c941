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

  test.each([
    ['PHP, JSON', 'sk+a\\/b=c&d é"'.replace('é', '\\u00e9').replace('"', '\\"')],
    ['.NET, JSON', 'sk\\u002Ba/b=c\\u0026d \\u00E9\\u0022'],
    ['Go, JSON', 'sk+a/b=c\\u0026d é\\"'],
    ['a header taken for Latin-1, JSON in ASCII', 'sk+a/b=c&d \\u00c3\\u00a9\\"'],
    ['a header taken for Latin-1', 'sk+a/b=c&d Ã©"'],
    ['Handlebars, HTML', 'sk+a&#x2F;b&#x3D;c&amp;d é&quot;'],
    ['PHP, HTML', 'sk+a/b=c&amp;d é&quot;'],
    ['a form', 'sk%2Ba%2Fb%3Dc%26d+%C3%A9%22'],
    ['a URL in lower case', 'sk%2ba%2fb%3dc%26d%20%c3%a9%22'],
    ['a path', 'sk+a/b=c&d%20%C3%A9%22'],
  ])('as it is written by %s', (_by, written) => {
    const used = [{ name: 'x', value: 'sk+a/b=c&d é"' }];
    const result = (body: string, parts: Partial<Reply> = {}) => {
      const outcome = withoutSecrets(reply(body, parts), used, large);
      if (outcome.kind !== 'reply') throw new Error('not a reply');
      return outcome;
    };
    expect(text(result(`<${written}>`))).toBe('<{{secret.x}}>');
    const headers = [['X-Echo', Buffer.from(written).toString('latin1')]] as const;
    expect(result('', { headers }).headers).toEqual([['X-Echo', '{{secret.x}}']]);
    const bytes = Buffer.from(`<${written}`);
    for (let length = 1; length < bytes.length; length++) {
      expect(text(result('', { body: bytes.subarray(0, length), truncated: true })), `of ${length} bytes`).toBe('<');
    }
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

  test('of secrets that overlap, or of which one holds the other, nothing is left', () => {
    const said = (body: string, ...values: string[]): string => {
      const used = values.map((each, index) => ({ name: `n${index}`, value: each }));
      const result = withoutSecrets(reply(body, { truncated: true }), used, large);
      return result.kind === 'reply' ? text(result) : '';
    };
    expect(said('<abcdefghijkl>', 'abcdefgh', 'efghijkl')).toBe('<{{secret.n0}}>');
    expect(said('<head-abcdefgh-tail>', 'abcdefgh', 'head-abcdefgh-tail')).toBe('<{{secret.n1}}>');
    expect(said('<head-abcdefgh-ta', 'abcdefgh', 'head-abcdefgh-tail')).toBe('<');
    expect(said('<abcdefghij', 'abcdefgh', 'abcdefghijkl')).not.toContain('ij');
  });

  test('a secret of any length and of any characters is found', () => {
    const many = { name: 'x', value: 'a/\\"'.repeat(2_000) };
    const result = withoutSecrets(reply(`<${JSON.stringify(many.value)}>`), [many], large);
    expect(result.kind === 'reply' && text(result)).toBe('<"{{secret.x}}">');
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
  [new URL(`https://api.example.com/?q=${value}`).href, 'https://api.example.com/?q={{secret.stripe}}'],
  [`https://api.example.com/${encodeURIComponent(value)}/x`, 'https://api.example.com/{{secret.stripe}}/x'],
  [`https://api.example.com/?${inPercents(value)}`, 'https://api.example.com/'],
])('a final URL says no secret: %s', (url, expected) => {
  expect(redacted(reply('', { redirected: { url, hops: 1 } })).redirected?.url).toBe(expected);
});

test('a final URL whose host says a secret, which is in lower case there, keeps its scheme only', () => {
  const used = [{ name: 'x', value: 'AbCdEfGh1' }];
  for (const rest of ['', `?q=${inPercents('AbCdEfGh1')}`]) {
    const redirected = { url: new URL(`https://AbCdEfGh1.example.com/${rest}`).href, hops: 1 };
    expect(withoutSecrets(reply('', { redirected }), used, large).redirected?.url).toBe('https://');
  }
});

function inPercents(text: string): string {
  return [...Buffer.from(text)].map((byte) => `%${byte.toString(16).padStart(2, '0')}`).join('');
}
