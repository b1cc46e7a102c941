-- A webhook for every new order. Try it: npm start, then
--   psql postgres://postgres@127.0.0.1:26432/postgres -f examples/trigger.sql
create table if not exists orders (
  id       bigint generated always as identity primary key,
  customer text not null,
  total    numeric not null
);

create or replace function tell_about_order() returns trigger language plpgsql as $$
begin
  perform net.http_post(
    url := 'http://localhost:26480/webhooks/orders',
    body := jsonb_build_object('type', tg_op, 'table', tg_table_name, 'record', to_jsonb(new)),
    headers := '{"Content-Type": "application/json", "X-Source": "orders"}',
    timeout_milliseconds := 5000
  );
  return new;
end
$$;

drop trigger if exists order_created on orders;
create trigger order_created after insert on orders for each row execute function tell_about_order();

insert into orders (customer, total) values ('Ada', 12.50);

-- A moment later:
--   select status_code, content::jsonb -> 'json' from net._http_response order by id desc limit 1;
