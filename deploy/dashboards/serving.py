"""Brokers, one by one: errors first, then load, times, and what clients wait for."""
from parts import dashboard, graph, quantiles, rate, stat

SERVING = dashboard("geminga-serving", "Geminga / Serving", "Brokers: who serves, what clients ask, and what they wait for.",
                    "geminga_broker_registered", [
    ("Is it well", [
        stat("Brokers registered", "Of those that answer.", "sum(geminga_broker_registered{HERE})", bad_below=1),
        stat("Brokers not registered", "They are given nothing.", "count(geminga_broker_registered{HERE} == 0) or vector(0)", bad_from=1),
        stat("Partitions without an owner", "As the coordinator sees it.", "max(geminga_coordinator_unserved_partitions{HERE})", bad_from=1),
        stat("Group shards that nobody serves", "Their groups have no coordinator.",
             "count(max by (shard) (geminga_group_shard_served{HERE}) == 0) or vector(0)", bad_from=1),
        stat("Batches not acknowledged", "Share of the last minutes.",
             '(sum(rate(geminga_produce_batches_total{outcome=~"refused|unknown",HERE}[$__rate_interval])) or vector(0))'
             " / sum(rate(geminga_produce_batches_total{HERE}[$__rate_interval]))", bad_from=0.01, unit="percentunit"),
        stat("Old reads that failed", "From the object store, a second.", "sum(rate(geminga_cold_failures_total{HERE}[$__rate_interval])) or vector(0)",
             bad_from=0.001, unit="cps"),
    ]),
    ("How much", [
        graph("Bytes in", "Acknowledged.", rate("geminga_produce_bytes_total"), unit="Bps"),
        graph("Bytes out", "Read for clients.", rate("geminga_fetch_bytes_total"), unit="Bps"),
        graph("Bytes to groups", "Sent to members of groups by gRPC.", rate("geminga_consumed_bytes_total"), unit="Bps"),
        graph("Partitions open", "Open, opening or closing.", "geminga_partitions_open{HERE}"),
        graph("Kafka requests", "By API.", rate("geminga_kafka_requests_total", by="api"), unit="reqps"),
        graph("Reads", "Answered, by broker.", rate("geminga_fetch_reads_total"), unit="reqps"),
        graph("Batches in an entry", "Batching of what is written: more is cheaper.",
              ("sum by (instance) (rate(geminga_produce_entry_batches_total{HERE}[$__rate_interval]))"
               " / sum by (instance) (rate(geminga_produce_entries_total{HERE}[$__rate_interval]))", "{{instance}}")),
        graph("Bytes in an entry", "The same in bytes.",
              ("sum by (instance) (rate(geminga_produce_entry_bytes_total{HERE}[$__rate_interval]))"
               " / sum by (instance) (rate(geminga_produce_entries_total{HERE}[$__rate_interval]))", "{{instance}}"), unit="bytes"),
        graph("Groups and members", "Of all shards.", ("sum(geminga_groups{HERE})", "groups"), ("sum(geminga_group_members{HERE})", "members")),
    ]),
    ("How fast", [
        graph("Produce, until acknowledged", "By broker.", *quantiles("geminga_produce_seconds"), unit="s", limit=1),
        graph("Kafka requests, p99 by API", "Fetch, JoinGroup and SyncGroup wait by design.",
              *quantiles("geminga_kafka_request_seconds", by="api", at=(0.99,)), unit="s"),
        graph("Taking a partition over", "From when a broker becomes the owner to when it serves.",
              *quantiles("geminga_partition_opening_seconds"), unit="s"),
        graph("Takeovers, by outcome", "Those that failed are tried again.", rate("geminga_partition_openings_total", by="outcome"), unit="cps"),
        graph("Recoveries of ledgers", "Part of a takeover where the former owner did not close.", *quantiles("geminga_ledger_recovery_seconds"), unit="s"),
        graph("Rebalances and commits", "Of all groups.", ("sum(rate(geminga_group_rebalances_total{HERE}[$__rate_interval]))", "rebalances"),
              ("sum(rate(geminga_group_commits_total{HERE}[$__rate_interval]))", "commits"), unit="cps"),
    ]),
    ("What is full", [
        graph("Memory, by part", "Of its limit. Tails, reads and cold are caches: full is well.",
              ("geminga_memory_used_bytes{HERE} / geminga_memory_limit_bytes{HERE}", "{{part}} {{instance}}"), unit="percentunit", width=12),
        graph("Memory, bytes", "All that is counted.", ("sum by (instance) (geminga_memory_used_bytes{HERE})", "{{instance}}"), unit="bytes", width=12),
        graph("Waiting in connections to bookies", "Part `lanes`: a bookie that does not read fills it.",
              'geminga_memory_used_bytes{part="lanes",HERE}', unit="bytes"),
        graph("What groups hold", "Bytes, by part.", ("sum by (part) (geminga_group_bytes{HERE})", "{{part}}"), unit="bytes"),
        graph("Producers remembered", "Idempotent producers of all partitions.", "geminga_partition_producers{HERE}"),
        graph("Kafka connections", "10,000 is the most.", "geminga_kafka_connections{HERE}", limit=10000),
        graph("Time clients wait for quotas", "Seconds in a second, by quota.",
              ("sum by (quota) (rate(geminga_quota_throttled_milliseconds_total{HERE}[$__rate_interval])) / 1000", "{{quota}}"), unit="s"),
        graph("Readers that went away", "Read-ahead that was given up for want of a reader or of room.", rate("geminga_fetch_dropped_reads_total"), unit="cps"),
    ]),
    ("Where reads come from", [
        graph("Bytes, by source", "Memory, or ledgers.", rate("geminga_fetch_source_bytes_total", by="source"), unit="Bps"),
        graph("Reads of ledgers", "Asked for then, or there already.", rate("geminga_fetch_ledger_reads_total", by="how"), unit="cps"),
        graph("Held back for producers", "Bytes a second that readers of old records get at most; 0: nobody is held back.",
              "geminga_fetch_pace_bytes_per_second{HERE}", unit="Bps"),
        graph("Object store", "Bytes read of it, by broker.", rate("geminga_cold_read_bytes_total"), unit="Bps"),
    ]),
    ("Trouble with clients and peers", [
        graph("Connections that brokers closed", "By the reason.", rate("geminga_kafka_hangups_total", by="why"), unit="cps"),
        graph("Handshakes refused", "By the reason.", rate("geminga_tls_refused_total", by="why"), unit="cps"),
        graph("Connections refused", "Above the most.", rate("geminga_kafka_connections_refused_total"), unit="cps"),
        graph("Registrations lost", "Each moves all of a broker's partitions.", rate("geminga_broker_registrations_lost_total"), unit="cps"),
        graph("Brokers reached by probes", "Of each broker.", "geminga_probe_reached_brokers{HERE}"),
        graph("Keep-alives at etcd", "Of registrations, by outcome.", rate("geminga_metadata_keep_alives_total", by="outcome"), unit="cps"),
        graph("Brokers ended by their peers", "By the evidence.", rate("geminga_probe_revocations_total", by="evidence"), unit="cps"),
    ]),
])
