import type { PGliteInterface } from '@electric-sql/pglite';
import { PostgresError, type Row } from './database.ts';
import { textParser, type WireValue } from './values.ts';

/**
 * The few frontend messages the PGlite adapter needs, and the reading of what comes back. PGlite handles any number of
 * messages in one call, so an operation (begin, statement, commit) is one buffer and nothing can come between.
 * https://www.postgresql.org/docs/current/protocol-message-formats.html
 */

const encoder = new TextEncoder();

/** Messages one after the other. */
export function concat(parts: readonly Uint8Array[]): Uint8Array {
  const joined = new Uint8Array(parts.reduce((bytes, part) => bytes + part.length, 0));
  let offset = 0;
  for (const part of parts) {
    joined.set(part, offset);
    offset += part.length;
  }
  return joined;
}

function message(type: string, ...parts: readonly Uint8Array[]): Uint8Array {
  const body = concat(parts);
  return concat([encoder.encode(type), int32(4 + body.length), body]);
}

function int16(value: number): Uint8Array {
  return new Uint8Array([value >>> 8, value & 0xff]);
}

function int32(value: number): Uint8Array {
  return new Uint8Array([value >>> 24, (value >>> 16) & 0xff, (value >>> 8) & 0xff, value & 0xff]);
}

function cString(text: string): Uint8Array {
  return encoder.encode(`${text}\0`);
}

/** A simple query: one or more statements, no parameters. */
export function queryMessage(text: string): Uint8Array {
  return message('Q', cString(text));
}

export const syncMessage: Uint8Array = message('S');
const describePortal: Uint8Array = message('D', cString('P'));
const executePortal: Uint8Array = message('E', cString(''), int32(0));

/** One statement with parameters, unnamed: prepared names are session-wide, and the session is shared with the user. */
export function statementMessages(text: string, values: readonly WireValue[]): Uint8Array {
  const formats = values.map((value) => int16(value instanceof Uint8Array ? 1 : 0));
  const contents = values.flatMap((value) => {
    if (value === null) return [int32(-1)];
    const bytes = value instanceof Uint8Array ? value : encoder.encode(value);
    return [int32(bytes.length), bytes];
  });
  const count = int16(values.length);
  return concat([
    message('P', cString(''), cString(text), int16(0)),
    message('B', cString(''), cString(''), count, ...formats, count, ...contents, int16(0)),
    describePortal,
    executePortal,
    syncMessage,
  ]);
}

/** What PostgreSQL answered up to one ReadyForQuery. */
export type Answer = {
  readonly rows: readonly Row[];
  readonly error: PostgresError | undefined;
  /** The tag of the last command, such as `COMMIT` or `INSERT 0 1`. */
  readonly command: string | undefined;
  /** `I` idle, `T` in a transaction, `E` in an aborted one. */
  readonly status: string;
};

/** A message of PostgreSQL as PGlite's own parser returns it. */
export type BackendMessage = Awaited<ReturnType<PGliteInterface['execProtocol']>>['messages'][number];

/** The parts we read of PGlite's parsed messages, which its types keep in a package of their own. */
type ParsedMessage = BackendMessage & {
  readonly fields?: readonly unknown[];
  readonly text?: string;
  readonly status?: string;
  readonly message?: string;
  readonly code?: string;
  readonly detail?: string;
  readonly hint?: string;
};

/** Splits the messages of one call into the answers of its queries. */
export function answersOf(messages: readonly BackendMessage[]): readonly Answer[] {
  const answers: Answer[] = [];
  let rows: Row[] = [];
  let columns: readonly Column[] = [];
  let error: PostgresError | undefined;
  let command: string | undefined;
  for (const each of messages as readonly ParsedMessage[]) {
    if (each.name === 'rowDescription') columns = (each.fields as readonly ColumnDescription[]).map(columnOf);
    else if (each.name === 'dataRow') rows.push(rowOf(columns, each.fields as readonly (string | null)[]));
    else if (each.name === 'commandComplete') command = each.text;
    else if (each.name === 'error') error ??= errorOf(each);
    else if (each.name === 'readyForQuery') {
      answers.push({ rows, error, command, status: each.status ?? '' });
      rows = [];
      error = undefined;
      command = undefined;
    }
  }
  return answers;
}

type ColumnDescription = { readonly name: string; readonly dataTypeID: number };
type Column = { readonly name: string; readonly parse: (text: string) => unknown };

function columnOf({ name, dataTypeID }: ColumnDescription): Column {
  return { name, parse: textParser(dataTypeID) };
}

function rowOf(columns: readonly Column[], values: readonly (string | null)[]): Row {
  const row: Row = {};
  for (const [index, { name, parse }] of columns.entries()) {
    const value = values[index];
    row[name] = value === null || value === undefined ? null : parse(value);
  }
  return row;
}

function errorOf({ message: text, code, detail, hint }: ParsedMessage): PostgresError {
  return new PostgresError(text ?? 'unknown error', code ?? 'XX000', detail, hint);
}
