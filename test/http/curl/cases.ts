import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { gunzipSync } from 'node:zlib';

/** A reply of curl's own test suite and what libcurl 7.88.1, with the options that pg_net sets, makes of it. */
export type CurlCase = {
  /** The tests that have it: `36`, or `150/1001` for a numbered reply of a test. */
  readonly names: readonly string[];
  readonly method: string;
  /** A character for each byte; `portMark` stands for the port of the server. */
  readonly reply: string;
  /** The server closes the connection after the reply; otherwise it leaves that to the client. */
  readonly closes: boolean;
  /** Where libcurl goes on to. To this server it does, and what is below is about the second reply. */
  readonly redirect: string | undefined;
  readonly expected: Seen;
};

/** What a caller sees of a reply: of a failure no more than its text. */
export type Seen =
  | { readonly error: string }
  | { readonly status: number; readonly headers: readonly (readonly [string, string])[]; readonly body: string };

/** Bodies longer than this are known by their digest; as record.mjs writes them. */
const bodyTextMax = 2_000;

type Recorded = {
  readonly names: readonly string[];
  readonly method: string;
  readonly closes: boolean;
  readonly reply?: string;
  readonly replyGzip?: string;
  readonly redirect?: string;
  readonly error?: string;
  readonly status?: number;
  readonly headers?: readonly (readonly [string, string])[];
  readonly body?: string;
  readonly bodyDigest?: { readonly bytes: number; readonly sha256: string };
};

/** Reads cases.jsonl, which record.mjs makes. */
export function readCurlCases(): readonly CurlCase[] {
  const lines = readFileSync(new URL('cases.jsonl', import.meta.url), 'utf8')
    .trimEnd()
    .split('\n');
  return lines.map((line) => {
    const recorded = JSON.parse(line) as Recorded;
    const { names, method, closes, redirect, error, status = 0, headers = [], bodyDigest, replyGzip = '' } = recorded;
    const reply = recorded.reply ?? gunzipSync(Buffer.from(replyGzip, 'base64')).toString('latin1');
    const body = bodyDigest === undefined ? (recorded.body ?? '') : digestText(bodyDigest.bytes, bodyDigest.sha256);
    const expected = error === undefined ? { status, headers: headers.map(withoutLineEnd), body } : { error };
    return { names, method, reply, closes, redirect, expected };
  });
}

/** Of an empty value libcurl 7.88 leaves the end of its line (`Expires:` has the value CR), which is nothing to agree with. */
function withoutLineEnd([name, value]: readonly [string, string]): readonly [string, string] {
  return [name, value.replace(/[\r\n]/g, '').trim()];
}

/** A body as {@link Seen} has it. */
export function bodyText(bytes: string): string {
  if (bytes.length <= bodyTextMax) return bytes;
  return digestText(bytes.length, createHash('sha256').update(bytes, 'latin1').digest('hex'));
}

function digestText(bytes: number, sha256: string): string {
  return `${bytes} bytes, SHA-256 ${sha256}`;
}
