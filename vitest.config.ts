import { defineConfig } from 'vitest/config';

export default defineConfig({
  test: {
    include: ['test/**/*.test.ts'],
    // Each file has processes of its own (servers, sockets, WebAssembly): files are isolated in processes, not threads.
    pool: 'forks',
    // Whatever proxies the machine has: what the tests start is to reach this machine directly.
    env: { no_proxy: '*' },
    // Every worker may run a PostgreSQL or a PGlite beside itself, and waits for others half of its time.
    maxWorkers: 3,
    testTimeout: 30_000,
    hookTimeout: 60_000,
    // What a test forgets to close shows as a hanging run.
    teardownTimeout: 10_000,
  },
});
