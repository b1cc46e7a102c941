import { InvalidArgumentError } from 'commander';

/** Reads a whole number within bounds, for commander. */
export function wholeNumber(min: number, max: number): (text: string) => number {
  return (text) => {
    const value = Number(text);
    if (!/^\d+$/.test(text) || value < min || value > max) {
      throw new InvalidArgumentError(`It must be a whole number from ${min} to ${max}.`);
    }
    return value;
  };
}

/** A TCP port; 0 means any free one. */
export const port: (text: string) => number = wholeNumber(0, 65_535);

/** Gathers the values of an option that may be given several times. */
export function collect(text: string, sofar: readonly string[] = []): readonly string[] {
  return [...sofar, text];
}

/** Gathers the values of an option that takes several, separated by commas, and may be given several times. */
export function list(text: string, sofar: readonly string[] = []): readonly string[] {
  return [...sofar, ...text.split(',').map((value) => value.trim())];
}
