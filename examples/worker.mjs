// The worker inside a program of yours: DATABASE_URL=postgres://... node examples/worker.mjs
import { createWorker } from 'pgfetch';

const worker = createWorker({
  connectionString: process.env.DATABASE_URL,
  allow: ['10.1.0.0/16', 'api.internal'],
  stopTimeoutMs: 25_000,
});
worker.on('ready', ({ database }) => console.log(`serving ${database}`));
worker.on('problem', (error) => console.error(error.message));
worker.on('recorded', (ids) => console.log(`${ids.length} responses`));

for (const signal of ['SIGTERM', 'SIGINT']) process.once(signal, () => void worker.stop());
await worker.start({ wait: false });
