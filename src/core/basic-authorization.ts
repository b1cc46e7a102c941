/**
 * The value of an Authorization header for the credentials in a URL (RFC 7617), or undefined where it has none. What is
 * percent-encoded there are bytes, which need not be UTF-8.
 */
export function basicAuthorization({ username, password }: URL): string | undefined {
  if (username === '' && password === '') return undefined;
  const credentials = Buffer.from(`${decoded(username)}:${decoded(password)}`, 'latin1');
  return `Basic ${credentials.toString('base64')}`;
}

/** The bytes, one per character; a URL holds nothing beyond ASCII that is not percent-encoded. */
function decoded(text: string): string {
  return text.replace(/%([0-9A-Fa-f]{2})/g, (_match, hex: string) => String.fromCharCode(Number.parseInt(hex, 16)));
}
