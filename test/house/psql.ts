import type { ClientBase } from 'pg';
import pg from 'pg';

/** What psql would have shown of one statement. */
export type Shown =
  | { readonly kind: 'table'; readonly header: readonly string[]; readonly rows: readonly (readonly string[])[] }
  | { readonly kind: 'error'; readonly lines: readonly string[] };

/** Splits a script into statements as psql does: at semicolons that are not inside a string, a comment or parentheses. */
export function statementsOf(script: string): readonly string[] {
  const statements: string[] = [];
  // One after the other: strings, quoted names, dollar-quoted bodies, comments, a semicolon, or any other character.
  const token = /'(?:[^']|'')*'|"[^"]*"|(\$\w*\$)[\s\S]*?\1|--[^\n]*|\/\*[\s\S]*?\*\/|[\s\S]/g;
  let statement = '';
  for (const [text] of script.matchAll(token)) {
    if (text === ';') {
      statements.push(statement.trim());
      statement = '';
    } else if (!text.startsWith('--')) {
      statement += text;
    }
  }
  return [...statements, statement.trim()].filter((each) => each !== '');
}

/** Runs the statements one by one, as psql does, and returns what the last one shows. An error before that is thrown. */
export async function runLikePsql(client: ClientBase, script: string): Promise<Shown | undefined> {
  const statements = statementsOf(script);
  let shown: Shown | undefined;
  for (const [index, statement] of statements.entries()) {
    try {
      const { fields, rows } = await client.query<(string | null)[]>({
        text: statement,
        rowMode: 'array',
        types: { getTypeParser: () => (text: unknown) => text },
      });
      shown =
        fields.length === 0
          ? shown
          : {
              kind: 'table',
              header: fields.map(({ name }) => name),
              rows: rows.map((row) => row.map((cell) => cell ?? '')),
            };
    } catch (error) {
      if (!(error instanceof pg.DatabaseError) || index < statements.length - 1) throw error;
      const { message, detail, hint } = error;
      const lines = [`ERROR:  ${message}`];
      if (detail !== undefined) lines.push(`DETAIL:  ${detail}`);
      if (hint !== undefined) lines.push(`HINT:  ${hint}`);
      shown = { kind: 'error', lines };
    }
  }
  return shown;
}

/** Reads what a page shows as the output of psql, `translate` applied to each cell; undefined where it is none. */
export function readShown(text: string, translate: (cell: string) => string): Shown | undefined {
  const lines = text.split('\n');
  if (lines[0]?.startsWith('ERROR:')) return { kind: 'error', lines };
  if (!/^-+(\+-+)*$/.test(lines[1] ?? '')) return undefined;
  const cells = (line: string): string[] => line.split('|').map((cell) => translate(cell.trim()));
  const [header = '', , ...rows] = lines.filter((line) => !/^\(\d+ rows?\)$/.test(line));
  return { kind: 'table', header: cells(header), rows: rows.map(cells) };
}
