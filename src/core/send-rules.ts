/** How a request is sent, as the settings of its database have it; several databases may share one HTTP client. */
export type SendRules = {
  /** Bytes of a reply's body that are kept; of a longer one the rest is not read. */
  readonly responseBytesMax: number;
  /** Whether a redirect from https to http is followed. */
  readonly followInsecureRedirects: boolean;
  /** Whether compressed replies are asked for and decoded. */
  readonly decompress: boolean;
  /**
   * Asked just before a request with an ordering key is written: whether the worker may still send it. One that was stopped for
   * long may have been taken for dead, and what comes after may have been sent by another. While it may not, the request waits.
   */
  readonly mayBegin?: () => boolean;
};

export const defaultSendRules: SendRules = Object.freeze({
  responseBytesMax: 8 * 1024 * 1024,
  followInsecureRedirects: true,
  decompress: false,
});
