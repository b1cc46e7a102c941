// Runs the benchmarks one after the other, keeps their reports as JSON, draws the plots of docs/performance.md, and prints its rows.
// `--only drain,flat` runs some; `--draw` runs none and draws the reports that are there. Everything else is passed on.
import { spawn } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { charts } from './charts.mjs';
import { markdownHead, markdownRows, printed } from './printing.mjs';

const path = (name) => fileURLToPath(new URL(name, import.meta.url));
const benchmarks = [
  'drain',
  'rivals',
  'latency',
  'enqueue',
  'blocking',
  'flat',
  'durable',
  'workers',
  'retries',
  'ordering',
  'memory',
  'idle',
];

const { values } = parseArgs({
  options: {
    only: { type: 'string', default: benchmarks.join(',') },
    results: { type: 'string', default: path('results') },
    charts: { type: 'string' },
    draw: { type: 'boolean', default: false },
    markdown: { type: 'boolean', default: false },
    smoke: { type: 'boolean', default: false },
    'database-url': { type: 'string' },
    'target-host': { type: 'string' },
    worker: { type: 'string' },
    minutes: { type: 'string' },
  },
});
const chosen = values.only.split(',');
for (const name of chosen) {
  if (!benchmarks.includes(name))
    throw new Error(`there is no benchmark "${name}"; there are ${benchmarks.join(', ')}`);
}
// What a smoke run measures means nothing: it goes where it is told, or nowhere near the documentation.
const chartsDirectory = values.charts ?? (values.smoke ? values.results : path('../docs'));
for (const directory of [values.results, chartsDirectory]) mkdirSync(directory, { recursive: true });
const resultPath = (name) => join(values.results, `${name}.json`);

for (const name of values.draw ? [] : chosen) {
  process.stderr.write(`--- ${name}\n`);
  const report = await run(name);
  writeFileSync(resultPath(name), `${JSON.stringify(report, null, 2)}\n`);
  if (!values.markdown) process.stdout.write(printed(report));
}
const reports = Object.fromEntries(
  chosen
    .filter((name) => existsSync(resultPath(name)))
    .map((name) => [name, JSON.parse(readFileSync(resultPath(name), 'utf8'))]),
);
for (const [name, svg] of Object.entries(charts(reports))) {
  writeFileSync(join(chartsDirectory, name), svg);
  process.stderr.write(`drawn: ${join(chartsDirectory, name)}\n`);
}
if (values.markdown) {
  process.stdout.write(`\n${markdownHead}${Object.values(reports).map(markdownRows).join('')}`);
}

async function run(name) {
  const passedOn = ['database-url', 'target-host', 'worker'].flatMap((option) =>
    values[option] === undefined ? [] : [`--${option}`, values[option]],
  );
  if (values.smoke) passedOn.push('--smoke');
  if (values.minutes !== undefined && name === 'memory') passedOn.push('--minutes', values.minutes);
  const child = spawn(process.execPath, [path(`${name}.mjs`), '--json', ...passedOn], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  let output = '';
  child.stdout.setEncoding('utf8').on('data', (data) => {
    output += data;
  });
  const code = await new Promise((resolve) => child.once('close', resolve));
  if (code !== 0) throw new Error(`bench/${name}.mjs failed`);
  return JSON.parse(output);
}
