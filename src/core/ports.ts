/**
 * Whether a port is meant by one of the entries: a port, or a range (`8000-8999`); none means every port.
 *
 * @throws RangeError for an entry that {@link isPortEntry} refuses.
 */
export function createPortChoice(entries: readonly (number | string)[]): (port: number) => boolean {
  if (entries.length === 0) return () => true;
  const ranges = entries.map((entry) => {
    const range = parsePorts(entry);
    if (range === undefined) {
      throw new RangeError(`Invalid entry "${entry}" in ports: expected a port or a range such as 8000-8999`);
    }
    return range;
  });
  return (port) => ranges.some(([first, last]) => first <= port && port <= last);
}

/** Whether it is a port from 1 to 65535, or a range of them. */
export function isPortEntry(entry: number | string): boolean {
  return parsePorts(entry) !== undefined;
}

function parsePorts(entry: number | string): readonly [first: number, last: number] | undefined {
  const [, from, to = from] = /^(\d{1,5})(?:-(\d{1,5}))?$/.exec(String(entry).trim()) ?? [];
  const [first, last] = [Number(from), Number(to)];
  return first >= 1 && first <= last && last <= 65_535 ? [first, last] : undefined;
}
