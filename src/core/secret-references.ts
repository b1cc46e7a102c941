import type { ClaimedRequest, HeaderList, QueueRow } from './request.ts';

/** What the name of a secret is made of. Nothing that a path could be made of. */
export const secretNamePattern: RegExp = /^[a-z][a-z0-9_-]{0,62}$/;

/** `{{secret.stripe}}`; blanks may stand inside the braces. Nothing else is replaced. */
const references = /\{\{[ \t]*secret\.([a-z][a-z0-9_-]{0,62})[ \t]*\}\}/g;
/** What is meant for one. The same stand where requests are enqueued. */
const beginnings = /\{\{[ \t]*secret/gi;

/** Whether a row has anything that a secret may have to do with: asked of every row, and hardly ever true. */
export function mayUseSecrets(row: Pick<QueueRow, 'headersJson' | 'signWith'>): boolean {
  return row.signWith !== null || row.headersJson.includes('{{');
}

/** Whether a request cannot be sent as it is: it refers to secrets, or is to be signed with one. */
export function usesSecrets(row: QueueRow, headers: HeaderList): boolean {
  return mayUseSecrets(row) && (row.signWith !== null || headers.some(([, value]) => holdsReference(value)));
}

/** The names of the secrets that a request uses, each once; or what is wrong with how it refers to them. */
export function secretsUsedBy({ row, headers }: ClaimedRequest): readonly string[] | string {
  const names = new Set<string>();
  for (const [header, value] of headers) {
    if (!holdsReference(value)) continue;
    const found = [...value.matchAll(references)];
    if (found.length !== value.match(beginnings)?.length) {
      return `The header ${shown(header)} holds a malformed reference to a secret: it must be {{secret.name}}, the name beginning with a lower-case letter, of at most 63 of a-z, 0-9, "_" and "-"`;
    }
    if (header.toLowerCase() === 'host') return 'The header "Host" cannot hold a secret';
    for (const [, name = ''] of found) names.add(name);
  }
  if (row.signWith !== null) names.add(row.signWith);
  return [...names];
}

/** The names, in lower case, of the headers that hold a reference. */
export function headersWithReferences(headers: HeaderList): ReadonlySet<string> {
  return new Set(headers.filter(([, value]) => holdsReference(value)).map(([name]) => name.toLowerCase()));
}

/** The headers with the values in the place of the references; undefined where their values would have more than `bytesMax`. */
export function withSecretValues(
  headers: HeaderList,
  values: ReadonlyMap<string, string>,
  bytesMax: number,
): HeaderList | undefined {
  let bytes = 0;
  const resolved: (readonly [string, string])[] = [];
  for (const [name, value] of headers) {
    // Added up before anything is put together: a few bytes refer to thousands.
    bytes += Buffer.byteLength(value);
    for (const [, secret = ''] of value.matchAll(references)) bytes += Buffer.byteLength(values.get(secret) ?? '');
    if (bytes > bytesMax) return undefined;
    resolved.push([name, value.replace(references, (reference, secret: string) => values.get(secret) ?? reference)]);
  }
  return resolved;
}

function holdsReference(value: string): boolean {
  return value.includes('{{') && value.search(beginnings) >= 0;
}

function shown(header: string): string {
  return JSON.stringify(header.length > 100 ? `${header.slice(0, 100)}...` : header);
}
