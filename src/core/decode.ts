import { isUtf8 } from 'node:buffer';
import MIMEType from 'whatwg-mimetype';

/** A body as text, and whether the text is all there is to know of it. */
export type DecodedBody = {
  /** What goes into `content`; null for an empty body. */
  readonly text: string | null;
  /** False where the bytes cannot be had back from the text: NUL, bytes invalid in the charset, an unknown charset. */
  readonly exact: boolean;
};

/**
 * Decodes a body by the charset that its Content-Type declares (WHATWG Encoding; UTF-8 where it declares none or one that
 * nobody knows). NUL, which `text` cannot hold, becomes U+FFFD.
 */
export function decodeBody(body: Uint8Array, contentType: string | null): DecodedBody {
  if (body.byteLength === 0) {
    return { text: null, exact: true };
  }
  const charset = declaredCharset(contentType);
  const decoded = charset === 'utf-8' ? decodeUtf8(body) : decodeOther(body, charset);
  if (!decoded.text?.includes('\0')) {
    return decoded;
  }
  return { text: withoutNul(decoded.text), exact: false };
}

/** Of a text of NULs `replaceAll` makes a second's work for each 8 MiB; this takes a few milliseconds. */
function withoutNul(text: string): string {
  const units = Buffer.from(text, 'utf16le');
  for (let i = 0; i < units.length; i += 2) {
    if (units[i] === 0 && units[i + 1] === 0) units.writeUInt16LE(0xfffd, i);
  }
  return units.toString('utf16le');
}

/** A longer Content-Type declares nothing: its parser takes time by the square of what it reads. */
const contentTypeLengthMax = 1_000;

function declaredCharset(contentType: string | null): string {
  if (contentType === null || contentType.length > contentTypeLengthMax || !/charset/i.test(contentType)) {
    return 'utf-8';
  }
  return MIMEType.parse(contentType)?.parameters.get('charset')?.toLowerCase() ?? 'utf-8';
}

/** Invalid bytes become U+FFFD, as the WHATWG decoder has it; a byte order mark is kept. */
function decodeUtf8(body: Uint8Array): DecodedBody {
  const bytes = Buffer.from(body.buffer, body.byteOffset, body.byteLength);
  return { text: bytes.toString('utf8'), exact: isUtf8(bytes) };
}

function decodeOther(body: Uint8Array, charset: string): DecodedBody {
  try {
    return { text: new TextDecoder(charset, { fatal: true, ignoreBOM: true }).decode(body), exact: true };
  } catch (error) {
    if (error instanceof RangeError) {
      // A charset that nobody knows: read as UTF-8, and the bytes are kept whatever comes out.
      return { text: decodeUtf8(body).text, exact: false };
    }
    return { text: new TextDecoder(charset, { ignoreBOM: true }).decode(body), exact: false };
  }
}
