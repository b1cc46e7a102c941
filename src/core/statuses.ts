/** Whether a status is one of those that are meant. */
export type Statuses = (status: number) => boolean;

/** Texts come with requests: so many are remembered, and then forgotten together. */
const rememberedMax = 1_000;
const remembered = new Map<string, Statuses | undefined>();

/**
 * What a text says of statuses from 400 to 599: single ones, ranges and classes (`'408, 429, 500-504'`, `'429, 5xx'`); an empty one
 * means none. Undefined where it makes no sense. The same as `net._are_statuses` in SQL. Each text is parsed once.
 */
export function parseStatuses(text: string): Statuses | undefined {
  const known = remembered.get(text);
  if (known !== undefined || remembered.has(text)) {
    return known;
  }
  if (remembered.size >= rememberedMax) {
    remembered.clear();
  }
  const statuses = parse(text);
  remembered.set(text, statuses);
  return statuses;
}

function parse(text: string): Statuses | undefined {
  const meant = new Set<number>();
  for (const part of /^ *$/.test(text) ? [] : text.split(',')) {
    const [, kind, single, last = single] = /^ *(?:([45])xx|([45]\d\d)(?: *- *([45]\d\d))?) *$/.exec(part) ?? [];
    const from = kind === undefined ? Number(single) : Number(kind) * 100;
    const upTo = kind === undefined ? Number(last) : from + 99;
    if (!(from <= upTo)) {
      return undefined;
    }
    for (let status = from; status <= upTo; status++) {
      meant.add(status);
    }
  }
  return (status) => meant.has(status);
}
