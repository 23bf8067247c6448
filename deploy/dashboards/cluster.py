"""The cluster: is it well, how much, how fast, what is full, and what has changed."""
from parts import dashboard, graph, quantiles, rate, stat, table

UP = 'up{job=~".*geminga.*",HERE}'
CLUSTER = dashboard("geminga-cluster", "Geminga / Cluster", "Begin here: whether the cluster is well, and where to look if it is not.",
                    "geminga_build_info", [
    ("Is it well", [
        stat("Servers that do not answer", "Brokers, bookies and, where it is asked, etcd.", f"count({UP} == 0) or vector(0)", bad_from=1),
        stat("Servers not ready", "/readyz of each says why.", "count(geminga_ready{HERE} == 0) or vector(0)", bad_from=1),
        stat("Coordinators", "One broker gives partitions their owners.", "sum(geminga_coordinator_elected{HERE})", bad_below=1),
        stat("Partitions without an owner", "They can be neither written nor read.", "max(geminga_coordinator_unserved_partitions{HERE})", bad_from=1),
        stat("Ledgers with lost records", "No copy of some entry is known.", "max(geminga_repair_lost_ledgers{HERE})", bad_from=1),
        stat("Oldest missing copy", "Since when the oldest mark of a missing copy stands.", "max(geminga_repair_oldest_mark_seconds{HERE})",
             bad_from=3600, unit="s"),
        table("Alerts that fire", "With the rules of this chart.", 'ALERTS{alertname=~"Geminga.*",alertstate="firing",namespace=~"$namespace"}', width=24),
    ]),
    ("How much", [
        graph("Bytes in", "Acknowledged, as stored, once.", ("sum(rate(geminga_produce_bytes_total{HERE}[$__rate_interval]))", "produced"), unit="Bps"),
        graph("Bytes out", "Given to readers, by where they were.", rate("geminga_fetch_source_bytes_total", by="source"), unit="Bps"),
        graph("Records in", "Acknowledged.", ("sum(rate(geminga_produce_records_total{HERE}[$__rate_interval]))", "records"), unit="cps"),
        graph("Batches, by outcome", "Acknowledged, come again, refused after they were accepted, or of unknown fate.",
              rate("geminga_produce_batches_total", by="outcome"), unit="cps"),
        graph("Clients", "Kafka connections and streams of consumers of gRPC.", ("sum(geminga_kafka_connections{HERE})", "Kafka connections"),
              ("sum(geminga_consumer_streams{HERE})", "consumer streams")),
        graph("Topics, partitions, groups", "As the coordinator and brokers see them.", ("max(geminga_topology_topics{HERE})", "topics"),
              ("max(geminga_coordinator_partitions{HERE})", "partitions"), ("sum(geminga_groups{HERE})", "groups")),
    ]),
    ("How fast", [
        graph("Produce, until acknowledged", "From when a batch is accepted to when it is on stable storage.",
              ("histogram_quantile(0.5, sum by (le) (rate(geminga_produce_seconds_bucket{HERE}[$__rate_interval])))", "p50"),
              ("histogram_quantile(0.99, sum by (le) (rate(geminga_produce_seconds_bucket{HERE}[$__rate_interval])))", "p99"), unit="s", limit=1),
        graph("Kafka requests, p99", "Fetch, JoinGroup and SyncGroup wait by design.",
              ("topk(8, histogram_quantile(0.99, sum by (api, le) (rate(geminga_kafka_request_seconds_bucket{HERE}[$__rate_interval]))))", "{{api}}"), unit="s"),
        graph("Disks, until durable", "What a bookie's sync takes.", *quantiles("geminga_bookie_sync_seconds", at=(0.99,)), unit="s", limit=0.1),
    ]),
    ("What is full", [
        graph("Bookies' disks", "From 90 % on a disk takes no new data, from 96 % on seals and deletions only.",
              "1 - geminga_bookie_disk_free_bytes{HERE} / geminga_bookie_disk_total_bytes{HERE}", unit="percentunit", limit=0.9),
        graph("Brokers' memory", "The fullest part of each that clients wait for.",
              ('max by (instance) (geminga_memory_used_bytes{part=~"direct|routed|answers",HERE} / geminga_memory_limit_bytes{HERE})', "{{instance}}"),
              unit="percentunit", limit=0.9),
        graph("etcd's database", "Of what it may be. Empty where Prometheus does not ask etcd.",
              'etcd_mvcc_db_total_size_in_bytes{job=~".*geminga.*",HERE} / etcd_server_quota_backend_bytes{job=~".*geminga.*",HERE}',
              unit="percentunit", limit=0.8),
        graph("Waiting for upload", "Bytes of closed segments that the object store does not have yet.", ("sum(geminga_tier_waiting_bytes{HERE})", "waiting"),
              unit="bytes"),
        graph("Clients slowed down by quotas", "By the quota.", rate("geminga_quota_throttled_total", by="quota"), unit="cps"),
        graph("Processors", "That each process keeps busy.", rate("process_cpu_seconds_total")),
        graph("Memory of processes", "Resident, with what the kernel counts and their own limits do not.", "process_resident_memory_bytes{HERE}", unit="bytes"),
        graph("Open files", "Connections with them, of what the system allows.", "process_open_fds{HERE} / process_max_fds{HERE}", unit="percentunit", limit=0.8),
        graph("Certificates", "Time until each expires.", ("geminga_tls_certificate_expires_timestamp_seconds{HERE} - time()", "{{instance}} {{certificate}}"), unit="s", limit=604800, least=None),
    ]),
    ("What has changed", [
        table("Versions", "Who runs what.", "geminga_build_info{HERE}"),
        graph("Partitions moved", "By the cause.", ("sum by (cause) (increase(geminga_coordinator_moves_total{HERE}[$__rate_interval]))", "{{cause}}"), width=6),
        graph("Starts", "Of each process.", "changes(process_start_time_seconds{HERE}[$__rate_interval])", width=6),
    ]),
])
