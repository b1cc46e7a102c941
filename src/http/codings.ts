import type { HeaderList } from '../core/request.ts';
import { type Problem, problems } from './failures.ts';
import { withoutBlanks } from './framing.ts';

/** A body's way back to what it was before a server compressed it. */
export type Coding = 'gzip' | 'deflate' | 'br';

/** As libcurl: more of them are no compression but an attack. */
const codingsMax = 5;

/**
 * The codings of a body that are to be undone, the last applied first; a problem where nobody knows one of them (RFC 9110, 8.4).
 * Those of its transfer always are: they are the server's way of sending it, and no header of the reply speaks of the coded
 * body. Those of the content are if that was asked for.
 */
export function codingsOf(headers: HeaderList, ofContent: boolean): readonly Coding[] | Problem {
  let content = '';
  let transfer = '';
  for (const [name, value] of headers) {
    if (name.length === 16 && ofContent && name.toLowerCase() === 'content-encoding') content += `,${value}`;
    else if (name.length === 17 && name.toLowerCase() === 'transfer-encoding') transfer += `,${value}`;
  }
  if (content === '' && transfer === '') return [];
  const ofTransfer = codingsIn(namesIn(transfer), 'chunked');
  const codings = codingsIn(namesIn(content));
  return ofTransfer === undefined || codings === undefined ? problems.badCoding : [...ofTransfer, ...codings];
}

/**
 * Whether the codings of a Transfer-Encoding frame the body. Beside `chunked` it may be compressed, which nobody asked for and libcurl
 * undoes all the same; without `chunked` it then ends with the connection.
 */
export function transferCoding(value: string): 'chunked' | 'compressed' | 'none' | Problem {
  const names = namesIn(value);
  const compression = codingsIn(names, 'chunked');
  if (compression === undefined) return problems.badCoding;
  if (names.includes('chunked')) return 'chunked';
  return compression.length > 0 ? 'compressed' : 'none';
}

/** The last applied first; undefined where nobody knows one of them, or they are too many. */
function codingsIn(names: readonly string[], passedOver = ''): readonly Coding[] | undefined {
  const codings: Coding[] = [];
  for (const name of names) {
    if (name === '' || name === 'identity' || name === 'none' || name === passedOver) continue;
    if (name === 'gzip' || name === 'x-gzip') codings.unshift('gzip');
    else if (name === 'deflate' || name === 'br') codings.unshift(name);
    else return undefined;
    if (codings.length > codingsMax) return undefined;
  }
  return codings;
}

function namesIn(value: string): readonly string[] {
  return value
    .toLowerCase()
    .split(',')
    .map((name) => withoutBlanks(name, 0, name.length));
}
