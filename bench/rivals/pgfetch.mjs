import pg from 'pg';
import { createWorker } from '../../dist/index.js';
import { installInto } from '../stage.mjs';
import { serve } from './consumer.mjs';

serve(({ url, origin }) => {
  const worker = createWorker({ connectionString: url, allow: ['loopback'] });
  const client = new pg.Client(url);
  return {
    async enqueue(count) {
      await installInto(url);
      await client.connect();
      await client.query('select count(net.http_get($1)) from generate_series(1, $2::int)', [`${origin}/`, count]);
    },
    connect: () => client.connect(),
    // The worker connects in here, on the clock: it starts to work when it has.
    consume: () => worker.start(),
    one: async () => void (await client.query('select net.http_get($1)', [`${origin}/`])),
  };
});
