import { z } from 'zod';
import { createProxyChoice, describeProxy, type ProxyOptions, proxyProblem } from '../core/proxies.ts';

export { type ProxyOptions, proxyProblem };

const noProxyCharactersMax = 65_536;

/** The option `proxy`. Its problems never quote a proxy, which may hold a password. */
export const proxySchema: z.ZodDefault<z.ZodType<ProxyOptions>> = z
  .object(
    {
      http: proxyUrl(),
      https: proxyUrl(),
      noProxy: z
        .string({ error: 'must be a text' })
        .max(noProxyCharactersMax, `must have at most ${noProxyCharactersMax} characters`)
        .optional(),
    },
    { error: 'must be an object with http, https or noProxy' },
  )
  .catchall(z.custom<never>(() => false, 'does not exist; there are http, https and noProxy'))
  .readonly()
  .default({});

/** The proxies as a log may show them, without credentials; undefined where there are none. */
export function shownProxies(options: ProxyOptions): Readonly<Record<string, string>> | undefined {
  const choice = createProxyChoice(options);
  // No host at all is exempt only where all are.
  const http = choice({ secure: false, host: '' });
  const https = choice({ secure: true, host: '' });
  if (http === undefined && https === undefined) return undefined;
  return {
    ...(http && { http: describeProxy(http) }),
    ...(https && { https: describeProxy(https) }),
    ...(options.noProxy && { noProxy: options.noProxy }),
  };
}

function proxyUrl(): z.ZodOptional<z.ZodString> {
  return z
    .string({ error: 'must be a text' })
    .superRefine((text, context) => {
      const problem = text === '' ? undefined : proxyProblem(text);
      if (problem !== undefined) context.addIssue(problem);
    })
    .optional();
}
