import { readdirSync } from 'node:fs';
import { dirname, join, relative } from 'node:path';
import { describe, expect, test } from 'vitest';
import { read, root } from './markdown.ts';

// The walls of the house, which CONTRIBUTING.md draws. To allow something new here is a decision: change both, with a reason.

/** Which rooms a room may import from. `src/index.ts` stands outside: it re-exports from any. */
const mayImport: Readonly<Record<string, readonly string[]>> = {
  core: [],
  config: ['core'],
  postgres: [],
  store: ['core', 'postgres'],
  schema: ['postgres', 'store'],
  http: ['core'],
  secrets: ['core'],
  worker: ['config', 'core', 'http', 'postgres', 'secrets', 'store'],
  embedded: ['core', 'schema'],
  pglite: ['core', 'http', 'postgres', 'schema', 'secrets', 'worker'],
  cli: ['config', 'embedded', 'postgres', 'schema', 'secrets', 'store', 'worker'],
};

/** Packages and built-in modules that compute and do nothing else. */
const pureModules = new Set(['ipaddr.js', 'whatwg-mimetype', 'node:buffer']);

const linesMax = 420;

type Source = {
  /** From the root: `src/http/pool.ts`. */
  readonly path: string;
  readonly room: string;
  readonly lines: number;
  /** Its text without comments. */
  readonly code: string;
  /** What it imports, dynamically and for types too, as written. */
  readonly imports: readonly string[];
};

function filesBelow(directory: string, ending: string): readonly string[] {
  return readdirSync(join(root, directory), { recursive: true, encoding: 'utf8' })
    .filter((name) => name.endsWith(ending))
    .sort()
    .map((name) => join(directory, name));
}

