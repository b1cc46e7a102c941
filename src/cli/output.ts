/** Writes a line of the command's result. */
export function print(text: string): void {
  process.stdout.write(`${text}\n`);
}

/** Writes the command's result for programs. Instants are ISO 8601; whole numbers beyond 2^53 become texts. */
export function printJson(value: unknown, indent: number = 2): void {
  print(
    JSON.stringify(value, (_key, inner: unknown) => (typeof inner === 'bigint' ? numberOrText(inner) : inner), indent),
  );
}

function numberOrText(value: bigint): number | string {
  return value <= BigInt(Number.MAX_SAFE_INTEGER) ? Number(value) : value.toString();
}

/** Columns as wide as their widest cell; the last one is not padded. */
export function table(rows: readonly (readonly string[])[]): string {
  const widths: number[] = [];
  for (const row of rows) {
    for (const [column, cell] of row.entries()) widths[column] = Math.max(widths[column] ?? 0, cell.length);
  }
  return rows
    .map((row) =>
      row.map((cell, column) => (column === row.length - 1 ? cell : cell.padEnd(widths[column] ?? 0))).join('  '),
    )
    .join('\n');
}

/** `850 ms`, `4.2 s`, `3 min`, `5.1 h`, `2.5 d`. */
export function duration(ms: number): string {
  const magnitude = Math.abs(ms);
  if (magnitude < 1_000) return `${Math.round(ms)} ms`;
  if (magnitude < 60_000) return `${short(ms / 1_000)} s`;
  if (magnitude < 3_600_000) return `${short(ms / 60_000)} min`;
  if (magnitude < 86_400_000) return `${short(ms / 3_600_000)} h`;
  return `${short(ms / 86_400_000)} d`;
}

function short(value: number): string {
  return String(Math.round(value * 10) / 10);
}

/** What a terminal would obey (colours, cursor moves) is not printed as such: texts come from whoever can write SQL. */
export function printable(text: string): string {
  return text.replace(/\p{Cc}+/gu, ' ');
}
