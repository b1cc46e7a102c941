import { Buffer } from 'node:buffer';
import type { Outcome, Redirected, Reply } from './outcome.ts';
import { bytesText, type Occurrence, occurrencesOf, type Spelling, spellingsOf } from './secret-spellings.ts';
import type { UsedSecret } from './secret-values.ts';

/**
 * What became of a request, without the values of the secrets that it used, wherever the server said them: as they are, and as
 * JSON, a URL, HTML or UTF-16 would write them. Of a truncated body an end that is the beginning of one goes, too. The body keeps to
 * `bodyBytesMax`, though a name in braces may be longer than what it stands for.
 */
export function withoutSecrets(outcome: Outcome, secrets: readonly UsedSecret[], bodyBytesMax: number): Outcome {
  const spellings = secrets.flatMap(spellingsOf);
  const redirected = outcome.redirected && {
    ...outcome.redirected,
    url: withoutInUrl(outcome.redirected, secrets, spellings),
  };
  if (outcome.kind === 'failure') {
    const message = Buffer.from(replaced(bytesText(outcome.message), spellings), 'latin1').toString();
    return { ...outcome, message, redirected };
  }
  return {
    ...outcome,
    ...withoutInBody(outcome, spellings, bodyBytesMax),
    headers: outcome.headers.map(([name, value]) => [replaced(name, spellings), replaced(value, spellings)]),
    redirected,
  };
}

function withoutInBody(
  { body, truncated }: Reply,
  spellings: readonly Spelling[],
  bytesMax: number,
): Pick<Reply, 'body' | 'truncated'> {
  const text = Buffer.from(body.buffer, body.byteOffset, body.byteLength).toString('latin1');
  const result = replaced(text, spellings, { isCut: truncated, lengthMax: bytesMax });
  return result === text
    ? { body, truncated }
    : { body: Buffer.from(result.slice(0, bytesMax), 'latin1'), truncated: truncated || result.length > bytesMax };
}

/**
 * The text with names for secrets. Of those that overlap the first is named, and nothing is left of the others; what may be the
 * beginning of one, at the end of a text that was cut, goes without a name. What goes beyond `lengthMax` may hold some.
 */
function replaced(
  text: string,
  spellings: readonly Spelling[],
  { isCut = false, lengthMax = Number.POSITIVE_INFINITY } = {},
): string {
  const searches = spellings.map((spelling) => new Search(occurrencesOf(spelling, text)));
  const parts: string[] = [];
  let length = 0;
  let from = 0;
  while (length <= lengthMax) {
    const search = searches.reduce<Search | undefined>(earlier, undefined);
    const next = search?.next;
    if (search === undefined || next === undefined) break;
    const isWhole = next.end <= text.length;
    if (isWhole || isCut) {
      if (next.begin >= from) {
        parts.push(text.slice(from, next.begin), isWhole ? next.by : '');
        length += next.begin - from + next.by.length;
      }
      from = Math.max(from, next.end);
    }
    search.goOn();
  }
  return from === 0 ? text : parts.join('') + text.slice(from);
}

class Search {
  next: Occurrence | undefined;
  readonly #occurrences: Iterator<Occurrence, void>;

  constructor(occurrences: Iterator<Occurrence, void>) {
    this.#occurrences = occurrences;
    this.goOn();
  }

  goOn(): void {
    this.next = this.#occurrences.next().value ?? undefined;
  }
}

/** The one that comes next, the longer one of two that begin together. */
function earlier(one: Search | undefined, other: Search): Search | undefined {
  const [a, b] = [one?.next, other.next];
  if (a === undefined || b === undefined) return a === undefined ? other : one;
  return b.begin < a.begin || (b.begin === a.begin && b.end > a.end) ? other : one;
}

/**
 * Any character of a URL may be percent-encoded, and its host is in lower case: where a secret can still be read only the origin
 * is kept, or where that says it the scheme.
 */
function withoutInUrl({ url }: Redirected, secrets: readonly UsedSecret[], spellings: readonly Spelling[]): string {
  const saysOne = (text: string): boolean => {
    const read = text
      .replace(/%([0-9A-Fa-f]{2})/g, (_match, hex: string) => String.fromCharCode(Number.parseInt(hex, 16)))
      .toLowerCase();
    return secrets.some(({ value }) => read.includes(bytesText(value).toLowerCase()));
  };
  const result = replaced(url, spellings);
  if (!saysOne(result)) return result;
  const { origin, protocol } = new URL(url);
  return saysOne(origin) ? `${protocol}//` : `${origin}/`;
}
