/** What keeps pgfetch from being installed, removed or adopted in a database: says what is wrong and what to do. */
export class SchemaError extends Error {
  override readonly name = 'SchemaError';
  readonly code:
    | 'foreign_schema'
    | 'other_version'
    | 'not_installed'
    | 'dependent_objects'
    | 'insufficient_privilege'
    | 'standby'
    | 'copy';
  readonly detail: string | undefined;
  readonly hint: string | undefined;
  constructor(
    code: SchemaError['code'],
    message: string,
    more: { detail?: string; hint?: string; cause?: unknown } = {},
  ) {
    super(message, more.cause === undefined ? {} : { cause: more.cause });
    this.code = code;
    this.detail = more.detail;
    this.hint = more.hint;
  }
}
