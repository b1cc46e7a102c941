import type { Row, Session, Statement } from '../postgres/database.ts';

/** A part of the body of a request that worker `$2` has claimed; `version` changes when somebody changes the row. */
const bodyStatement: Statement = {
  name: 'pgfetch_body',
  text: `
    select
      pg_catalog.octet_length(q.body) as bytes,
      pg_catalog.substr(q.body, $3::integer, $4::integer) as part,
      q.xmin::text as version
    from net.http_request_queue q
    where q.id = $1 and q.claimed_by = $2`,
};

type BodyRow = Row & { bytes: number | null; part: Uint8Array | null; version: string };

/**
 * A body comes in parts of so many bytes, or of a sixteenth: as text each takes twice its size, and other statements wait while
 * it travels. But where the body is compressed, the server decompresses all that stands before a part.
 */
const partBytesMin = 1024 * 1024;
const partsMax = 16;

/**
 * Loads the body of a claimed request. Null where it is not in the queue any more, or not ours; 'changed' where it was changed
 * meanwhile: to be tried again.
 */
export async function loadBody(
  session: Session,
  workerId: bigint,
  id: bigint,
  bodyBytes: number,
): Promise<Uint8Array | null | 'changed'> {
  const partBytes = Math.max(partBytesMin, Math.ceil(bodyBytes / partsMax));
  // Not from the pool of small buffers: it is kept for as long as the request takes.
  const body = new Uint8Array(bodyBytes);
  let version: string | undefined;
  for (let loaded = 0; loaded < bodyBytes; loaded += partBytes) {
    const [row] = await session.query<BodyRow>(bodyStatement, [id, workerId, loaded + 1, partBytes]);
    if (row === undefined) {
      return null;
    }
    version ??= row.version;
    if (row.version !== version || row.bytes !== bodyBytes || row.part === null) {
      return 'changed';
    }
    body.set(row.part, loaded);
  }
  return body;
}
