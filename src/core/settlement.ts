import { isUtf8 } from 'node:buffer';
import type { Aftermath } from './aftermath.ts';
import { decodeBody } from './decode.ts';
import { cancelledMessage, type Outcome } from './outcome.ts';
import type { HeaderList, QueueRow } from './request.ts';
import { hostOf } from './urls.ts';

/**
 * What is recorded of a finished request: one row of `net._http_response`. Only {@link settlementOf} makes one, and it
 * needs an {@link Outcome}, so a request that was not tried cannot be recorded as done.
 */
export type Settlement = {
  readonly id: bigint;
  readonly statusCode: number | null;
  readonly contentType: string | null;
  readonly headersJson: string | null;
  readonly content: string | null;
  readonly contentBytes: Uint8Array | null;
  readonly timedOut: boolean;
  readonly truncated: boolean | null;
  readonly errorMessage: string | null;
  readonly errorCode: string | null;
  readonly loginRole: number | null;
  readonly setRole: number | null;
  /** Where it ended and after how many redirects; null where none was followed. */
  readonly finalUrl: string | null;
  readonly redirects: number | null;
  /** Every header as a pair, in the order of the reply; null where `headersJson` says as much. */
  readonly headerListJson: string | null;
  /** The host and port that were asked, as the URL has them. */
  readonly host: string;
  /** What follows beyond the response; undefined: nothing. */
  readonly aftermath: Aftermath | undefined;
  /** The exact body; recorded only where `content` cannot hold it. */
  readonly body: Uint8Array | null;
  /** To be called when it is recorded, or never will be. */
  readonly release?: (() => void) | undefined;
};

/** The row to record for what became of a request: a status or an error, never both, never neither. */
export function settlementOf(row: QueueRow, outcome: Outcome, aftermath: Aftermath | undefined): Settlement {
  // Written out twice rather than spread: a spread costs more than all the rest of this (5 µs, in every request).
  if (outcome.kind === 'failure') {
    return {
      id: row.id,
      statusCode: null,
      contentType: null,
      headersJson: null,
      content: null,
      contentBytes: null,
      timedOut: outcome.code === 'timed_out',
      truncated: null,
      errorMessage: outcome.message,
      errorCode: outcome.code,
      loginRole: row.loginRole,
      setRole: row.setRole,
      finalUrl: outcome.redirected?.url ?? null,
      redirects: outcome.redirected?.hops ?? null,
      headerListJson: null,
      host: hostOf(row.url),
      aftermath,
      body: null,
      release: undefined,
    };
  }
  const contentType = lastValue(outcome.headers, 'content-type');
  const { text, exact } = decodeBody(outcome.body, contentType);
  const settlement = {
    id: row.id,
    statusCode: outcome.status,
    contentType,
    headersJson: headersToJson(outcome.headers),
    content: text,
    contentBytes: exact ? null : outcome.body,
    timedOut: false,
    truncated: outcome.truncated,
    errorMessage: null,
    errorCode: null,
    loginRole: row.loginRole,
    setRole: row.setRole,
    finalUrl: outcome.redirected?.url ?? null,
    redirects: outcome.redirected?.hops ?? null,
    headerListJson: hasRepeatedName(outcome.headers) ? headerListToJson(outcome.headers) : null,
    host: hostOf(row.url),
    aftermath,
    body: outcome.body,
    release: outcome.release,
  };
  return aftermath === undefined || aftermath.keep === 'full' ? settlement : withoutContent(settlement);
}

/** What is kept of a response with `keep := 'status'`: all but its headers and its body. */
function withoutContent(settlement: Settlement): Settlement {
  return { ...settlement, headersJson: null, headerListJson: null, content: null, contentBytes: null, body: null };
}

/** So few names are compared with each other faster than they are put into a set. */
const namesComparedMax = 24;

function hasRepeatedName(headers: HeaderList): boolean {
  if (headers.length > namesComparedMax) {
    return new Set(headers.map(([name]) => name)).size < headers.length;
  }
  for (let i = 1; i < headers.length; i++) {
    const name = headers[i]?.[0];
    for (let j = 0; j < i; j++) {
      if (headers[j]?.[0] === name) return true;
    }
  }
  return false;
}

function headerListToJson(headers: HeaderList): string {
  return JSON.stringify(headers.map(asReadable));
}

