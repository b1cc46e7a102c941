-- Where requests of which roles may go.

-- A role that no row concerns may send requests anywhere. One that any concerns, only where one of those lets it. Beside the
-- worker's own rules (which networks it reaches), never instead of them.
-- API: public
create table net.policy (
  -- Whom it concerns, with all who have its rights; null: every role.
  role    regrole null,
  -- A name (api.example.com), all names below one (*.example.com), an address, or * for all.
  host    text    not null,
  -- Null: every method.
  methods text[]  null
);
