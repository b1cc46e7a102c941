// What the benchmarks make of their measurements.

/** The value below which `share` of the numbers lie. */
export function percentile(numbers, share) {
  const sorted = [...numbers].sort((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))] ?? Number.NaN;
}

export const median = (numbers) => {
  const sorted = [...numbers].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 === 1 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
};

export const rounded = (number, digits = 2) => Number(number.toFixed(digits));

export const megabytes = (bytes) => Math.round(bytes / 1e6);

/** `12,345` */
export const grouped = (number) => Math.round(number).toLocaleString('en-US');

/** What a distribution is usually asked for. */
export const p50and99 = (numbers, digits = 2) => ({
  p50: rounded(percentile(numbers, 0.5), digits),
  p99: rounded(percentile(numbers, 0.99), digits),
});

/** The least-squares slope of `y` over `x`. */
export function slope(points) {
  const meanX = points.reduce((sum, [x]) => sum + x, 0) / points.length;
  const meanY = points.reduce((sum, [, y]) => sum + y, 0) / points.length;
  const over = points.reduce((sum, [x, y]) => sum + (x - meanX) * (y - meanY), 0);
  const under = points.reduce((sum, [x]) => sum + (x - meanX) ** 2, 0);
  return under === 0 ? 0 : over / under;
}

/** At most `most` of the points, evenly spread, the last one always: a series for a plot or a table. */
export function thinned(points, most) {
  if (points.length <= most) return points;
  return Array.from({ length: most }, (_, i) => points[Math.round(((i + 1) * points.length) / most) - 1]);
}
