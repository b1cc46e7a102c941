// A network for one process: nothing of the machine's own is in it, and it is gone when the process ends.
import { spawnSync } from 'node:child_process';

/** The words for `unshare` that give a program such a network; or why there can be none here. */
export function ownNetwork() {
  if (process.platform !== 'linux') return { whyNot: 'network namespaces are a thing of Linux' };
  // Anybody else is root in a namespace of users, where the system lets everybody have one.
  const words = process.getuid() === 0 ? ['--net'] : ['--net', '--map-root-user'];
  const trial = spawnSync('unshare', [...words, 'ip', 'link', 'set', 'lo', 'up'], { encoding: 'utf8' });
  if (trial.status === 0) return { words };
  return { whyNot: `no network namespace can be made: ${trial.error?.message ?? trial.stderr.trim()}` };
}
