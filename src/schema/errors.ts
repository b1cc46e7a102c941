import { PostgresError } from '../postgres/database.ts';

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

const insufficientPrivilege = '42501';

/** The error to throw for one that came up in work that only the owner may do: a missing right says who may. */
export function ownersError(error: unknown): unknown {
  if (error instanceof PostgresError && error.code === insufficientPrivilege) {
    return new SchemaError('insufficient_privilege', error.message, {
      hint: 'Connect as the owner of the schema net, or as a superuser.',
      cause: error,
    });
  }
  return error;
}
