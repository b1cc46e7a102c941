import { spawn } from 'node:child_process';
import { once } from 'node:events';
import net from 'node:net';
import { onTestFinished } from 'vitest';

/** A port whose backlog is full and whose process sleeps: Linux leaves further connects unanswered. */
export async function unacceptingPort(host = '127.0.0.1', port = 0): Promise<number> {
  const program = `const s = require('node:net').createServer().listen({ port: ${port}, host: '${host}', backlog: 1 }, () => {
    process.stdout.write(String(s.address().port), () => process.kill(process.pid, 'SIGSTOP')); });`;
  const child = spawn(process.execPath, ['-e', program], { stdio: ['ignore', 'pipe', 'ignore'] });
  onTestFinished(async () => {
    child.kill('SIGKILL');
    await once(child, 'close');
  });
  const [chunk] = (await once(child.stdout, 'data')) as [Buffer];
  const listening = Number(chunk.toString());
  const fillers = Array.from({ length: 6 }, () => net.connect(listening, host).on('error', () => undefined));
  onTestFinished(() => {
    for (const socket of fillers) socket.destroy();
  });
  await Promise.all(fillers.slice(0, 2).map((socket) => once(socket, 'connect')));
  return listening;
}
