import { Buffer } from 'node:buffer';
import type { UsedSecret } from './secret-values.ts';

/**
 * The ways in which a server may have written a secret: piece by piece, since one that writes JSON, a URL or HTML writes most
 * characters as they are. Texts here have a character for each byte, as headers arrive. No regular expression: one of a long
 * secret may be too large, and the error says it.
 */
export type Spelling = {
  /** What it begins with. */
  readonly lead: string;
  /** Of each piece that follows the forms that it may have. */
  readonly rest: readonly (readonly string[])[];
  /** What is recorded instead. */
  readonly by: string;
};

/** Where a secret stands in a text; one that the end of the text cuts off ends beyond it. */
export type Occurrence = { readonly begin: number; readonly end: number; readonly by: string };

export function spellingsOf({ name, value }: UsedSecret): readonly Spelling[] {
  const by = `{{secret.${name}}}`;
  const [leads = [], ...rest] = piecesOf(value);
  const wide = new Map([bigEndian, littleEndian].map((inUtf16) => [inUtf16(value), inUtf16(by)]));
  return [
    ...leads.map((lead) => ({ lead, rest, by })),
    ...[...wide].map(([lead, wideBy]) => ({ lead, rest: [], by: wideBy })),
  ];
}

/** A text with a character for each of its bytes. */
export function bytesText(text: string): string {
  return Buffer.from(text).toString('latin1');
}

/** All of one spelling, in their order, and at last what may be the beginning of one. */
export function* occurrencesOf({ lead, rest, by }: Spelling, text: string): Generator<Occurrence> {
  let begin = text.indexOf(lead);
  while (begin >= 0) {
    const end = endOf(text, begin + lead.length, rest);
    if (end !== undefined) yield { begin, end, by };
    begin = text.indexOf(lead, end === undefined || end > text.length ? begin + 1 : end);
  }
  for (begin = Math.max(0, text.length - lead.length + 1); begin < text.length; begin++) {
    if (lead.startsWith(text.slice(begin))) yield { begin, end: Number.POSITIVE_INFINITY, by };
  }
}

/** Where the pieces end that stand there; undefined where they do not. */
function endOf(text: string, begin: number, pieces: readonly (readonly string[])[]): number | undefined {
  let places = [begin];
  let isCutOff = false;
  for (const forms of pieces) {
    const next = new Set<number>();
    for (const place of places) {
      for (const form of forms) {
        if (text.startsWith(form, place)) next.add(place + form.length);
        else isCutOff ||= place + form.length > text.length && form.startsWith(text.slice(place));
      }
    }
    places = [...next];
    if (places.length === 0) return isCutOff ? Number.POSITIVE_INFINITY : undefined;
  }
  return Math.max(...places);
}

/** In UTF-16, without the zero that may be before it or after it: most secrets are the same in both orders then. */
function bigEndian(text: string): string {
  const bytes = Buffer.from(text, 'utf16le').swap16().toString('latin1');
  return isNarrow(text) ? bytes.slice(1) : bytes;
}

function littleEndian(text: string): string {
  const bytes = Buffer.from(text, 'utf16le').toString('latin1');
  return isNarrow(text) ? bytes.slice(0, -1) : bytes;
}

function isNarrow(text: string): boolean {
  return !/[^\0-\xff]/.test(text);
}

/** What everybody writes as it is, and runs of one other character: who writes one of a run in some way writes all of it so. */
function piecesOf(value: string): readonly (readonly string[])[] {
  return (value.match(/[\w.~-]+|([^\w.~-])\1*/gu) ?? []).map((piece) => {
    const [character = ''] = piece;
    return /[\w.~-]/.test(character) ? [piece] : formsOf(character).map((form) => form.repeat([...piece].length));
  });
}

/** Beyond ASCII a server may take its bytes for as many characters, as HTTP says. */
function formsOf(character: string): readonly string[] {
  const forms = [character, bytesText(character)].flatMap((text) => [
    bytesText(text),
    ...(isNarrow(text) ? [text] : []),
    ...inBothCases((hex) => inJson(text, hex)),
    ...inBothCases((hex) => inUrl(text, hex)),
    ...inBothCases((hex) => inHtml(text, (code) => `x${hex(code, 1)}`)),
    inHtml(text, String),
  ]);
  return [...new Set([...forms, ...(shortForms[character] ?? [])])];
}

type Hex = (code: number, digits: number) => string;

function inBothCases(write: (hex: Hex) => string): readonly string[] {
  const lower: Hex = (code, digits) => code.toString(16).padStart(digits, '0');
  return [write(lower), write((code, digits) => lower(code, digits).toUpperCase())];
}

function inJson(text: string, hex: Hex): string {
  return text.replace(/./gs, (unit) => `\\u${hex(unit.charCodeAt(0), 4)}`);
}

function inUrl(text: string, hex: Hex): string {
  return bytesText(text).replace(/./gs, (byte) => `%${hex(byte.charCodeAt(0), 2)}`);
}

function inHtml(text: string, write: (code: number) => string): string {
  return [...text].map((character) => `&#${write(character.codePointAt(0) ?? 0)};`).join('');
}

const shortForms: Readonly<Record<string, readonly string[]>> = {
  ' ': ['+'],
  '"': ['\\"', '&quot;'],
  '&': ['&amp;'],
  "'": ['&apos;', '&#039;'],
  '/': ['\\/'],
  '<': ['&lt;'],
  '>': ['&gt;'],
  '\\': ['\\\\'],
};
