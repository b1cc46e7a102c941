import type { Row, Session, Statement } from '../postgres/database.ts';

/** A connection limit of -2 marks what an interrupted DROP DATABASE has left, which cannot be connected to. */
const databasesStatement: Statement = {
  name: 'pgfetch_databases',
  text: `
    select d.datname::text as name
    from pg_catalog.pg_database d
    where d.datallowconn
      and not d.datistemplate
      and d.datconnlimit <> -2
      and pg_catalog.has_database_privilege(d.oid, 'CONNECT')
    order by d.datname
    limit $1`,
};

/** The server's databases that this role may connect to, templates left out, at most `databasesMax`. */
export async function readDatabases(session: Session, databasesMax: number): Promise<readonly string[]> {
  return (await session.query<Row & { name: string }>(databasesStatement, [databasesMax])).map(({ name }) => name);
}
