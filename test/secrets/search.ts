import { readdirSync, readFileSync, statSync } from 'node:fs';
import { join, relative } from 'node:path';
import pg from 'pg';

/** What somebody would look for who looks for a secret: as it is, and as base64, hexadecimal and UTF-16 write it. */
export function formsOf(secret: Buffer): readonly Buffer[] {
  const utf16 = Buffer.from(secret.toString('latin1'), 'utf16le');
  return [
    secret,
    ...[0, 1, 2].map((offset) => Buffer.from(base64Within(secret, offset))),
    Buffer.from(secret.toString('hex')),
    Buffer.from(secret.toString('hex').toUpperCase()),
    utf16,
    Buffer.from(utf16).swap16(),
  ];
}

/** What all base64 has in common of texts that hold the secret at a place with this remainder by three. */
function base64Within(secret: Buffer, offset: number): string {
  const text = Buffer.concat([Buffer.alloc(offset), secret])
    .toString('base64')
    .replace(/=+$/, '');
  const whole = Math.floor(((offset + secret.length) * 8) / 6);
  return text.slice(Math.ceil((offset * 8) / 6), whole);
}

/** The names of those of the secrets that are in the bytes, in any form. */
export function foundIn(bytes: Uint8Array, secrets: Readonly<Record<string, readonly Buffer[]>>): readonly string[] {
  const buffer = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  return Object.keys(secrets).filter((name) => secrets[name]?.some((form) => buffer.includes(form)));
}

/** Each file below a directory: its path from there, and what it holds. */
export function* filesBelow(directory: string): Generator<readonly [path: string, bytes: Buffer]> {
  for (const name of readdirSync(directory, { recursive: true, encoding: 'utf8' }).sort()) {
    const path = join(directory, name);
    if (statSync(path).isFile()) yield [relative(directory, path), readFileSync(path)];
  }
}

/** Every row of every table of the schema, and of what the server tells of its sessions, as text. */
export async function everyRow(client: pg.Client): Promise<string> {
  const { rows: tables } = await client.query<{ name: string }>(
    `select format('%I.%I', nspname, relname) as name from pg_class c join pg_namespace n on n.oid = relnamespace
    where nspname = 'net' and relkind in ('r', 'p', 'm', 'v')`,
  );
  const parts: string[] = [];
  for (const name of [...tables.map((table) => table.name), 'pg_stat_activity', 'pg_prepared_statements']) {
    const { rows } = await client.query<{ text: string }>(`select t::text as text from ${name} t`);
    parts.push(name, ...rows.map(({ text }) => text));
  }
  return parts.join('\n');
}

/** A base backup with its WAL, as a replica or pg_basebackup asks for one: tar, not compressed. */
export async function baseBackup(connectionString: string, major: number): Promise<Buffer> {
  const url = new URL(connectionString);
  url.searchParams.set('replication', 'true');
  const client = new pg.Client(url.href);
  const chunks: Buffer[] = [];
  await client.connect();
  try {
    const { connection } = client as unknown as { connection: NodeJS.EventEmitter };
    connection.on('copyData', ({ chunk }: { chunk: Buffer }) => chunks.push(Buffer.from(chunk)));
    await client.query(major >= 15 ? `BASE_BACKUP (CHECKPOINT 'fast', WAL true)` : 'BASE_BACKUP FAST WAL NOWAIT');
  } finally {
    await client.end();
  }
  return Buffer.concat(chunks);
}
