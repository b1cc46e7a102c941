import { type ProxyOptions, proxyProblem, shownProxies } from '../config/proxy-config.ts';
import type { WorkerLog } from '../worker/parts.ts';
import { UsageError } from './errors.ts';

/**
 * The proxies that the environment names, by the variables that libcurl reads and in its order. `HTTP_PROXY` is not one of them:
 * in a CGI program it is what a client's header `Proxy` says. A variable that is empty is not set.
 */
export function proxiesOfEnvironment(): ProxyOptions {
  return {
    http: proxyOf(['http_proxy', 'all_proxy', 'ALL_PROXY']),
    https: proxyOf(['https_proxy', 'HTTPS_PROXY', 'all_proxy', 'ALL_PROXY']),
    noProxy: firstSet(['no_proxy', 'NO_PROXY'])?.value,
  };
}

/** The same for a worker beside a server of this machine, which no proxy can reach. */
export function proxiesBeyondLoopback(): ProxyOptions {
  const { noProxy, ...proxies } = proxiesOfEnvironment();
  return { ...proxies, noProxy: noProxy === '*' ? noProxy : `${noProxy ?? ''},localhost,127.0.0.0/8,::1` };
}

/** Says that requests go through a proxy: it is the environment that decides so, and the guard then vets names only. */
export function logProxies(proxies: ProxyOptions, log: WorkerLog): void {
  const shown = shownProxies(proxies);
  if (shown === undefined) return;
  log.info(
    shown,
    'requests go through a proxy: names are vetted here, what they resolve to is for the proxy to refuse',
  );
}

function proxyOf(variables: readonly string[]): string | undefined {
  const found = firstSet(variables);
  if (found === undefined) return undefined;
  const problem = proxyProblem(found.value);
  if (problem !== undefined) throw new UsageError(`${found.variable} ${problem}.`);
  return found.value;
}

function firstSet(variables: readonly string[]): { readonly variable: string; readonly value: string } | undefined {
  for (const variable of variables) {
    const value = process.env[variable];
    if (value !== undefined && value !== '') return { variable, value };
  }
  return undefined;
}
