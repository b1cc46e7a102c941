/** How a request is sent, as the settings of its database have it; several databases may share one HTTP client. */
export type SendRules = {
  /** Bytes of a reply's body that are kept; of a longer one the rest is not read. */
  readonly responseBytesMax: number;
  /** Whether a redirect from https to http is followed. */
  readonly followInsecureRedirects: boolean;
  /** Whether compressed replies are asked for and decoded. */
  readonly decompress: boolean;
};

export const defaultSendRules: SendRules = Object.freeze({
  responseBytesMax: 8 * 1024 * 1024,
  followInsecureRedirects: true,
  decompress: false,
});
