import { readdirSync, readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

/** The project's root. */
export const root: string = join(dirname(fileURLToPath(import.meta.url)), '..', '..');

/** A fenced block of a page. */
export type Block = {
  /** The language: `sql`, `sh`, `ts`, `text`, ... */
  readonly language: string;
  /** What follows it on the fence: `pg_cron`, `service`, ... */
  readonly mark: string;
  readonly text: string;
  /** Of its fence, from 1. */
  readonly line: number;
  /** The block before it, with nothing but blank lines between. */
  readonly follows: Block | undefined;
};

/** The pages that users and contributors read, as paths from the root. */
export function pages(): readonly string[] {
  const docs = readdirSync(join(root, 'docs'), { recursive: true, encoding: 'utf8' });
  return [
    'README.md',
    'CONTRIBUTING.md',
    'CHANGELOG.md',
    ...docs
      .filter((name) => name.endsWith('.md'))
      .sort()
      .map((name) => join('docs', name)),
  ];
}

export function read(path: string): string {
  return readFileSync(join(root, path), 'utf8');
}

export function blocksOf(page: string): readonly Block[] {
  const blocks: Block[] = [];
  let open: { language: string; mark: string; line: number; lines: string[]; follows: Block | undefined } | undefined;
  let previous: Block | undefined;
  for (const [index, line] of read(page).split('\n').entries()) {
    const fence = /^```(?!`)(\S*) *(.*)$/.exec(line);
    if (open !== undefined && fence !== null) {
      const { lines, ...rest } = open;
      previous = { ...rest, text: lines.join('\n') };
      blocks.push(previous);
      open = undefined;
    } else if (open !== undefined) {
      open.lines.push(line);
    } else if (fence !== null) {
      const [, language = '', mark = ''] = fence;
      open = { language, mark, line: index + 1, lines: [], follows: previous };
    } else if (line.trim() !== '') {
      previous = undefined;
    }
  }
  if (open !== undefined) throw new Error(`${page}:${open.line}: the block does not end`);
  return blocks;
}

/** A page's text without its fenced blocks. */
function proseOf(page: string): string {
  return read(page).replace(/^```(?!`)[\s\S]*?^```$/gm, '');
}

/** Targets of its links that lead to files of the project: `[path from the page, anchor]`. */
export function linksOf(page: string): readonly (readonly [path: string, anchor: string])[] {
  return [...proseOf(page).matchAll(/\]\(([^)\s]+)\)/g)]
    .map(([, target = '']) => target)
    .filter((target) => !/^[a-z]+:/.test(target))
    .map((target) => {
      const [path = '', anchor = ''] = target.split('#');
      return [path, anchor] as const;
    });
}

/** The anchors of its headings, as GitHub makes them. */
export function anchorsOf(page: string): readonly string[] {
  return [...proseOf(page).matchAll(/^#+ (.+)$/gm)].map(([, heading = '']) =>
    heading
      .toLowerCase()
      .replace(/[^\p{L}\p{N}_ -]/gu, '')
      .replaceAll(' ', '-'),
  );
}