/**
 * One JSON object with the names as the server wrote them. Names may repeat in this text: of equal names `jsonb` keeps the
 * last, as pg_net does; all of them are in the list of headers then.
 */
function headersToJson(headers: HeaderList): string {
  const json = objectOf(headers);
  // There is hardly ever a character beyond ASCII, or NUL: asked once for all of them, and in the fastest way there is.
  return Buffer.byteLength(json) > json.length || json.includes('\\u0000') ? objectOf(headers.map(asReadable)) : json;
}

function objectOf(headers: HeaderList): string {
  let json = '';
  for (const [name, value] of headers) {
    json += `${json === '' ? '{' : ','}${JSON.stringify(name)}:${JSON.stringify(value)}`;
  }
  return json === '' ? '{}' : `${json}}`;
}

const beyondAscii = /[\u0080-\u00ff]/;

function asReadable([name, value]: readonly [string, string]): readonly [string, string] {
  return [storable(name), readable(value)];
}

/** Values arrive with a character for each byte. Beyond ASCII those bytes are UTF-8 in practice; where not, Latin-1. */
function readable(text: string): string {
  if (!beyondAscii.test(text) || /[\u0100-\uffff]/.test(text)) return storable(text);
  const bytes = Buffer.from(text, 'latin1');
  return storable(isUtf8(bytes) ? bytes.toString('utf8') : text);
}

/** NUL is the one character that no text in PostgreSQL can hold. */
function storable(text: string): string {
  return text.includes('\0') ? text.replaceAll('\0', '\uFFFD') : text;
}

function lastValue(headers: HeaderList, lowerCaseName: string): string | null {
  for (let i = headers.length - 1; i >= 0; i--) {
    const header = headers[i];
    if (header !== undefined && header[0].toLowerCase() === lowerCaseName) {
      return readable(header[1]);
    }
  }
  return null;
}

/** The characters beyond ASCII that a settlement holds, each once: those that a database's encoding may lack. */
export function charactersToCheck(settlement: Settlement): Set<string> {
  const characters = new Set<string>();
  const { contentType, headersJson, headerListJson, content, errorMessage } = settlement;
  for (const text of [contentType, headersJson, headerListJson, content, errorMessage]) {
    for (const character of text?.match(/[\u0080-\u{10ffff}]/gu) ?? []) {
      characters.add(character);
    }
  }
  return characters;
}

/** The settlement with `?` for the characters that the database cannot hold; the exact body then goes with it. */
export function withoutCharacters(settlement: Settlement, unstorable: ReadonlySet<string>): Settlement {
  const replaced = (text: string | null): string | null =>
    text?.replace(/[\u0080-\u{10ffff}]/gu, (character) => (unstorable.has(character) ? '?' : character)) ?? null;
  const content = replaced(settlement.content);
  return {
    ...settlement,
    contentType: replaced(settlement.contentType),
    headersJson: replaced(settlement.headersJson),
    headerListJson: replaced(settlement.headerListJson),
    content,
    contentBytes: content === settlement.content ? settlement.contentBytes : settlement.body,
    errorMessage: replaced(settlement.errorMessage),
  };
}

/** A settlement that says only that the response could not be recorded: the last resort, which no database refuses. */
export function unrecordable(settlement: Settlement, sqlstate: string): Settlement {
  return {
    ...settlement,
    statusCode: null,
    contentType: null,
    headersJson: null,
    headerListJson: null,
    finalUrl: null,
    redirects: null,
    content: null,
    contentBytes: null,
    truncated: null,
    errorMessage: `The response (status ${settlement.statusCode ?? 'none'}) could not be recorded: the database refused it with SQLSTATE ${sqlstate}`,
    errorCode: 'failed',
  };
}

/**
 * The settlement of a request that was to be tried again and must not be: it was cancelled, or deleted, while the attempt was
 * under way.
 */
export function cancelledInstead(settlement: Settlement): Settlement {
  const { aftermath } = settlement;
  return {
    ...settlement,
    statusCode: null,
    contentType: null,
    headersJson: null,
    headerListJson: null,
    content: null,
    contentBytes: null,
    body: null,
    timedOut: false,
    truncated: null,
    errorMessage: cancelledMessage,
    errorCode: 'cancelled',
    aftermath: aftermath && {
      ...aftermath,
      state: 'cancelled',
      retryInMs: undefined,
      isKept: false,
      callback: undefined,
      blocksKey: false,
    },
  };
}
