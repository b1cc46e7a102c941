// Servers that do not do what a server should. Each of them answers `GET /good` as it should, on any connection.
import diagnostics from 'node:diagnostics_channel';
import type net from 'node:net';
import { onTestFinished } from 'vitest';
import { type TestServer, tcpServer } from '../loopback.ts';

/** What a server does with a connection on which a request has begun to arrive; called once for each such request. */
export type Misbehaviour = (socket: net.Socket, arrived: string) => unknown;

/** What a server does when it has written its reply. */
export type Afterwards = 'wait' | 'end' | 'reset';

/** The reply to `GET /good`. */
const good = 'HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ngood';

/** Whether what has arrived begins a request, rather than going on with the body of one. */
const requestPattern = /^[A-Z]+ \/\S* HTTP\/1\.1\r\n/;

export type HostileServer = TestServer & {
  /** Requests that it did not answer as it should have. */
  readonly misbehaved: () => number;
};

/** A server on a free port that misbehaves at each request but those for `/good`. */
export async function hostileServer(misbehave: Misbehaviour): Promise<HostileServer> {
  let misbehaved = 0;
  const server = await tcpServer((socket) => {
    socket.on('data', (chunk) => {
      const arrived = chunk.toString('latin1');
      if (!requestPattern.test(arrived)) return;
      if (arrived.startsWith('GET /good ')) {
        socket.write(good);
        return;
      }
      misbehaved += 1;
      misbehave(socket, arrived);
    });
  });
  return Object.assign(server, { misbehaved: () => misbehaved });
}

/** Answers with these bytes (a character each), and then waits, ends the connection, or resets it. */
export function replying(bytes: string, afterwards: Afterwards = 'wait'): Misbehaviour {
  return (socket) => {
    if (afterwards === 'end') socket.end(bytes, 'latin1');
    else if (afterwards === 'wait') socket.write(bytes, 'latin1');
    else if (bytes === '') socket.resetAndDestroy();
    else socket.write(bytes, 'latin1', () => resetWhenRead(socket));
  };
}

/** A reset discards what is unread. */
function resetWhenRead(socket: net.Socket): void {
  const client = clientOf(socket);
  if (client === undefined || client.bytesRead >= socket.bytesWritten) socket.resetAndDestroy();
  else setImmediate(resetWhenRead, socket);
}

/** The sockets by which this process is connected to its servers. */
const clients = new Set<net.Socket>();
diagnostics.subscribe('net.client.socket', (message) => {
  const { socket } = message as { socket: net.Socket };
  clients.add(socket);
  socket.once('close', () => clients.delete(socket));
});

/** The client's end of a connection: both ends are in this process. */
export function clientOf(socket: net.Socket): net.Socket | undefined {
  return [...clients].find((client) => !client.destroyed && client.localPort === socket.remotePort);
}

/** Takes nothing more of the request for as long as the client stays. */
export const unread: Misbehaviour = (socket) => {
  socket.pause();
  clientOf(socket)?.once('close', () => socket.resume());
};

/** Writes `first`, then `again` every few milliseconds for as long as the client stays. */
export function dripping(first: string, again: string): Misbehaviour {
  return (socket) => {
    socket.write(first, 'latin1');
    const timer = setInterval(() => socket.write(again, 'latin1'), 5);
    socket.once('close', () => clearInterval(timer));
    onTestFinished(() => clearInterval(timer));
  };
}

/** Writes `first`, then `again` as fast as the client takes it. */
export function flooding(first: string, again: string): Misbehaviour {
  const flood = Buffer.from(again.repeat(Math.ceil(16_384 / again.length)), 'latin1');
  return (socket) => {
    const more = (): void => {
      while (!socket.destroyed && socket.write(flood));
    };
    socket.on('drain', more);
    socket.write(first, 'latin1');
    more();
  };
}

/** Does the first of these at the first request, the second at the second; the last at all others. */
export function inTurn(...misbehaviours: readonly [Misbehaviour, ...Misbehaviour[]]): Misbehaviour {
  let turn = 0;
  return (socket, arrived) => {
    const misbehave = misbehaviours[Math.min(turn, misbehaviours.length - 1)] ?? misbehaviours[0];
    turn += 1;
    return misbehave(socket, arrived);
  };
}
