// Thousands of tries to make the HTTP client reach what it must not, in a network of its own. See CONTRIBUTING.md.
import { spawn } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { optionsOf } from '../soak/options.mjs';
import { ownNetwork } from './own-network.mjs';

const help = `Usage: npm run ssrf -- [options]

  --tries <n>      how many requests (default 10000)
  --seed <n>       repeats what is tried (default: a new one, printed)
  --lanes <n>      requests at a time (default 32)
  --timeout <ms>   of each request (default 1000)
  --allow <what>   as of pgfetch worker; with "all" the canaries are reached, and counted
  --json           prints the result as JSON alone

Needs Linux, and root or user namespaces.
`;

const { values } = parseArgs({
  options: {
    tries: { type: 'string', default: '10000' },
    seed: { type: 'string', default: String(Math.floor(Math.random() * 2 ** 31)) },
    lanes: { type: 'string', default: '32' },
    timeout: { type: 'string', default: '1000' },
    allow: { type: 'string', multiple: true, default: [] },
    json: { type: 'boolean', default: false },
    help: { type: 'boolean', default: false },
  },
});

const { number, say } = optionsOf(values);

function runInside(words, options) {
  return new Promise((resolve, reject) => {
    const inside = fileURLToPath(new URL('inside.mjs', import.meta.url));
    const child = spawn('unshare', [...words, process.execPath, inside, JSON.stringify(options)], {
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    let said = '';
    child.stdout.on('data', (chunk) => {
      said += chunk;
    });
    child.once('error', reject);
    child.once('close', (status) => {
      if (status === 0) resolve(JSON.parse(said));
      else reject(new Error(`the trial ended with status ${status}`));
    });
  });
}

async function main() {
  if (values.help) {
    process.stdout.write(help);
    return;
  }
  const { words, whyNot } = ownNetwork();
  if (whyNot !== undefined) throw new Error(whyNot);
  const seed = number('seed', 0);
  const tries = number('tries', 1);
  say(`seed ${seed}: what was tried can be had again with npm run ssrf -- --tries ${tries} --seed ${seed}`);
  const startMs = performance.now();
  const options = { tries, seed, lanes: number('lanes', 1), timeoutMs: number('timeout', 1), allow: values.allow };
  const trial = await runInside(words, options);
  const touched = [...Object.values(trial.canaries), ...Object.values(trial.elsewhere)].reduce((a, b) => a + b, 0);
  const result = {
    seed,
    isSound: touched === 0,
    seconds: Math.round((performance.now() - startMs) / 1_000),
    ...trial,
  };
  process.stdout.write(`${JSON.stringify(result, null, 2)}\n`);
  if (!values.json) process.stdout.write(touched === 0 ? 'No canary was touched.\n' : 'Canaries were touched.\n');
  process.exitCode = touched === 0 ? 0 : 1;
}

main().catch((error) => {
  process.stderr.write(`seed ${values.seed}: ${error.stack ?? error}\n`);
  process.exitCode = 2;
});