function sourceOf(path: string): Source {
  const text = read(path);
  const code = text.replace(/\/\*[\s\S]*?\*\//g, '').replace(/(^|\s)\/\/.*$/gm, '$1');
  const imports = [...code.matchAll(/(?:\bfrom|\bimport)\s*\(?\s*'([^']+)'/g)].map(([, target = '']) => target);
  const [, room = ''] = /^src\/([^/]+)\//.exec(path) ?? [];
  return { path, room, lines: text.trimEnd().split('\n').length, code, imports };
}

const sources = filesBelow('src', '.ts').map(sourceOf);
const relativeImports = sources.flatMap((source) =>
  source.imports
    .filter((target) => target.startsWith('.'))
    .map((target) => {
      const path = relative(root, join(root, dirname(source.path), target));
      return { source, target, path, room: /^src\/([^/]+)\//.exec(path)?.[1] ?? '' };
    }),
);

/** `path: what`, for each source that has it: an empty list is what a rule wants. */
function found(pattern: RegExp, where: readonly Source[] = sources): readonly string[] {
  return where.flatMap(({ path, code }) => [...code.matchAll(pattern)].map(([what]) => `${path}: ${what.trim()}`));
}

describe('the rooms', () => {
  test('are those that CONTRIBUTING.md draws, with the same walls', () => {
    expect(new Set(sources.map(({ room }) => room).filter((room) => room !== ''))).toEqual(
      new Set(Object.keys(mayImport)),
    );
    const drawn = [...read('CONTRIBUTING.md').matchAll(/^\| `(\w+)` \| .* \| ([^|]+) \|$/gm)].map(
      ([, room = '', targets = '']) => [room, [...targets.matchAll(/`(\w+)`/g)].map(([, target]) => target)],
    );
    expect(Object.fromEntries(drawn)).toEqual(mayImport);
  });

  test('import only what they may', () => {
    const trespasses = relativeImports
      .filter(({ source, room }) => source.room !== '' && room !== source.room)
      .filter(({ source, room }) => mayImport[source.room]?.includes(room) !== true)
      .map(({ source, target }) => `${source.path} imports ${target}`);
    expect(trespasses).toEqual([]);
  });

  test('form no cycle', () => {
    const edges = new Map<string, Set<string>>();
    for (const { source, room } of relativeImports) {
      if (source.room !== room) edges.set(source.room, (edges.get(source.room) ?? new Set()).add(room));
    }
    const cycles: string[] = [];
    const walk = (room: string, path: readonly string[]): void => {
      if (path.includes(room)) cycles.push([...path, room].join(' → '));
      else for (const next of edges.get(room) ?? []) walk(next, [...path, room]);
    };
    for (const room of edges.keys()) walk(room, []);
    expect(cycles).toEqual([]);
  });

  test('core is pure: no package or built-in module that does anything', () => {
    const impure = sources
      .filter(({ room }) => room === 'core')
      .flatMap(({ path, imports }) => imports.map((target) => ({ path, target })))
      .filter(({ target }) => !target.startsWith('./') && !pureModules.has(target));
    expect(impure).toEqual([]);
    const core = sources.filter(({ room }) => room === 'core');
    expect(found(/\b(?:process\.|Date\.now|new Date\(\)|performance\.|setTimeout|fetch\()/g, core)).toEqual([]);
  });

  test('cli alone uses the environment, exit codes and the terminal', () => {
    // One exception, by name: the embedded server is started in the environment of whoever starts it.
    const others = sources.filter(({ room, path }) => room !== 'cli' && path !== 'src/embedded/processes.ts');
    expect(found(/\bprocess\.(?:env|exit|exitCode|argv|stdin|stdout|stderr)\b|\bconsole\.\w+/g, others)).toEqual([]);
  });

  test('pg and PGlite are known to those that open a database', () => {
    const users = (name: RegExp): string[] => [
      ...new Set(sources.filter(({ imports }) => imports.some((each) => name.test(each))).map(({ room }) => room)),
    ];
    expect(users(/^pg$/).sort()).toEqual(['embedded', 'postgres']);
    expect(users(/^@electric-sql\//).sort()).toEqual(['embedded', 'pglite', 'postgres', 'worker']);
  });

  test('src/index.ts only re-exports', () => {
    const { code } = sourceOf('src/index.ts');
    expect(code.replace(/export (?:type )?\{[^}]*\} from '[^']+';/g, '').trim()).toBe('');
  });
});

describe('the sources', () => {
  test('are found', () => {
    expect(sources.length).toBeGreaterThan(60);
    expect(relativeImports.length).toBeGreaterThan(150);
  });

  test('name the files that they import, with their ending', () => {
    expect(relativeImports.filter(({ target }) => !target.endsWith('.ts')).map(({ target }) => target)).toEqual([]);
  });

  test(`have at most ${linesMax} lines`, () => {
    const long = sources.filter(({ lines }) => lines > linesMax).map(({ path, lines }) => `${path}: ${lines}`);
    expect(long).toEqual([]);
  });

  test('have no `any`, no enum, no catch-all module, and nothing left to do', () => {
    const withoutTexts = sources.map((source) => ({
      ...source,
      code: source.code.replace(/'[^'\n]*'|"[^"\n]*"|`[^`]*`/g, "''"),
    }));
    expect(found(/[:<,(|&]\s*any\b|\bas any\b|\bany\[\]|^\s*(?:const )?enum /gm, withoutTexts)).toEqual([]);
    expect(sources.filter(({ path }) => /\/(utils?|helpers?|common|misc|lib)\b/.test(path))).toEqual([]);
    const leftovers = [
      ...sources.map(({ path }) => path),
      ...filesBelow('sql', '.sql'),
      ...filesBelow('scripts', '.mjs'),
    ].filter((path) => /\b(TODO|FIXME|XXX|HACK)\b/.test(read(path)));
    expect(leftovers).toEqual([]);
  });

  test('have no test flags', () => {
    expect(found(/NODE_ENV|VITEST|isTest\b|testMode/g)).toEqual([]);
  });
});

describe('SQL', () => {
  const statements = sources.flatMap(({ path, code }) =>
    [...code.matchAll(/\bname:\s*'(\w+)',\s*text:\s*(`[^`]*`|'[^']*')/g)].map(([, name = '', text = '']) => ({
      path,
      name,
      text,
    })),
  );

  test('in TypeScript is constant: values are parameters', () => {
    expect(statements.length).toBeGreaterThan(40);
    expect(statements.filter(({ text }) => text.includes('${'))).toEqual([]);
    // Whatever else looks like a statement in the room that runs them.
    const store = sources.filter(({ room }) => room === 'store');
    expect(
      found(/`\s*(?:select|insert|update|delete|with|set|do|alter|create|drop)\b[^`]*\$\{[^`]*`/gi, store),
    ).toEqual([]);
  });

  test('statements have names of their own, short enough for PostgreSQL', () => {
    const names = statements.map(({ name }) => name);
    const repeated = statements.filter(
      ({ name, text }, index) => statements.findIndex((other) => other.name === name && other.text !== text) > index,
    );
    expect(repeated).toEqual([]);
    expect(names.filter((name) => name.length > 50)).toEqual([]);
  });

  test('objects of the schema are marked public or private', () => {
    const topics = filesBelow('sql', '.sql').filter((path) => /^sql\/\d{3}_/.test(path));
    let objects = 0;
    const unmarked: string[] = [];
    for (const path of topics) {
      const lines = read(path).split('\n');
      for (const [index, line] of lines.entries()) {
        if (!/^create (or replace )?(unlogged )?(table|view|function|sequence|type|domain)\b/.test(line)) continue;
        objects += 1;
        if (!/^-- API: (public|private)$/.test(lines[index - 1] ?? '')) unmarked.push(`${path}:${index + 1}: ${line}`);
      }
    }
    expect(objects).toBeGreaterThan(30);
    expect(unmarked).toEqual([]);
  });
});
