// A name server in the hands of an attacker: what it says of a name depends on the name, and on how often it was asked.
import dgram from 'node:dgram';
import { once } from 'node:events';
import net from 'node:net';
import packet from 'dns-packet';

const isIpv6 = (address) => address.includes(':');

/**
 * What is said of a name: `good` and `bad` are lists of addresses, `count` is how often this question has been asked before.
 * Each returns addresses, of which those of the asked family are the answer, or `aliases` that lead to them.
 */
export const tricks = {
  good: ({ good }) => ({ found: good }),
  bad: ({ bad }) => ({ found: bad }),
  'good, then bad': ({ good, bad, count }) => ({ found: count === 0 ? good : bad }),
  'bad every other time': ({ good, bad, count }) => ({ found: count % 2 === 0 ? good : bad }),
  'bad now and then': ({ good, bad, random }) => ({
    found: random.chance(0.5) ? good : bad,
    ttl: random.pick([0, 1, 60]),
  }),
  'good and bad': ({ good, bad }) => ({ found: [...good, ...bad] }),
  'bad and good': ({ good, bad }) => ({ found: [...bad, ...good] }),
  'bad among many': ({ good, bad }) => ({
    found: [...Array(20).fill(good).flat(), ...bad, ...Array(20).fill(good).flat()],
  }),
  'good for one family, bad for the other': ({ good, bad, type }) => ({ found: type === 'A' ? good : bad }),
  'bad for one family, late': ({ good, bad, type }) => (type === 'A' ? { found: good } : { found: bad, afterMs: 300 }),
  'an alias of what is bad': ({ bad, name }) => ({ aliases: [`a.${name}`, `b.${name}`], found: bad }),
  'an alias of localhost': ({ bad }) => ({ aliases: ['localhost'], found: bad }),
  'an alias of a metadata service': ({ bad }) => ({ aliases: ['metadata.google.internal'], found: bad }),
  'an alias of what is good, and then bad': ({ good, bad, count, name }) => ({
    aliases: [`a.${name}`],
    found: count === 0 ? good : bad,
  }),
  'nobody asked': ({ good, bad, name }) => ({ found: good, besides: bad.map((address) => [`x.${name}`, address]) }),
  'bad in other words': ({ bad }) => ({ found: bad.flatMap(otherForms) }),
  unspecified: () => ({ found: ['0.0.0.0', '::'] }),
  'over TCP': ({ bad, overTcp }) => (overTcp ? { found: bad } : { found: [], truncated: true }),
};

/** The addresses of IPv6 that stand for an IPv4 address. */
function otherForms(address) {
  if (isIpv6(address)) return [address];
  const [a, b, c, d] = address.split('.').map(Number);
  const groups = `${(a * 256 + b).toString(16)}:${(c * 256 + d).toString(16)}`;
  return [`::ffff:${groups}`, `::${groups}`, `64:ff9b::${groups}`, `2002:${groups}::1`, `2400:cb00::5efe:${groups}`];
}

/**
 * Listens on a port of 127.0.0.1, UDP and TCP. `say(name)` returns `{ trick, good, bad }` for a name in lower case, or undefined:
 * there is no such name.
 */
export async function startNameServer({ port, say, random }) {
  const asked = new Map();
  let questions = 0;

  function answer(message, overTcp, send) {
    const { id, questions: [question] = [] } = packet.decode(message);
    if (question === undefined) return;
    questions += 1;
    const { type } = question;
    const name = question.name.toLowerCase();
    const key = `${name} ${type}`;
    const count = asked.get(key) ?? 0;
    asked.set(key, count + 1);
    const told = say(name);
    const said = told === undefined ? undefined : tricks[told.trick]({ ...told, name, type, count, random, overTcp });
    const reply = said === undefined ? { flags: 3 } : replyOf(question, said);
    const bytes = packet.encode({
      type: 'response',
      id,
      questions: [question],
      ...reply,
      flags: (reply.flags ?? 0) | packet.RECURSION_AVAILABLE,
    });
    if (said?.afterMs === undefined) send(bytes);
    else setTimeout(() => send(bytes), said.afterMs);
  }

  const udp = dgram.createSocket({ type: 'udp4', recvBufferSize: 1 << 20 });
  udp.on('message', (message, from) =>
    answer(message, false, (bytes) => udp.send(bytes, from.port, from.address, () => {})),
  );
  udp.bind(port, '127.0.0.1');
  await once(udp, 'listening');
  const tcp = net.createServer((socket) => {
    socket.on('error', () => {});
    socket.on('data', (data) => {
      answer(data.subarray(2), true, (bytes) => {
        const length = Buffer.alloc(2);
        length.writeUInt16BE(bytes.length);
        socket.end(Buffer.concat([length, bytes]));
      });
    });
  });
  tcp.listen(port, '127.0.0.1');
  await once(tcp, 'listening');
  return {
    questions: () => questions,
    close: () => {
      udp.close();
      tcp.close();
    },
  };
}

function replyOf({ name, type }, { found, aliases = [], besides = [], ttl = 0, truncated = false }) {
  const owners = [name, ...aliases];
  const answers = aliases.map((data, i) => ({ type: 'CNAME', name: owners[i], ttl, data }));
  for (const data of found) {
    if (isIpv6(data) === (type === 'AAAA')) answers.push({ type, name: owners.at(-1), ttl, data });
  }
  const additionals = besides.map(([owner, data]) => ({
    type: isIpv6(data) ? 'AAAA' : 'A',
    name: owner,
    ttl: 60,
    data,
  }));
  return { answers, additionals, flags: truncated ? packet.TRUNCATED_RESPONSE : 0 };
}
