/** The known name that was probably meant by `unknown`, or undefined where none is near. Case, `-` and `_` do not count. */
export function nearestName(unknown: string, known: readonly string[]): string | undefined {
  const wanted = plain(unknown);
  let nearest: string | undefined;
  // A third of the letters may differ: `leasMs` means `leaseMs`, `foo` means nothing.
  let nearestDistance = Math.floor(wanted.length / 3) + 1;
  for (const name of known) {
    const distance = editDistance(wanted, plain(name));
    if (distance < nearestDistance) {
      nearest = name;
      nearestDistance = distance;
    }
  }
  return nearest;
}

function plain(name: string): string {
  return name.toLowerCase().replace(/[-_]/g, '').slice(0, 100);
}

/** Levenshtein's: how many letters must be inserted, removed or replaced. */
function editDistance(from: string, to: string): number {
  let previous = Array.from({ length: to.length + 1 }, (_, index) => index);
  for (const [row, letter] of [...from].entries()) {
    const current = [row + 1];
    for (let column = 1; column <= to.length; column += 1) {
      const replaced = (previous[column - 1] ?? 0) + (letter === to[column - 1] ? 0 : 1);
      current.push(Math.min(replaced, (previous[column] ?? 0) + 1, (current[column - 1] ?? 0) + 1));
    }
    previous = current;
  }
  return previous[to.length] ?? 0;
}
