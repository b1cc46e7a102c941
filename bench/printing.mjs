// How a benchmark's report is shown: to people on a terminal, and as rows of docs/performance.md.

/** @param {{ benchmark: string, node: string, cores: number, rows: object[] }} report */
export function printed({ benchmark, node, cores, rows: _, ...measured }) {
  const lines = [`\n${benchmark} (Node.js ${node}, ${cores} cores)\n`];
  const width = Math.max(...Object.keys(measured).map((key) => key.length)) + 2;
  for (const [key, value] of Object.entries(measured)) {
    // What is for the plots would only hide the rest.
    if (key === 'plot') continue;
    if (Array.isArray(value) && typeof value[0] === 'object') lines.push(`  ${key}\n`, ...series(value));
    else lines.push(`  ${key.padEnd(width)}${valueText(value)}\n`);
  }
  return lines.join('');
}

function valueText(value) {
  if (Array.isArray(value)) return value.map(valueText).join(', ');
  if (typeof value === 'object' && value !== null) {
    return Object.entries(value)
      .map(([key, inner]) => `${key} ${valueText(inner)}`)
      .join(', ');
  }
  return typeof value === 'number' && Math.abs(value) >= 10_000 ? value.toLocaleString('en-US') : String(value);
}

function series(rows) {
  const keys = Object.keys(rows[0]);
  const cells = [keys, ...rows.map((row) => keys.map((key) => valueText(row[key] ?? '')))];
  const widths = keys.map((_, column) => Math.max(...cells.map((row) => row[column].length)));
  return cells.map((row) => `    ${row.map((cell, column) => cell.padStart(widths[column])).join('  ')}\n`);
}

export const markdownHead = '| What | Command | Here | Wanted | pg_net 0.20.4 |\n|---|---|---|---|---|\n';

/** The rows of docs/performance.md, ready to paste. */
export function markdownRows({ benchmark, rows, skipped }) {
  if (skipped !== undefined && rows.length === 0) return `| (${benchmark}: ${skipped}) | | | | |\n`;
  return rows
    .map(
      ({ what, here, wanted = '', pgNet = '' }, i) =>
        `| ${what} | ${i === 0 ? `\`npm run bench:${benchmark}\`` : ''} | ${here} | ${wanted} | ${pgNet} |\n`,
    )
    .join('')
    .replaceAll('  ', ' ');
}
