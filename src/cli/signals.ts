const exitStatus = { SIGHUP: 129, SIGINT: 130, SIGTERM: 143 } as const;
type StopSignal = keyof typeof exitStatus;
/** npx and npm pass a Ctrl-C on half a second after the terminal has sent it: that is not a second one. */
const echoedInterruptMs = 700;
/** How often to look whether the npm that started us is still there. */
const starterEveryMs = 500;

/**
 * Resolves at the first SIGINT, SIGTERM or SIGHUP; a second one ends the process at once. `ignore` stops looking.
 *
 * Started by npm, there is a shell in between, which dies of a SIGTERM and passes nothing on: its end counts as one.
 */
export function untilStopSignal(
  options: {
    readonly now?: () => number;
    /** What SIGHUP does instead of stopping, unless it means that the terminal has been closed. */
    readonly onHangup?: () => void;
  } = {},
): {
  readonly signal: Promise<StopSignal>;
  ignore(): void;
} {
  const { now = () => performance.now(), onHangup } = options;
  let first: { readonly name: StopSignal; readonly atMs: number } | undefined;
  let resolveSignal: (name: StopSignal) => void = () => {};
  const signal = new Promise<StopSignal>((resolve) => {
    resolveSignal = resolve;
  });
  const handle = (name: StopSignal): void => {
    if (name === 'SIGHUP' && onHangup !== undefined && !process.stderr.isTTY) {
      onHangup();
    } else if (first === undefined) {
      first = { name, atMs: now() };
      resolveSignal(name);
    } else if (name !== 'SIGINT' || first.name !== 'SIGINT' || now() - first.atMs > echoedInterruptMs) {
      process.exit(exitStatus[name]);
    }
  };
  const names = Object.keys(exitStatus) as StopSignal[];
  for (const name of names) process.on(name, handle);
  const starter = process.ppid;
  const watch =
    process.env['npm_lifecycle_event'] === undefined
      ? undefined
      : setInterval(() => {
          if (process.ppid !== starter) {
            clearInterval(watch);
            handle('SIGTERM');
          }
        }, starterEveryMs).unref();
  return {
    signal,
    ignore: () => {
      clearInterval(watch);
      for (const name of names) process.off(name, handle);
    },
  };
}
