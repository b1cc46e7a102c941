#!/usr/bin/env node
import { nodeProblem } from './node-version.ts';

const problem = nodeProblem(process.versions.node);
if (problem === undefined) {
  // Only now: what the rest imports does not even load on an older Node.js.
  const { run } = await import('./run.ts');
  await run();
} else {
  process.stderr.write(`${problem}\n`);
  process.exitCode = 1;
}
