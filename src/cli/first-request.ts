import { setTimeout as sleep } from 'node:timers/promises';
import type { Database, Row } from '../postgres/database.ts';
import { CliError } from './errors.ts';
import { print, printable, table } from './output.ts';

const answerTimeoutMs = 10_000;
const lookEveryMs = 10;
const shownCharactersMax = 400;

type Response = Row & {
  id: bigint;
  status_code: number | null;
  content_type: string | null;
  content: string | null;
  error_msg: string | null;
};

/** Shows how to make a request; `perform`: makes it, and shows what came of it. */
export async function showFirstRequest(
  db: Database,
  where: { readonly database: string; readonly echo: string },
  perform: boolean,
): Promise<void> {
  const request = `select net.http_get('${where.echo}/get?hello=world');`;
  const look =
    'select id, status_code, content_type, content, error_msg from net._http_response order by id desc limit 1;';
  if (!perform) {
    print(
      `\nTo try it: psql '${where.database}'\n\n  -- make a request\n  ${request}\n  -- and a moment later look at the response\n  ${look}`,
    );
    return;
  }
  const [row] = await db.query<Row & { id: bigint }>(
    { name: 'pgfetch_first_request', text: 'select net.http_get($1::text) as id' },
    [`${where.echo}/get?hello=world`],
  );
  if (row === undefined) throw new Error('http_get returned no row');
  print(`\nA first request:\n\n  ${request}\n    → ${row.id}\n`);
  const response = await untilAnswered(db, row.id);
  const columns = ['id', 'status_code', 'content_type', 'content', 'error_msg'];
  print(`  ${look}`);
  print(table(columns.map((column) => [`    ${column}`, shown(response[column])])));
}

async function untilAnswered(db: Database, id: bigint): Promise<Response> {
  const deadline = performance.now() + answerTimeoutMs;
  for (;;) {
    const [response] = await db.query<Response>(
      {
        name: 'pgfetch_first_response',
        text: 'select r.id, r.status_code, r.content_type, r.content, r.error_msg from net._http_response r where r.id = $1',
      },
      [id],
    );
    if (response !== undefined) return response;
    if (performance.now() > deadline) {
      throw new CliError(
        `request ${id} has no response after ${answerTimeoutMs / 1_000} s; the worker's lines above say why.`,
      );
    }
    await sleep(lookEveryMs);
  }
}

function shown(value: unknown): string {
  if (value === null || value === undefined) return '(null)';
  const text = printable(String(value));
  return text.length > shownCharactersMax ? `${text.slice(0, shownCharactersMax)}…` : text;
}
