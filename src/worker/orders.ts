/** What the rest of the worker wants of a running service. */
export type Orders = {
  /** Claim no more; return when nothing is held. */
  stopping: boolean;
  /** Reconnect and read the settings again. */
  restart: boolean;
  /** How often somebody has asked to be told when the queue is empty. */
  drains: number;
};
