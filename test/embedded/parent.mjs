// Stands in for a program that starts a server and is then killed. Vite loads the TypeScript that Node.js 20 does not.
import { fileURLToPath } from 'node:url';
import { runnerImport } from 'vite';

const [directory = ''] = process.argv.slice(2);
const { module } = await runnerImport(fileURLToPath(new URL('../../src/embedded/postgres.ts', import.meta.url)), {
  configFile: false,
  logLevel: 'silent',
});
process.on('SIGINT', () => console.log(JSON.stringify({ interrupted: true })));
const server = await module.startEmbeddedPostgres({ directory, durable: false });
console.log(JSON.stringify({ pid: server.pid, url: server.connectionString }));
process.stdin.on('data', () => process.exit(0));
