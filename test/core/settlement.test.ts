import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { admit } from '../../src/core/admit.ts';
import { backoffMs } from '../../src/core/backoff.ts';
import { decodeBody } from '../../src/core/decode.ts';
import { noTimings, type Outcome } from '../../src/core/outcome.ts';
import type { QueueRow } from '../../src/core/request.ts';
import { charactersToCheck, settlementOf, unrecordable, withoutCharacters } from '../../src/core/settlement.ts';

const row: QueueRow = {
  id: 7n,
  method: 'GET',
  url: 'http://example.com/',
  headersJson: '{}',
  body: null,
  timeoutMs: 2000,
  loginRole: 10,
  setRole: null,
  signWith: null,
  extras: undefined,
};

const headerText = fc.oneof(
  fc.string({ unit: fc.integer({ min: 0, max: 255 }).map((byte) => String.fromCharCode(byte)), maxLength: 20 }),
  fc.constantFrom('a', 'b', '__proto__', 'Set-Cookie'),
);
const redirected = fc.option(fc.record({ url: fc.webUrl(), hops: fc.integer({ min: 1, max: 30 }) }), {
  nil: undefined,
});
const outcome: fc.Arbitrary<Outcome> = fc.oneof(
  fc.record({
    kind: fc.constant('reply' as const),
    status: fc.integer({ min: 0, max: 999 }),
    headers: fc.array(fc.tuple(headerText, headerText), { maxLength: 40 }),
    body: fc.uint8Array({ maxLength: 64 }),
    truncated: fc.boolean(),
    timings: fc.constant(noTimings),
  }),
  fc.record({
    kind: fc.constant('failure' as const),
    code: fc.constantFrom('timed_out' as const, 'connect_failed' as const, 'denied' as const),
    message: fc.string({ minLength: 1 }),
    timings: fc.constant(noTimings),
  }),
);

describe('a settlement', () => {
  test('has a status or an error, never both, never neither, and nothing that text cannot hold', () => {
    fc.assert(
      fc.property(outcome, (result) => {
        const settlement = settlementOf(row, result, undefined);
        expect((settlement.statusCode === null) !== (settlement.errorMessage === null)).toBe(true);
        expect((settlement.errorMessage === null) === (settlement.errorCode === null)).toBe(true);
        expect(settlement.timedOut).toBe(settlement.errorCode === 'timed_out');
        for (const text of [settlement.content, settlement.contentType, settlement.headersJson]) {
          expect(text ?? '').not.toContain('\0');
        }
      }),
    );
  });

  test('says where a request was redirected to, and loses no header', () => {
    fc.assert(
      fc.property(outcome, redirected, (result, place) => {
        const settlement = settlementOf(row, { ...result, redirected: place }, undefined);
        expect(settlement).toMatchObject({ finalUrl: place?.url ?? null, redirects: place?.hops ?? null });
        if (result.kind === 'failure') {
          expect(settlement.headerListJson).toBeNull();
          return;
        }
        const names = result.headers.map(([name]) => name);
        const isRepeated = new Set(names).size < names.length;
        const object = Object.entries(JSON.parse(settlement.headersJson ?? ''));
        const list = JSON.parse(settlement.headerListJson ?? 'null');
        expect(list === null).toBe(!isRepeated);
        const byName = (pairs: readonly unknown[]): string[] => pairs.map((pair) => JSON.stringify(pair)).sort();
        if (isRepeated) expect(byName([...new Map(list).entries()])).toEqual(byName(object));
        expect((list ?? object).length).toBe(names.length);
      }),
      { numRuns: 500 },
    );
  });

  test.each([
    ['Gr\u00c3\u00bc\u00c3\u009fe', 'Grüße'],
    ['Gr\u00fc\u00dfe', 'Grüße'],
    ['\u00c3', 'Ã'],
    ['a\0b', 'a\uFFFDb'],
    ['日本', '日本'],
  ])('has the header value %j as %s', (value, text) => {
    const headers = [
      ['Content-Type', value],
      ['x', 'ascii'],
      ['x', value],
    ] as const;
    const reply = { kind: 'reply', status: 200, headers, body: new Uint8Array(), truncated: false, timings: noTimings };
    const settlement = settlementOf(row, reply as Outcome, undefined);
    expect(settlement.contentType).toBe(text);
    expect(JSON.parse(settlement.headersJson ?? '')).toEqual({ 'Content-Type': text, x: text });
    expect(JSON.parse(settlement.headerListJson ?? '')).toEqual([
      ['Content-Type', text],
      ['x', 'ascii'],
      ['x', text],
    ]);
  });

  test('that cannot be recorded as it is still has a status or an error', () => {
    fc.assert(
      fc.property(outcome, (result) => {
        const settlement = settlementOf(row, result, undefined);
        for (const form of [
          withoutCharacters(settlement, charactersToCheck(settlement)),
          unrecordable(settlement, '22000'),
        ]) {
          expect((form.statusCode === null) !== (form.errorMessage === null)).toBe(true);
          expect((form.errorMessage === null) === (form.errorCode === null)).toBe(true);
        }
        expect(charactersToCheck(withoutCharacters(settlement, charactersToCheck(settlement)))).toEqual(new Set());
      }),
    );
  });

  test('keeps header names as the server wrote them; __proto__ is a name like any other', () => {
    const settlement = settlementOf(
      row,
      {
        kind: 'reply',
        status: 200,
        headers: [
          ['X-Case', 'a'],
          ['__proto__', 'b'],
          ['Content-Type', 'text/plain'],
        ],
        body: new Uint8Array(),
        truncated: false,
        timings: noTimings,
      },
      undefined,
    );
    expect(settlement.headersJson).toBe('{"X-Case":"a","__proto__":"b","Content-Type":"text/plain"}');
    expect(settlement.contentType).toBe('text/plain');
    expect(settlement.content).toBeNull();
  });

  test('that a database refuses loses only the characters that it lacks, and keeps the exact bytes', () => {
    const body = new TextEncoder().encode('naïve — 日本');
    const settlement = settlementOf(
      row,
      {
        kind: 'reply',
        status: 200,
        headers: [['x', 'é']],
        body,
        truncated: false,
        timings: noTimings,
      },
      undefined,
    );
    expect(charactersToCheck(settlement)).toEqual(new Set(['ï', '—', '日', '本', 'é']));
    const stored = withoutCharacters(settlement, new Set(['—', '日', '本']));
    expect(stored.content).toBe('naïve ? ??');
    expect(stored.contentBytes).toEqual(body);
    expect(withoutCharacters(settlement, new Set()).contentBytes).toBeNull();
    expect(unrecordable(settlement, '22000')).toMatchObject({ statusCode: null, errorCode: 'failed', id: 7n });
  });
});

