/** What answers for a name: the hosts file, the name servers, or getaddrinfo, which does all of it by itself. */
export type Source = 'files' | 'dns' | 'system';

/**
 * How a source can fail to answer (nsswitch.conf(5)). Servers that fail or are silent are UNAVAIL, as they mostly are in glibc,
 * and never TRYAGAIN.
 */
export type Miss = 'notfound' | 'unavail';

/** One source, and after which kinds of a miss no further one is asked. */
export type Step = { readonly source: Source; readonly returnsOn: ReadonlySet<Miss> };

/** A service as /etc/nsswitch.conf names it. */
export type Service = { readonly name: string; readonly returnsOn: ReadonlySet<Miss> };

const misses: readonly Miss[] = ['notfound', 'unavail'];
const never: ReadonlySet<Miss> = new Set();
/** What nss-myhostname answers beside the machine's own name, and localhost, which nobody is asked for. */
const madeUpNames = new Set(['_gateway', '_outbound', '_localdnsstub', '_localdnsproxy']);
/** What glibc and musl do without the file, or without the line. */
const defaultServices: readonly Service[] = ['files', 'dns'].map((name) => ({ name, returnsOn: never }));

/** The services of the line `hosts:`. A line that we do not understand is one service of no known name. */
export function parseNsswitch(text: string): readonly Service[] {
  const lines = [...text.replace(/#.*/g, '').matchAll(/^[ \t]*hosts:(.*)$/gm)];
  const services: Service[] = [];
  for (const [token] of (lines.at(-1)?.[1] ?? '').matchAll(/\[[^\]]*\]?|[^\s[]+/g)) {
    if (!token.startsWith('[')) {
      services.push({ name: token, returnsOn: never });
      continue;
    }
    const last = services.pop();
    const returnsOn = last && parseActions(token);
    if (returnsOn === undefined) return [{ name: token, returnsOn: never }];
    services.push({ name: last?.name ?? '', returnsOn });
  }
  return services.length === 0 ? defaultServices : services;
}

/** Reads `[NOTFOUND=return !UNAVAIL=continue]`; undefined if it says anything else than how to go on after a miss. */
function parseActions(token: string): ReadonlySet<Miss> | undefined {
  const inner = /^\[\s*(.*?)\s*\]$/.exec(token)?.[1];
  if (inner === undefined) return undefined;
  const returnsOn = new Set<Miss>();
  for (const item of inner.toLowerCase().split(/\s+/)) {
    const [, not, status, action] = /^(!?)(success|notfound|unavail|tryagain)=(return|continue)$/.exec(item) ?? [];
    if (status === undefined) return undefined;
    const concernsSuccess = (status === 'success') !== (not === '!');
    if (concernsSuccess && action !== 'return') return undefined;
    for (const miss of misses.filter((each) => (each === status) !== (not === '!'))) {
      if (action === 'return') returnsOn.add(miss);
      else returnsOn.delete(miss);
    }
  }
  return returnsOn;
}

/**
 * The sources to ask for a name (in lower case), in order. What we cannot ask ourselves is left to getaddrinfo, for the names
 * that it can have an answer for; as it asks all services from the first on, nothing comes after it.
 */
export function stepsFor(services: readonly Service[], name: string, ownHostname: string): readonly Step[] {
  const steps: Step[] = [];
  // What has been asked would say the same again.
  const add = (source: Source, returnsOn: ReadonlySet<Miss>): void => {
    if (steps.every((step) => step.source !== source)) steps.push({ source, returnsOn });
  };
  for (const { name: service, returnsOn } of services) {
    if (service === 'files' || service === 'dns') {
      add(service, returnsOn);
    } else if (service === 'resolve') {
      // systemd-resolved reads the hosts file first; it is among the name servers of resolv.conf, or they are the ones it asks.
      add('files', never);
      add('dns', returnsOn);
    } else if (mayAnswer(service, name.replace(/\.$/, ''), ownHostname)) {
      add('system', never);
      break;
    }
  }
  return steps;
}

/** Whether a service other than files and DNS can know the name. Of one that we do not know we cannot say that it does not. */
function mayAnswer(service: string, name: string, ownHostname: string): boolean {
  if (/^mdns[46]?(_minimal)?$/.test(service)) return name.endsWith('.local');
  if (service === 'myhostname') return name === ownHostname.toLowerCase() || madeUpNames.has(name);
  if (service === 'mymachines') return !name.includes('.');
  return true;
}
