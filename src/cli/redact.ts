/** Hides the password in every URL in a text. Our messages hold none; what others put into theirs is not ours to know. */
export function redactPasswords(text: string): string {
  return text.replace(/(\b[a-z][a-z0-9+.-]*:\/\/[^\s:@/?#]*):[^\s@/?#]*@/gi, '$1:***@');
}

/** A URL without what may be secret: credentials, and the values of the query. What cannot be parsed is not shown. */
export function redactUrl(text: string): string {
  if (!URL.canParse(text)) return '(a URL that cannot be parsed)';
  const url = new URL(text);
  const query = [...url.searchParams.keys()].map((name) => `${encodeURIComponent(name)}=…`).join('&');
  return `${url.protocol}//${url.host}${url.pathname}${query === '' ? '' : `?${query}`}`;
}

/** Redacts every http(s) URL in a text. */
export function redactUrls(text: string): string {
  return text.replace(/https?:\/\/[^\s"'<>]+/gi, redactUrl);
}
