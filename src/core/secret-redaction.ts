import { Buffer } from 'node:buffer';
import type { Outcome, Redirected, Reply } from './outcome.ts';
import type { UsedSecret } from './secret-values.ts';

/** A form in which a server may have said a secret, and what is recorded instead. */
type Needle = {
  readonly bytes: Buffer;
  readonly by: Buffer;
  /** The same with a character for each byte, as headers arrive. */
  readonly text: string;
  readonly byText: string;
};

/**
 * What became of a request, without the values of the secrets that it used, wherever the server said them: as they are, and as
 * JSON, a URL or UTF-16 would write them. Of a truncated body an end that is the beginning of one goes, too. The body keeps to
 * `bodyBytesMax`, though a name in braces may be longer than what it stands for.
 */
export function withoutSecrets(outcome: Outcome, secrets: readonly UsedSecret[], bodyBytesMax: number): Outcome {
  const needles = secrets.flatMap(needlesOf).sort((a, b) => b.bytes.length - a.bytes.length);
  const redirected = outcome.redirected && { ...outcome.redirected, url: withoutInUrl(outcome.redirected, secrets) };
  if (outcome.kind === 'failure') {
    const message = secrets.reduce(
      (text, { name, value }) => text.replaceAll(value, () => placeholder(name)),
      outcome.message,
    );
    return { ...outcome, message, redirected };
  }
  const withoutInHeader = (text: string): string => withoutInBytesText(text, needles);
  return {
    ...outcome,
    ...withoutInBody(outcome, needles, bodyBytesMax),
    headers: outcome.headers.map(([name, value]) => [withoutInHeader(name), withoutInHeader(value)]),
    redirected,
  };
}

function placeholder(name: string): string {
  return `{{secret.${name}}}`;
}

function needlesOf({ name, value }: UsedSecret): readonly Needle[] {
  const by = Buffer.from(placeholder(name));
  const utf16 = Buffer.from(value, 'utf16le');
  const utf16By = Buffer.from(placeholder(name), 'utf16le');
  const texts = new Set([value, JSON.stringify(value).slice(1, -1), encodeURIComponent(value)]);
  return [
    ...[...texts].map((text) => needle(Buffer.from(text), by)),
    needle(utf16, utf16By),
    needle(Buffer.from(utf16).swap16(), Buffer.from(utf16By).swap16()),
  ];
}

function needle(bytes: Buffer, by: Buffer): Needle {
  return { bytes, by, text: bytes.toString('latin1'), byText: by.toString('latin1') };
}

function withoutInBody(
  { body: given, truncated: wasTruncated }: Reply,
  needles: readonly Needle[],
  bytesMax: number,
): Pick<Reply, 'body' | 'truncated'> {
  let body: Buffer = Buffer.from(given.buffer, given.byteOffset, given.byteLength);
  let truncated = wasTruncated;
  for (const needle of needles) {
    const replaced = withoutNeedle(body, needle, bytesMax);
    body = replaced.body;
    truncated ||= replaced.isCut;
  }
  return { body: truncated ? body.subarray(0, body.length - begunAtEnd(body, needles)) : body, truncated };
}

function withoutNeedle(body: Buffer, { bytes, by }: Needle, bytesMax: number): { body: Buffer; isCut: boolean } {
  let at = body.indexOf(bytes);
  if (at < 0) return { body, isCut: false };
  const parts: Buffer[] = [];
  let from = 0;
  let length = 0;
  while (at >= 0 && length <= bytesMax) {
    parts.push(body.subarray(from, at), by);
    length += at - from + by.length;
    from = at + bytes.length;
    at = body.indexOf(bytes, from);
  }
  parts.push(body.subarray(from));
  length += body.length - from;
  return { body: Buffer.concat(parts, Math.min(length, bytesMax)), isCut: length > bytesMax };
}

/** How many bytes at the end of the body are the beginning of a secret. */
function begunAtEnd(body: Buffer, needles: readonly Needle[]): number {
  let longest = 0;
  for (const { bytes } of needles) {
    for (let count = Math.min(bytes.length - 1, body.length); count > longest; count--) {
      if (bytes.compare(body, body.length - count, body.length, 0, count) === 0) longest = count;
    }
  }
  return longest;
}

/** Of a text that holds a character for each byte. */
function withoutInBytesText(text: string, needles: readonly Needle[]): string {
  return needles.reduce((sofar, needle) => sofar.replaceAll(needle.text, () => needle.byText), text);
}

/** What in a URL is percent-encoded depends on where it stands: if a secret can still be read from it, only the origin is kept. */
function withoutInUrl({ url }: Redirected, secrets: readonly UsedSecret[]): string {
  const replaced = secrets.reduce((text, { name, value }) => text.replaceAll(value, () => placeholder(name)), url);
  const decoded = replaced.replace(/%([0-9A-Fa-f]{2})/g, (_match, hex: string) =>
    String.fromCharCode(Number.parseInt(hex, 16)),
  );
  const isLeft = secrets.some(({ value }) => decoded.includes(Buffer.from(value).toString('latin1')));
  return isLeft ? `${new URL(url).origin}/` : replaced;
}
