// A worker process that counts what it recorded: for the share that each of several workers has.
import { createWorker } from '../dist/index.js';

const worker = createWorker({ connectionString: process.argv[2] ?? '', allow: ['loopback'] });
let recorded = 0;
worker.on('recorded', (ids) => {
  recorded += ids.length;
});
process.on('message', (message) => {
  if (message?.ask === 'recorded') process.send?.({ answer: 'recorded', recorded });
});
process.once('SIGTERM', async () => {
  await worker.stop();
  process.exit(0);
});
await worker.start();
process.send?.({ answer: 'ready' });