describe('a body', () => {
  test('is either its text, or its bytes are kept', () => {
    fc.assert(
      fc.property(fc.uint8Array({ minLength: 1, maxLength: 40 }), (bytes) => {
        const { text, exact } = decodeBody(bytes, null);
        if (exact) expect(new TextEncoder().encode(text ?? '')).toEqual(bytes);
      }),
      { numRuns: 2_000 },
    );
    fc.assert(
      fc.property(fc.string({ unit: 'binary', minLength: 1 }), (text) => {
        const decoded = decodeBody(new TextEncoder().encode(text), 'text/plain');
        expect(decoded).toEqual({ text: text.replaceAll('\0', '\uFFFD'), exact: !text.includes('\0') });
      }),
    );
  });

  test.each([
    ['text/plain; charset=iso-8859-1', [0x63, 0xe9], 'cé', true],
    ['text/plain; charset="Shift_JIS"', [0x93, 0xfa, 0x96, 0x7b], '日本', true],
    ['text/plain; charset=utf-16le', [0x41, 0x00], 'A', true],
    ['text/plain; charset=no-such', [0x41], 'A', false],
    ['text/plain', [0xff, 0x41], '\uFFFDA', false],
    [null, [0x41, 0x00, 0x42], 'A\uFFFDB', false],
    // So long a Content-Type is not looked into.
    [`text/plain; charset=iso-8859-1${' '.repeat(1_000)}`, [0x63, 0xe9], 'c\uFFFD', false],
    ['not a type; charset=latin1', [0x41], 'A', true],
  ])('of type %j is decoded by its charset', (contentType, bytes, text, exact) => {
    expect(decodeBody(new Uint8Array(bytes), contentType)).toEqual({ text, exact });
  });

  test('that is empty is null', () => {
    expect(decodeBody(new Uint8Array(), 'text/plain')).toEqual({ text: null, exact: true });
  });
});

describe('a claimed row', () => {
  test.each([
    ['[]', /not a JSON object/],
    ['null', /not a JSON object/],
    ['{"a": null}', /"a" is null/],
    ['{', /not JSON/],
  ])('with headers %s, inserted by hand, is refused and not sent', (headersJson, message) => {
    expect(admit({ ...row, headersJson }, undefined)).toMatchObject({
      kind: 'failure',
      code: 'invalid_request',
      message: expect.stringMatching(message),
    });
  });

  test('without time is refused, and not sent', () => {
    expect(admit({ ...row, timeoutMs: 0 }, undefined)).toMatchObject({ kind: 'failure', code: 'invalid_request' });
    expect(admit({ ...row, timeoutMs: -5 }, undefined)).toMatchObject({ kind: 'failure', code: 'invalid_request' });
  });

  test('has its headers in order, values as text', () => {
    expect(admit({ ...row, headersJson: '{"b": "1", "__proto__": "x", "n": 5, "t": true}' }, undefined)).toMatchObject({
      headers: [
        ['b', '1'],
        ['__proto__', 'x'],
        ['n', '5'],
        ['t', 'true'],
      ],
    });
  });
});

test('backoff stays between a tenth of its bound and its bound, which never passes the last', () => {
  fc.assert(
    fc.property(fc.nat(2_000), fc.double({ min: 0, max: 1, maxExcluded: true, noNaN: true }), (attempt, random) => {
      const options = { firstMs: 50, lastMs: 5_000 };
      const bound = Math.min(5_000, 50 * 2 ** Math.min(attempt, 30));
      const delay = backoffMs(attempt, options, () => random);
      expect(delay).toBeGreaterThanOrEqual(Math.floor(bound / 10));
      expect(delay).toBeLessThanOrEqual(bound);
    }),
  );
});
