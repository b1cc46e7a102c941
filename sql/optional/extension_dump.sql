-- Only in the script of the extension: what users put into its tables is dumped with a database, which else holds no rows of
-- an extension's. The gate is dumped too, for who restores rows with triggers off.
select pg_catalog.pg_extension_config_dump('net.policy', '');
select pg_catalog.pg_extension_config_dump('net.queue_limit', '');
select pg_catalog.pg_extension_config_dump('net.retry_policy', '');
select pg_catalog.pg_extension_config_dump('net.limits', '');
select pg_catalog.pg_extension_config_dump('net.gate', '');
