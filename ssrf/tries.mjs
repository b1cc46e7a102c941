// What is tried: each is a request that an attacker, who can run SQL and has a name server and a web server, might enqueue.

import { tricks } from './name-server.mjs';
import { beginnings, ipv4Spellings, ipv6Spellings, names } from './spellings.mjs';

/** Where nothing may arrive. Whatever else arrives anywhere but at the attacker's own server counts as much. */
export const canaries = [
  '169.254.169.254',
  '::1',
  'fd00:ec2::254',
  '10.0.0.1',
  '127.0.0.1',
  '192.168.1.1',
  '100.100.100.200',
];

/** The attacker's own server, which may be reached. */
export const front = { ipv4: '93.184.216.34', ipv6: '2606:2800:220:1::1' };

/** Addresses beside it that are allowed, and where nobody is: the client goes on to the next. */
export const dead = { ipv4: '93.184.216.99', ipv6: '2606:2800:220:1::99' };

const statuses = [301, 302, 303, 307, 308];
const trickNames = Object.keys(tricks);
/** A name is asked for again by others, so that what is known of it, and connections to it, may be used again. */
const namesOfEach = 8;

/** The name for which the name server has this trick up its sleeve. */
export function nameOf(trick, canary, number) {
  return `t${trickNames.indexOf(trick)}-c${canaries.indexOf(canary)}-${number}.attacker.com`;
}

/** What the name server says of a name. */
export function tellOf(name) {
  const good = [front.ipv4, front.ipv6];
  if (name === 'front.attacker.com') return { trick: 'good', good, bad: [] };
  const [, trick, canary, number] = /(?:^|\.)t(\d+)-c(\d+)-(\d+)\.attacker\.com$/.exec(name) ?? [];
  if (trick !== undefined) {
    const harmless = Number(number) % 2 === 0 ? good : [dead.ipv4, dead.ipv6];
    return { trick: trickNames[Number(trick)], good: harmless, bad: [canaries[Number(canary)]] };
  }
  // Beside this network's own names, found through its search domain.
  return name.endsWith('.corp.internal') ? { trick: 'bad', good, bad: ['10.0.0.1'] } : undefined;
}

/** The kinds of tries: each makes the host part of a URL, and says what it was. */
const hosts = {
  literal: (random) => {
    const canary = random.pick(canaries);
    const spellings = canary.includes(':') ? ipv6Spellings : ipv4Spellings;
    const spelling = random.pick(Object.keys(spellings));
    return { host: spellings[spelling](canary), what: `${canary}, ${spelling}` };
  },
  name: (random) => {
    const name = random.pick(names);
    return { host: name, what: name };
  },
  trick: (random) => {
    const trick = random.pick(trickNames.filter((each) => each !== 'good'));
    const canary = random.pick(canaries);
    const name = nameOf(trick, canary, random.between(1, namesOfEach));
    // One below it may have been spoken of when nobody asked.
    return { host: random.chance(0.1) ? `x.${name}` : name, what: `${canary}, ${trick}` };
  },
};

/** One try: `{ url, method, headers, what, way }`. */
export function tryOf(random) {
  const kind = random.weighted([
    [3, 'literal'],
    [1, 'name'],
    [6, 'trick'],
  ]);
  const { host, what } = hosts[kind](random);
  const method = random.pick(['GET', 'POST', 'DELETE']);
  const headers = random.chance(0.1) ? [['Host', '169.254.169.254']] : [];
  const port = random.pick(['', ':80', ':8080']);
  if (random.chance(0.4)) {
    const url = `${random.chance(0.2) ? 'https' : 'http'}://${host}${port}/`;
    return { url, method, headers, what, way: kind };
  }
  let location = `${random.pick(beginnings)}${host}${port}/latest`;
  // More than one hop, through the attacker's names and addresses.
  for (let hops = random.between(1, 3); hops > 0; hops--) {
    const via = random.pick([
      'front.attacker.com',
      front.ipv4,
      `[${front.ipv6}]`,
      nameOf('good, then bad', canaries[0], 1),
    ]);
    const ending = random.pick(['', '&then=close', '&then=reset']);
    location = `http://${via}/redirect?status=${random.pick(statuses)}${ending}&to=${encodeURIComponent(location)}`;
  }
  return { url: location, method, headers, what: `${what}, by redirects`, way: `${kind} by redirects` };
}
