// Requests from PGlite, no server at all: node examples/pglite.mjs
import { PGlite } from '@electric-sql/pglite';
import { startEchoServer } from 'pgfetch';
import { pgNet } from 'pgfetch/pglite';

const echo = await startEchoServer();
const db = await PGlite.create({ extensions: { pg_net: pgNet({ allow: ['loopback'] }) } });
await db.exec('create extension pg_net');

await db.query(`select net.http_post($1, '{"id": 7}')`, [`${echo.url}/post`]);
await db.pg_net.drain();
const { rows } = await db.query(`select status_code, content::jsonb -> 'json' as received from net._http_response`);
console.log(rows);

await db.close();
await echo.close();
