import { type Problem, problems } from './failures.ts';

/** Beyond what libcurl counts with. */
export const uncountableBytes: number = 2 ** 63;

/** `HTTP/1.1 200 OK`, and what libcurl takes for it: in small letters, with a version that has no such lines, without a reason. */
const statusLinePattern = /^HTTP\/(?:1\.([01])|2(?:\.0)?) +(\d{3})(?!\d)/i;
export const statusLineBeginning = 'HTTP/';

/** Whether what there is of a first line can become a status line. */
export function mayBeStatusLine(text: string): boolean {
  const length = Math.min(text.length, statusLineBeginning.length);
  return text.slice(0, length).toUpperCase() === statusLineBeginning.slice(0, length);
}

/** The status, and whether the connection lasts unless something else is said. */
export function statusLine(line: string): { readonly status: number; readonly persists: boolean } | Problem {
  const match = statusLinePattern.exec(line);
  const status = Number(match?.[2]);
  if (match === null || status < 100) return problems.notHttp;
  if (line.includes('\0')) return problems.badReply;
  // HTTP/1.0 ends with its reply unless it says otherwise (RFC 9112, 9.3); whatever this cannot be does so too.
  return { status, persists: match[1] === '1' && line.startsWith('HTTP') };
}

/**
 * What a Content-Length says: the length; undefined for one beyond counting, which libcurl does not count on either. What
 * follows the digits is passed over as libcurl does, unless it is another length.
 */
export function contentLength(value: string): number | undefined | 'none' {
  const [first = '', ...others] = value.split(',').map((part) => /^\s*\+?(\d+)/.exec(part)?.[1] ?? '');
  if (first === '' || others.some((other) => other !== first)) return 'none';
  const length = Number(first);
  return length < uncountableBytes ? length : undefined;
}

/** A blank or a tab (RFC 9110, 5.6.3): `trim()` would also take bytes of what is UTF-8. */
export function isBlank(byte: number): boolean {
  return byte === 32 || byte === 9;
}

/** A part of a text, without the blanks around it. */
export function withoutBlanks(text: string, start: number, end: number): string {
  let first = start;
  let last = end;
  while (first < last && isBlank(text.charCodeAt(first))) first += 1;
  while (last > first && isBlank(text.charCodeAt(last - 1))) last -= 1;
  return text.slice(first, last);
}

/** A value that goes on. Nothing is looked for in it: thousands of lines may follow, and each would read all those before. */
export function joined(value: string, rest: string): string {
  if (value === '' || rest === '') return value + rest;
  return `${value} ${rest}`;
}

/** Behind the digits of a chunk's size: blanks, an extension, the end of the line. */
export function mayFollowSize(byte: number): boolean {
  return byte === 13 || byte === 10 || byte === 59 || isBlank(byte);
}

/** What a hexadecimal digit stands for; -1 for anything else. */
export function hexDigit(byte: number): number {
  if (byte >= 48 && byte <= 57) return byte - 48;
  const lower = byte | 32;
  return lower >= 97 && lower <= 102 ? lower - 87 : -1;
}
