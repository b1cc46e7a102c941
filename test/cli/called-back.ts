import type pg from 'pg';
import { until } from '../support/servers.ts';

/** Makes a request with a callback, and waits until that has been called. */
export async function calledBack(client: pg.Client, echo: string): Promise<void> {
  await client.query(`
    create table calls (status int);
    create function called(response net._http_response) returns void language sql security definer
      set search_path = public, pg_temp as 'insert into calls values (response.status_code)'`);
  await client.query(`select net.request('GET', $1, on_success := 'called')`, [`${echo}/get`]);
  await until(async () => (await client.query('select from calls')).rowCount === 1, 'the callback has been called');
}
