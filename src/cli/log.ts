import { type Logger, pino } from 'pino';
import { redactPasswords } from './redact.ts';

export type LogFormat = 'json' | 'pretty';

/** Logs to stderr: lines for people on a terminal, JSON for programs. Written synchronously, so that no last line is lost. */
export function createLog(format: LogFormat | undefined, level: 'info' | 'warn' = 'info'): Logger {
  const chosen = format ?? (process.stderr.isTTY ? 'pretty' : 'json');
  const write = (line: string): void => {
    process.stderr.write(redactPasswords(chosen === 'pretty' ? prettyLine(line) : line));
  };
  return pino(
    {
      level,
      base: null,
      timestamp: pino.stdTimeFunctions.isoTime,
      formatters: { level: (label) => ({ level: label }) },
    },
    { write },
  );
}

/** `12:34:56.789 warn  message  key=value`, from pino's JSON. */
export function prettyLine(json: string): string {
  const { level, time, msg, ...fields } = JSON.parse(json) as Record<string, unknown>;
  const clock = String(time).slice(11, 23);
  const rest = Object.entries(fields).map(
    ([name, value]) => `  ${name}=${typeof value === 'string' ? value : JSON.stringify(value)}`,
  );
  // A message may quote what came from elsewhere; on a terminal it must not be more than text.
  const text = `${String(msg)}${rest.join('')}`.replace(/[^\P{Cc}\n]/gu, ' ');
  return `${clock} ${String(level).padEnd(5)} ${text}\n`;
}
