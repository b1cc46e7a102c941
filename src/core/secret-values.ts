/** Where the worker gets the values of secrets: its environment, a directory, a vault. */
export type SecretSource = {
  /**
   * The value as it is now; undefined where there is none. Asked anew after a second, so that a rotation needs no restart, and
   * given up after 5 s. What it rejects with is shown to nobody but for a system error's code: it might quote the value.
   */
  read(name: string): Promise<string | undefined>;
};

/** A secret that a request uses, with its value: what is taken out of the response again. */
export type UsedSecret = { readonly name: string; readonly value: string };

const valueCharactersMin = 8;
const valueBytesMax = 8_192;
// biome-ignore lint/suspicious/noControlCharactersInRegex: these are what a header's value must not hold; a tab would be lost beside a blank.
const controlPattern = /[\u0000-\u001f\u007f]/;

/** Why a value cannot be used, or undefined. It is not quoted. A short one could not be told from other text in a response. */
export function secretValueProblem(value: string): string | undefined {
  if (value.length < valueCharactersMin) return `it has fewer than ${valueCharactersMin} characters`;
  if (Buffer.byteLength(value) > valueBytesMax) return `it has more than ${valueBytesMax} bytes`;
  if (controlPattern.test(value)) return 'it holds control characters';
  if (/^ | $/.test(value)) return 'it begins or ends with a blank';
  if (/\p{Surrogate}/u.test(value)) return 'it is not Unicode';
  return undefined;
}
