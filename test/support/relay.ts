import net, { type AddressInfo } from 'node:net';

/** Stands between a worker and its server, as a load balancer or an address that moves at a failover does. */
export type Relay = {
  /** The given connection string, through the relay. */
  through(connectionString: string): string;
  /** Ends every connection, and refuses new ones until {@link pointTo}. */
  cut(): void;
  /** Lets new connections through, to that port of this machine. */
  pointTo(port: number): void;
  /**
   * Ends nothing and passes nothing on any more, as a network that swallows packets, until {@link pointTo}: in either direction
   * (then new connections get no answer either), or the server's answers alone.
   */
  swallow(what?: 'everything' | 'answers'): void;
  /** How many connections there are. */
  readonly connections: number;
  close(): Promise<void>;
};

/** Starts a relay to that port of 127.0.0.1. */
export async function startRelay(port: number): Promise<Relay> {
  let target: number | undefined = port;
  let swallowed: 'nothing' | 'everything' | 'answers' = 'nothing';
  const sockets = new Set<net.Socket>();
  const keep = (socket: net.Socket): void => {
    sockets.add(socket);
    socket.on('error', () => {});
    socket.once('close', () => sockets.delete(socket));
  };
  const server = net.createServer((client) => {
    keep(client);
    if (target === undefined) {
      client.destroy();
      return;
    }
    if (swallowed === 'everything') return;
    const upstream = net.connect(target, '127.0.0.1');
    keep(upstream);
    for (const [from, to] of [
      [client, upstream],
      [upstream, client],
    ] as const) {
      from.on('data', (chunk) => {
        if (swallowed === 'nothing' || (swallowed === 'answers' && to === upstream)) to.write(chunk);
      });
      from.once('close', () => to.destroy());
    }
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const own = (server.address() as AddressInfo).port;
  const drop = (): void => {
    for (const socket of sockets) socket.destroy();
  };
  return {
    through: (connectionString) => {
      const url = new URL(connectionString);
      url.host = `127.0.0.1:${own}`;
      return url.href;
    },
    cut: () => {
      target = undefined;
      drop();
    },
    pointTo: (to) => {
      swallowed = 'nothing';
      target = to;
    },
    swallow: (what = 'everything') => {
      swallowed = what;
    },
    get connections() {
      return sockets.size;
    },
    close: async () => {
      drop();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}
