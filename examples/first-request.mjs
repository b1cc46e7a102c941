// A first request without psql. Try it: npm start, then in another terminal: node examples/first-request.mjs
import { setTimeout as sleep } from 'node:timers/promises';
import pg from 'pg';

const client = new pg.Client({
  connectionString: process.env.DATABASE_URL ?? 'postgres://postgres@127.0.0.1:26432/postgres',
});
await client.connect();

const url = process.env.ECHO_URL ?? 'http://localhost:26480';
const enqueued = await client.query(`select net.http_post($1, '{"hello": "world"}') as id`, [`${url}/post`]);
const { id } = enqueued.rows[0];
console.log(`request ${id}`);

for (let answered = false; !answered; await sleep(20)) {
  const { rows } = await client.query(
    `select status_code, content::jsonb -> 'json' as received, error_msg from net._http_response where id = $1`,
    [id],
  );
  answered = rows.length > 0;
  if (answered) console.log(rows[0]);
}
await client.end();
