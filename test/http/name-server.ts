import dgram from 'node:dgram';
import { once } from 'node:events';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import net, { type AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import packet, { type Answer, type Packet } from 'dns-packet';
import { onTestFinished } from 'vitest';
import { createSystemLookup, type NameSystem } from '../../src/http/names/system-lookup.ts';
import type { Lookup } from '../../src/http/resolve.ts';

/** A question as it arrived; the name in lower case and without the dot at its end. */
export type Question = { readonly name: string; readonly type: 'A' | 'AAAA'; readonly over: 'udp' | 'tcp' };

/** What a name server does with a question: answers, answers with a code, sends bytes of any kind, or nothing. */
export type NameServerReply =
  | readonly Answer[]
  | 'nxdomain'
  | 'servfail'
  | 'refused'
  | 'truncated'
  | 'silence'
  /** Whole messages made from the question's id, one after the other. */
  | ((id: number, question: Question) => readonly Buffer[]);

export type NameServer = {
  readonly port: number;
  /** `name TYPE`, in the order of arrival. */
  readonly asked: readonly string[];
};

const codes = { nxdomain: 3, servfail: 2, refused: 5, truncated: packet.TRUNCATED_RESPONSE };

/** A name server on UDP and TCP, gone when the test ends. */
export async function nameServer(
  reply: (question: Question) => NameServerReply | Promise<NameServerReply>,
  { host = '127.0.0.1', port = 0 }: { readonly host?: string; readonly port?: number } = {},
): Promise<NameServer> {
  const asked: string[] = [];
  const sockets = new Set<net.Socket>();

  async function answer(message: Buffer, over: 'udp' | 'tcp', send: (bytes: Buffer) => void): Promise<void> {
    const query = packet.decode(message);
    const [first] = query.questions ?? [];
    if (first === undefined) throw new Error('a query without a question');
    const question: Question = { name: first.name.toLowerCase(), type: first.type === 'AAAA' ? 'AAAA' : 'A', over };
    asked.push(`${question.name} ${question.type}`);
    const made = await reply(question);
    if (made === 'silence') return;
    if (typeof made === 'function') {
      for (const bytes of made(query.id ?? 0, question)) send(bytes);
      return;
    }
    const code = typeof made === 'string' ? codes[made] : 0;
    const answers = typeof made === 'string' ? [] : made;
    send(dnsMessage(query.id ?? 0, { questions: [first], answers: [...answers], flags: code }));
  }

  // The same port of both; another program may have it for one of them.
  for (let attempt = 0; ; attempt += 1) {
    const udp = dgram.createSocket({ type: net.isIPv6(host) ? 'udp6' : 'udp4', recvBufferSize: 1 << 20 });
    udp.bind(port, host);
    await once(udp, 'listening');
    const tcp = net.createServer((socket) => {
      sockets.add(socket);
      socket.on('error', () => undefined).once('close', () => sockets.delete(socket));
      let rest = Buffer.alloc(0);
      socket.on('data', (chunk: Buffer) => {
        rest = Buffer.concat([rest, chunk]);
        while (rest.length >= 2 && rest.length >= 2 + rest.readUInt16BE()) {
          const message = rest.subarray(2, 2 + rest.readUInt16BE());
          rest = rest.subarray(2 + message.length);
          void answer(message, 'tcp', (bytes) => {
            const length = Buffer.alloc(2);
            length.writeUInt16BE(bytes.length);
            socket.write(Buffer.concat([length, bytes]));
          });
        }
      });
    });
    tcp.listen(udp.address().port, host);
    try {
      await once(tcp, 'listening');
    } catch (error) {
      udp.close();
      if (attempt === 20) throw error;
      continue;
    }
    let isOpen = true;
    udp.on('message', (message, from) => {
      void answer(message, 'udp', (bytes) => {
        if (isOpen) udp.send(bytes, from.port, from.address);
      });
    });
    onTestFinished(async () => {
      isOpen = false;
      udp.close();
      for (const socket of sockets) socket.destroy();
      tcp.close();
      await once(tcp, 'close');
    });
    return { port: (tcp.address() as AddressInfo).port, asked };
  }
}

/** A reply as it is on the wire. */
export function dnsMessage(id: number, { flags = 0, ...parts }: Packet): Buffer {
  return packet.encode({ type: 'response', id, flags: flags | packet.RECURSION_AVAILABLE, ...parts });
}

/** Addresses of the asked name: those that fit the question's type. */
export function addresses(list: readonly string[], ttl = 60): (question: Question) => Answer[] {
  return ({ name, type }) =>
    list.filter((data) => net.isIPv6(data) === (type === 'AAAA')).map((data) => ({ type, name, ttl, data }));
}

export type SystemFiles = { readonly hosts?: string; readonly resolvConf?: string; readonly nsswitch?: string };

export type TestSystem = {
  readonly lookup: Lookup;
  /** Writes the files that are given, as if some seconds had passed. */
  rewrite(files: SystemFiles): Promise<void>;
};

/** A lookup that goes by files of its own, which are gone when the test ends. Without more it asks 127.0.0.1. */
export async function testSystem(files: SystemFiles, options: Partial<NameSystem> = {}): Promise<TestSystem> {
  const directory = await mkdtemp(join(tmpdir(), 'pgfetch-dns-'));
  onTestFinished(() => rm(directory, { recursive: true }));
  const paths = {
    hosts: join(directory, 'hosts'),
    resolvConf: join(directory, 'resolv.conf'),
    nsswitch: join(directory, 'nsswitch.conf'),
  };
  let nowMs = 0;
  async function rewrite(changed: SystemFiles): Promise<void> {
    for (const [name, text] of Object.entries(changed)) await writeFile(paths[name as keyof SystemFiles], text);
    nowMs += 60_000;
  }
  await rewrite({ resolvConf: 'nameserver 127.0.0.1\noptions timeout:1 attempts:1\n', ...files });
  const lookup = createSystemLookup({
    platform: 'linux',
    hostsPath: paths.hosts,
    resolvConfPath: paths.resolvConf,
    nsswitchPath: paths.nsswitch,
    hostname: () => 'worker-1',
    now: () => nowMs,
    getaddrinfo: () => Promise.reject(new Error('getaddrinfo was asked')),
    ...options,
  });
  return { lookup, rewrite };
}
