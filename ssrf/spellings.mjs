// The ways in which a URL may write an address, as attackers do.

const hex = (number) => number.toString(16);
const octets = (address) => address.split('.').map(Number);
const whole = (address) => octets(address).reduce((sum, octet) => sum * 256 + octet, 0);
const groups = (address) => {
  const [a, b, c, d] = octets(address);
  return `${hex(a * 256 + b)}:${hex(c * 256 + d)}`;
};
const percent = (text) => [...text].map((char) => `%${hex(char.charCodeAt(0))}`).join('');
const fullWidth = (text) => text.replace(/[!-~]/g, (char) => String.fromCodePoint(char.charCodeAt(0) + 0xfee0));
const circled = (text) =>
  text.replace(/\d/g, (digit) => (digit === '0' ? '⓪' : String.fromCodePoint(0x245f + Number(digit))));

/** Of an IPv4 address, as the host of a URL. Some mean another address that stands for it. */
export const ipv4Spellings = {
  plain: (a) => a,
  'with a dot': (a) => `${a}.`,
  number: (a) => String(whole(a)),
  hexadecimal: (a) => `0x${hex(whole(a))}`,
  octal: (a) => `0${whole(a).toString(8)}`,
  'hexadecimal parts': (a) =>
    octets(a)
      .map((octet) => `0x${hex(octet)}`)
      .join('.'),
  'octal parts': (a) =>
    octets(a)
      .map((octet) => `000${octet.toString(8)}`)
      .join('.'),
  'two parts': (a) => `${octets(a)[0]}.${whole(a) % 2 ** 24}`,
  'three parts': (a) => `${octets(a)[0]}.${octets(a)[1]}.${whole(a) % 65_536}`,
  'percent-encoded': (a) => percent(a),
  'full width': (a) => fullWidth(a),
  'circled digits': (a) => circled(a),
  'ideographic dots': (a) => a.replaceAll('.', '。'),
  'soft hyphen': (a) => a.replace('.', '\u00ad.'),
  'after a user': (a) => `front.attacker.com@${a}`,
  'after a user and a port': (a) => `front.attacker.com:80@${a}`,
  mapped: (a) => `[::ffff:${a}]`,
  'mapped, hexadecimal': (a) => `[::FFFF:${groups(a)}]`,
  'mapped, in full': (a) => `[0:0:0:0:0:ffff:${groups(a)}]`,
  translated: (a) => `[::ffff:0:${groups(a)}]`,
  compatible: (a) => `[::${a}]`,
  NAT64: (a) => `[64:ff9b::${groups(a)}]`,
  'local NAT64': (a) => `[64:ff9b:1::${groups(a)}]`,
  '6to4': (a) => `[2002:${groups(a)}::1]`,
  ISATAP: (a) => `[2400:cb00::5efe:${groups(a)}]`,
  Teredo: (a) => `[2001:0:${groups(a)}::1]`,
};

/** Of an IPv6 address. */
export const ipv6Spellings = {
  plain: (a) => `[${a}]`,
  'upper case': (a) => `[${a.toUpperCase()}]`,
  'in full': (a) => {
    const [head, tail = ''] = a.split('::');
    const [first, last] = [head, tail].map((part) => part.split(':').filter((group) => group !== ''));
    return `[${[...first, ...Array(8 - first.length - last.length).fill('0000'), ...last].join(':')}]`;
  },
  'after a user': (a) => `front.attacker.com@[${a}]`,
};

/** Names that mean this machine, or one beside it, to systems. */
export const names = [
  'localhost',
  'LOCALHOST.',
  'app.localhost',
  'ⓛⓞⓒⓐⓛⓗⓞⓢⓣ',
  'ｌｏｃａｌｈｏｓｔ',
  'local\u00adhost',
  'localhost%2e',
  'ip6-localhost',
  'localhost6.localdomain6',
  'metadata',
  'metadata.google.internal',
  'instance-data',
  'kubernetes.default',
  'kubernetes.default.svc',
  'db',
  'db.corp',
  'intranet.company.com',
];

/** Before the host of a URL that a redirect leads to. */
export const beginnings = ['http://', '//', 'http:\\\\', '/\\', 'http:///', 'HTTP:\t//', 'https://'];
