// Reads the test files of curl (tests/data/test*): what its server is told to reply, and to which request. The format is
// described in curl's tests/FILEFORMAT.md; what is done here is what its tests/runtests.pl, getpart.c and sws.c do with it.
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';

/** Where a test has the port of its server; replaced when the reply is sent. Ports that are handed out have five digits, as this stands for. */
export const portMark = '%HTTPPORT';

const plainServers = new Set(['http', 'http-ipv6', 'http-unix']);

/**
 * Every reply that curl's plain HTTP server gives in these tests: `{ name, method, reply, closes }`, the reply as a string
 * with a character for each byte.
 */
export function extractReplies(directory) {
  const numbers = readdirSync(directory)
    .filter((name) => /^test\d+$/.test(name))
    .map((name) => Number(name.slice(4)))
    .sort((a, b) => a - b);
  return numbers.flatMap((number) => repliesOf(number, readFileSync(join(directory, `test${number}`), 'latin1')));
}

/** A reply with a head whose lines end in CRLF, as most servers write it; in curl's tests half of them end in LF. */
export function withCrlf(reply) {
  const emptyLine = /\n\r?\n/.exec(reply);
  const headLength = emptyLine === null ? reply.length : emptyLine.index + emptyLine[0].length;
  return reply.slice(0, headLength).replace(/\r*\n/g, '\r\n') + reply.slice(headLength);
}

function repliesOf(number, source) {
  const lines = preprocessed(source.split(/(?<=\n)/), number);
  const servers = text(lines, 'client', 'server').split(/\s+/).filter(Boolean);
  if (servers.length === 0 || !servers.every((server) => plainServers.has(server))) return [];
  const command = text(lines, 'reply', 'servercmd');
  // No reply, and one without end.
  if (/^(idle|stream)/m.test(command)) return [];
  const methods = methodsOfParts(text(lines, 'verify', 'protocol'));
  return partsOf(lines).map((part) => {
    const reply = partBytes(lines, part);
    return {
      name: part === 'data' ? String(number) : `${number}/${part.slice(4)}`,
      method: methods.get(part) ?? methods.get('data') ?? 'GET',
      reply,
      // As curl's server decides: it otherwise leaves the connection to the client.
      closes: reply === '' || reply.includes('swsclose') || /^swsclose/m.test(command),
    };
  });
}

/** The sections with replies; those for proxies have another name. */
function partsOf(lines) {
  const parts = [];
  let within = false;
  for (const line of lines) {
    if (/^ *<reply>/.test(line)) within = true;
    else if (/^ *<\/reply>/.test(line)) within = false;
    const name = within ? /^ *<(data\d*)[ >]/.exec(line)?.[1] : undefined;
    if (name !== undefined) parts.push(name);
  }
  return parts;
}

/** Which request each reply is for, as far as the path tells: the rest of the number after its last slash, beyond 10,000. */
function methodsOfParts(protocol) {
  const methods = new Map();
  for (const [, method, path] of protocol.matchAll(/^([A-Za-z]+) (\S+) HTTP\/\d/gm)) {
    const document = Number.parseInt(path.slice(path.lastIndexOf('/') + 1), 10);
    const part = document > 10_000 && document % 10_000 > 0 ? `data${document % 10_000}` : 'data';
    if (method !== 'CONNECT' && !methods.has(part)) methods.set(part, method);
  }
  return methods;
}

/** The lines of a part of a section. */
function linesOf(lines, section, part) {
  const found = { attributes: '', lines: [] };
  let state = 'outside';
  for (const line of lines) {
    const tag = /^\s*<(\/?)([\w-]+)([^>]*)/.exec(line);
    if (state === 'part') {
      if (tag?.[1] === '/' && (tag[2] === part || tag[2] === section)) return found;
      found.lines.push(line);
    } else if (state === 'outside' && tag?.[1] === '' && tag[2] === section) {
      state = 'section';
    } else if (state === 'section' && tag?.[1] === '' && tag[2] === part) {
      state = 'part';
      found.attributes = tag[3];
    }
  }
  return found;
}

function text(lines, section, part) {
  return linesOf(lines, section, part).lines.join('');
}

function partBytes(lines, part) {
  const { attributes, lines: found } = linesOf(lines, 'reply', part);
  let bytes = found.join('');
  if (attributes.includes('base64=')) bytes = Buffer.from(bytes, 'base64').toString('latin1');
  return attributes.includes('nonewline=') ? bytes.slice(0, -1) : bytes;
}

/** Variables, conditions, and newlines where they are to be CRLF. */
function preprocessed(lines, number) {
  const out = [];
  const newlines = { afterHeader: false };
  let shown = true;
  let crlf = false;
  for (const line of lines) {
    const condition = /^ *%if (!?)(\S+)/.exec(line);
    // The features that decide about a reply are those of another HTTP library, which this curl is not built with.
    if (condition !== null) shown = condition[1] === '!' || condition[2] === 'ftp' || condition[2] === 'manual';
    else if (/^ *%else/.test(line)) shown = !shown;
    else if (/^ *%endif/.test(line)) shown = true;
    else if (shown) {
      const data = /^ *<data(.*)>/.exec(line);
      if (data?.[1].includes('crlf="yes"')) crlf = true;
      else if (/^ *<\/data/.test(line)) crlf = false;
      const expanded = withBytes(withVariables(line, number));
      out.push(crlf ? withNewline(expanded, newlines) : expanded);
    }
  }
  return out;
}

function withVariables(line, number) {
  return line
    .replaceAll('%HOSTIP', '127.0.0.1')
    .replaceAll('%CLIENTIP', '127.0.0.1')
    .replaceAll('%HOST6IP', '[::1]')
    .replaceAll('%TESTNUMBER', String(number))
    .replaceAll('%VERSION', '7.88.1')
    .replaceAll('%HTTP6PORT', portMark);
}

function withBytes(line) {
  const decoded = (encoded) =>
    encoded.replace(/%([0-9A-Fa-f]{2})/g, (_match, digits) => String.fromCharCode(Number.parseInt(digits, 16)));
  return line
    .replace(/%b64\[(.*)\]b64%/i, (_match, data) => Buffer.from(decoded(data), 'latin1').toString('base64'))
    .replace(/%hex\[(.*)\]hex%/i, (_match, data) => decoded(data))
    .replace(/%repeat\[(\d+) x (.*)\]%/i, (_match, count, data) => decoded(data).repeat(Number(count)));
}

/** The header lines of a section marked crlf="yes", and the empty line after them. */
function withNewline(line, newlines) {
  const isHeader =
    /^HTTP\/(1.1|1.0|2|3) [1-5][^\r]*$/.test(line) ||
    /^(GET|POST|PUT|DELETE) \S+ HTTP\/\d+(\.\d+)?/.test(line) ||
    (/^[a-z0-9_-]+: [^\r]*$/i.test(line) && !/^curl: \(\d+\) /.test(line));
  const isEnd = !isHeader && newlines.afterHeader && line === '\n';
  newlines.afterHeader = isHeader;
  return isHeader || isEnd ? line.replace(/\r*\n/, '\r\n') : line;
}
