// What a long run takes from its command line, and where it says how it goes.

/**
 * @param {Record<string, string | boolean | string[] | undefined>} values as parseArgs has read them
 */
export function optionsOf(values) {
  return {
    /** A number from `least` on. */
    number: (name, least) => {
      const value = Number(values[name]);
      if (!Number.isFinite(value) || value < least) throw new Error(`--${name} must be a number from ${least} on`);
      return value;
    },
    /** A line of progress, beside the result. */
    say: (text) => {
      if (!values.json) process.stderr.write(`${text}\n`);
    },
  };
}
