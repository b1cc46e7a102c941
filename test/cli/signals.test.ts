import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { expect, test } from 'vitest';

// npm runs a script through a shell, which dies of SIGTERM and passes nothing on.
test.skipIf(process.platform === 'win32')('started by npm, it stops when the shell in between is killed', async () => {
  const shell = spawn('sh', ['-c', '"$NODE" dist/cli/main.js echo --port 0; true'], {
    env: { ...process.env, NODE: process.execPath, npm_lifecycle_event: 'start' },
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  await once(shell.stdout, 'data');
  shell.kill('SIGTERM');
  // The pipe closes when the last process that writes to it is gone.
  await once(shell, 'close');
  expect(shell.signalCode).toBe('SIGTERM');
});
