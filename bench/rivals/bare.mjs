// No queue at all: the HTTP client alone.
import { bare } from '../bare.mjs';
import { serve } from './consumer.mjs';

serve(({ origin }) => ({
  enqueue: async () => {},
  connect: async () => {},
  consume: async (count) => void bare(origin, count),
  one: async () => void bare(origin, 1),
}));
