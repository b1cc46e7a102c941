// Draws what the benchmarks measured, as SVG that follows its reader's light or dark scheme.
import * as Plot from '@observablehq/plot';
import { parseHTML } from 'linkedom';

const width = 720;

/** Colours by role; each reads on white and on the dark of code hosts. */
const style = `
  svg { color: #1f2328; font: 13px system-ui, sans-serif; }
  svg { --ours: #0969da; --others: #8c959f; --one: #0969da; --two: #bc4c00; --three: #1a7f37; --four: #8250df; }
  @media (prefers-color-scheme: dark) {
    svg { color: #e6edf3; --ours: #4493f8; --others: #7d8590; --one: #4493f8; --two: #f0883e; --three: #3fb950; --four: #bc8cff; }
  }`;
const lineColours = ['var(--one)', 'var(--two)', 'var(--three)', 'var(--four)'];

/** @param {Record<string, object>} reports by benchmark. @returns {Record<string, string>} SVG by file name, of what there is. */
export function charts(reports) {
  const drawn = {
    'performance-rivals.svg': reports.rivals?.plot && drainBars(reports.rivals),
    'performance-latency.svg': reports.latency?.plot && latencyCurves(reports.latency),
    'performance-horizon.svg': reports.flat?.plot?.horizon && horizonCurve(reports.flat),
    'performance-memory.svg': reports.memory?.plot?.traffic && memoryCurve(reports.memory),
  };
  return Object.fromEntries(Object.entries(drawn).filter(([, svg]) => svg !== undefined));
}

function drainBars(report) {
  const bars = report['drain (medians)'];
  const rate = 'requests/s';
  return drawn('Requests drained per second', {
    height: 75 + bars.length * 34,
    marginLeft: 240,
    marginRight: 70,
    x: { label: 'requests/s, from the order to consume until the last one is recorded →', ticks: 6, grid: true },
    y: { label: null, domain: bars.map((bar) => bar.consumer), tickSize: 0 },
    marks: [
      Plot.barX(bars, {
        x: rate,
        y: 'consumer',
        insetTop: 4,
        insetBottom: 4,
        fill: (bar) => (bar.consumer === 'pgfetch' ? 'var(--ours)' : 'var(--others)'),
      }),
      Plot.text(bars, {
        x: rate,
        y: 'consumer',
        text: (bar) => bar[rate].toLocaleString('en-US'),
        textAnchor: 'start',
        dx: 6,
        fill: 'currentColor',
      }),
      Plot.ruleX([0], { stroke: 'currentColor' }),
    ],
  });
}

function latencyCurves(report) {
  const names = Object.keys(report.plot);
  const points = names.flatMap((name) =>
    report.plot[name].map((ms, percent) => ({ name, ms: Math.max(0.1, ms), percent })),
  );
  return drawn(
    'From commit to response',
    {
      height: 320,
      marginLeft: 60,
      x: { type: 'log', label: 'milliseconds (logarithmic) →', grid: true, ticks: 8, tickFormat: (ms) => `${ms}` },
      y: { label: '↑ % of the requests answered within', domain: [0, 100], grid: true },
      marks: [
        Plot.line(points, {
          x: 'ms',
          y: 'percent',
          z: 'name',
          stroke: (point) => colourOf(names, point.name),
          strokeWidth: 2,
        }),
        Plot.ruleY([0], { stroke: 'currentColor' }),
      ],
    },
    names,
  );
}

function horizonCurve(report) {
  const samples = report.plot.horizon;
  return drawn('Draining while a transaction holds the xmin horizon', {
    height: 300,
    marginLeft: 70,
    x: { label: 'requests answered so far →', tickFormat: (count) => count.toLocaleString('en-US'), ticks: 6 },
    y: {
      label: '↑ requests/s',
      domain: [0, Math.max(...samples.map((sample) => sample['requests/s'])) * 1.1],
      grid: true,
    },
    marks: [
      Plot.line(samples, { x: 'answered', y: 'requests/s', stroke: 'var(--ours)', strokeWidth: 2 }),
      Plot.dot(samples, { x: 'answered', y: 'requests/s', fill: 'var(--ours)', r: 3 }),
      Plot.ruleY([0], { stroke: 'currentColor' }),
    ],
  });
}

function memoryCurve(report) {
  const samples = report.plot.traffic;
  return drawn('Memory of the worker under steady traffic', {
    height: 300,
    marginLeft: 60,
    x: { label: 'minutes →' },
    y: {
      label: '↑ resident memory, MB',
      domain: [0, Math.max(150, ...samples.map((sample) => sample.rss)) * 1.1],
      grid: true,
    },
    marks: [
      Plot.line(samples, { x: 'minute', y: 'rss', stroke: 'var(--ours)', strokeWidth: 2 }),
      Plot.ruleY([0], { stroke: 'currentColor' }),
    ],
  });
}

const colourOf = (names, name) => lineColours[names.indexOf(name) % lineColours.length];

/** One SVG with its title, its legend and its colours inside: nothing else is needed to show it. */
function drawn(title, options, legend = []) {
  const margins = { marginTop: 28, marginBottom: 45, marginRight: 40 };
  const { document } = parseHTML('<!doctype html><html><body></body></html>');
  const head = legend.length === 0 ? 34 : 60;
  const plot = Plot.plot({
    document,
    width,
    ...margins,
    ...options,
    style: { background: 'none', color: 'inherit', overflow: 'visible' },
  });
  const inner = plot.tagName.toLowerCase() === 'svg' ? plot : plot.querySelector('svg');
  // What Plot brings along for web pages: its own style, with a background of its own.
  for (const own of inner.querySelectorAll('style')) own.remove();
  inner.setAttribute('y', `${head}`);
  inner.removeAttribute('style');
  inner.setAttribute('font-size', '13');
  const height = options.height + head;
  let x = 16;
  const keys = legend.map((name) => {
    const key = `<g><line x1="${x}" x2="${x + 22}" y1="46" y2="46" stroke="${colourOf(legend, name)}" stroke-width="3"/><text x="${x + 28}" y="50">${name}</text></g>`;
    x += 50 + name.length * 8;
    return key;
  });
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" width="${width}" height="${height}" fill="currentColor" role="img" aria-label="${title}">
<style>${style}
</style>
<text x="16" y="24" font-size="16" font-weight="600">${title}</text>
${keys.join('\n')}
${inner.outerHTML}
</svg>
`;
}
