import net from 'node:net';

/** The addresses of each name, in lower case, as the lines come. */
export type HostsFile = ReadonlyMap<string, readonly string[]>;

/** Reads hosts(5). Lines that do not begin with an address say nothing. */
export function parseHosts(text: string): HostsFile {
  const hosts = new Map<string, string[]>();
  for (const line of text.split('\n')) {
    const [address = '', ...names] = line.replace(/#.*/, '').trim().split(/\s+/);
    if (net.isIP(address) === 0) continue;
    for (const name of names) {
      const key = name.toLowerCase();
      const known = hosts.get(key);
      if (known === undefined) hosts.set(key, [address]);
      else if (!known.includes(address)) known.push(address);
    }
  }
  return hosts;
}

/** What the hosts file says of a name; empty if nothing. As in glibc, a name with a dot at its end is another one. */
export function addressesInHosts(hosts: HostsFile, name: string): readonly string[] {
  return hosts.get(name.toLowerCase()) ?? [];
}
