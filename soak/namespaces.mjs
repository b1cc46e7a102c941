// Network namespaces: hosts of their own on one machine, joined by a bridge. Needs root and iproute2.
import { spawnSync } from 'node:child_process';

function ip(...words) {
  const result = spawnSync('ip', words, { encoding: 'utf8' });
  if (result.error !== undefined) throw new Error(`ip: ${result.error.message}`);
  if (result.status !== 0) throw new Error(`ip ${words.join(' ')}: ${result.stderr.trim()}`);
  return result.stdout;
}

/** Why there can be no namespaces here; undefined where there can. */
export function whyNoNamespaces() {
  if (process.platform !== 'linux') return 'network namespaces are a thing of Linux';
  if (process.getuid() !== 0) return 'making network namespaces takes root';
  try {
    const network = createNetwork(1);
    network.remove();
    return undefined;
  } catch (error) {
    return error.message;
  }
}

let made = 0;

/**
 * A bridge, and `hosts` namespaces whose eth0 is plugged into it.
 *
 * Everything is named after this process, and is removed by `remove()` or, whatever happens short of SIGKILL, when the process
 * exits.
 *
 * @param {number} hosts
 */
export function createNetwork(hosts) {
  made += 1;
  // Interface names have at most 15 characters.
  const prefix = `sk${process.pid.toString(36)}${made.toString(36)}`;
  const bridge = `${prefix}b`;
  const plugs = [];
  const remove = () => {
    process.off('exit', remove);
    for (const { namespace } of plugs) spawnSync('ip', ['netns', 'del', namespace]);
    spawnSync('ip', ['link', 'del', bridge]);
  };
  process.once('exit', remove);
  try {
    ip('link', 'add', bridge, 'type', 'bridge');
    const net = freeNetwork(bridge);
    ip('link', 'set', bridge, 'up');
    for (let host = 1; host <= hosts; host++) {
      const namespace = `${prefix}n${host}`;
      const plug = `${prefix}v${host}`;
      ip('netns', 'add', namespace);
      plugs.push({ namespace, plug });
      ip('link', 'add', plug, 'type', 'veth', 'peer', 'name', 'eth0', 'netns', namespace);
      ip('link', 'set', plug, 'master', bridge, 'up');
      ip('-n', namespace, 'addr', 'add', `${net}.${host + 1}/24`, 'dev', 'eth0');
      ip('-n', namespace, 'link', 'set', 'lo', 'up');
      ip('-n', namespace, 'link', 'set', 'eth0', 'up');
    }
    return {
      /** Where this machine is reached from all of them. */
      address: `${net}.1`,
      hosts: plugs.map(({ namespace, plug }) => ({
        namespace,
        unplug: () => ip('link', 'set', plug, 'down'),
        plugIn: () => ip('link', 'set', plug, 'up'),
        /** Delay and loss, by `tc netem`. */
        disturb: (...words) => tc('qdisc', 'replace', 'dev', plug, 'root', 'netem', ...words),
        calm: () => tc('qdisc', 'del', 'dev', plug, 'root'),
      })),
      remove,
    };
  } catch (error) {
    remove();
    throw error;
  }
}

/** Gives the bridge a network that is nobody's. */
function freeNetwork(bridge) {
  const taken = ip('-4', '-o', 'addr', 'show');
  const first = process.pid % 250;
  for (let i = 0; i < 250; i++) {
    const net = `10.213.${((first + i) % 250) + 1}`;
    if (taken.includes(`${net}.`)) continue;
    ip('addr', 'add', `${net}.1/24`, 'dev', bridge);
    return net;
  }
  throw new Error('every network 10.213.x.0/24 is taken');
}

function tc(...words) {
  const result = spawnSync('tc', words, { encoding: 'utf8' });
  if (result.error !== undefined) throw new Error(`tc: ${result.error.message}`);
  if (result.status !== 0) throw new Error(`tc ${words.join(' ')}: ${result.stderr.trim()}`);
}

/** Why `tc netem` cannot be used here; undefined where it can. */
export function whyNoNetem(host) {
  try {
    host.disturb('delay', '1ms');
    host.calm();
    return undefined;
  } catch (error) {
    return error.message;
  }
}
