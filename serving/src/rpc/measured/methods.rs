//! The methods and statuses that calls are counted by: few, and always the same.

/// How long a call of a method may take by design.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// One request, answered as soon as it can be.
    Unary,
    /// The same, but it waits for something to happen.
    Waits,
    /// For as long as its client wants.
    Stream,
}

/// A method.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Method {
    path: &'static str,
    /// As metrics name it.
    pub(super) name: &'static str,
    pub(super) kind: Kind,
}

macro_rules! methods {
    ($($package:literal $service:literal: $($method:literal $kind:ident),+;)*) => {
        &[$($(Method {
            path: concat!("/", $package, ".", $service, "/", $method),
            name: concat!($service, "/", $method),
            kind: Kind::$kind,
        },)+)*]
    };
}

/// Those of all services of a broker.
pub(super) const METHODS: &[Method] = methods! {
    "geminga.v1" "Stream": "Produce" Stream, "InitProducer" Unary, "Fetch" Stream, "Consume" Stream;
    "geminga.v1" "Topics": "CreateTopic" Unary, "ListTopics" Unary, "DescribeTopic" Unary, "DeleteTopic" Unary,
        "ListOffsets" Unary, "AlterTopic" Unary, "DeleteRecords" Unary, "OffsetForTerm" Unary;
    "geminga.v1" "Groups": "ListGroups" Unary, "DescribeGroup" Unary, "DeleteGroup" Unary, "ResetOffsets" Unary,
        "FetchOffsets" Unary, "CommitOffsets" Unary;
    "geminga.v1" "Cluster": "GetStatus" Unary, "GetMetadata" Unary, "DrainBroker" Unary, "UndrainBroker" Unary,
        "MovePartition" Unary, "ListQuotas" Unary, "SetQuota" Unary, "RemoveQuota" Unary;
    "geminga.internal.v1" "Peer": "JoinGroup" Waits, "Heartbeat" Unary, "LeaveGroup" Unary, "CommitOffsets" Unary,
        "DescribeGroup" Unary, "DeleteGroup" Unary, "ListGroups" Unary, "LetGo" Waits, "PartitionSize" Unary,
        "PartitionEnds" Unary;
    "geminga.internal.v1" "Probes": "Probe" Stream;
    "grpc.health.v1" "Health": "Check" Unary, "Watch" Stream;
};

/// Whatever else somebody asks for: reflection, and what is not there.
static OTHER: Method = Method { path: "", name: "other", kind: Kind::Stream };

/// The method of a path.
pub(super) fn find(path: &str) -> &'static Method {
    METHODS.iter().find(|method| method.path == path).unwrap_or(&OTHER)
}

/// What the number of a status is called.
pub(super) fn status(number: &[u8]) -> &'static str {
    match number {
        b"0" => "ok",
        b"1" => "cancelled",
        b"3" => "invalid_argument",
        b"4" => "deadline_exceeded",
        b"5" => "not_found",
        b"6" => "already_exists",
        b"7" => "permission_denied",
        b"8" => "resource_exhausted",
        b"9" => "failed_precondition",
        b"10" => "aborted",
        b"11" => "out_of_range",
        b"12" => "unimplemented",
        b"13" => "internal",
        b"14" => "unavailable",
        b"15" => "data_loss",
        b"16" => "unauthenticated",
        _ => "unknown",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A method that is added to a service is added here.
    #[test]
    fn the_table_has_every_method_of_ours() {
        let files = [
            ("geminga.v1", include_str!("../../../../proto/geminga/v1/stream.proto")),
            ("geminga.v1", include_str!("../../../../proto/geminga/v1/topics.proto")),
            ("geminga.v1", include_str!("../../../../proto/geminga/v1/groups.proto")),
            ("geminga.v1", include_str!("../../../../proto/geminga/v1/cluster.proto")),
            (
                "geminga.internal.v1",
                include_str!("../../../../proto/geminga/internal/v1/peer.proto"),
            ),
        ];
        let mut found = 0;
        for (package, text) in files {
            let mut service = "";
            for line in text.lines().map(str::trim) {
                if let Some(rest) = line.strip_prefix("service ") {
                    service = rest.trim_end_matches([' ', '{']);
                }
                let Some(rest) = line.strip_prefix("rpc ") else { continue };
                let name = rest.split('(').next().unwrap();
                let method = find(&format!("/{package}.{service}/{name}"));
                assert_eq!(method.name, format!("{service}/{name}"), "in {package}");
                let streams = rest.contains("stream ");
                assert_eq!(method.kind == Kind::Stream, streams, "{service}/{name}");
                found += 1;
            }
        }
        let foreign = METHODS.iter().filter(|method| method.path.starts_with("/grpc.")).count();
        assert_eq!(found + foreign, METHODS.len());
    }

    #[test]
    fn what_is_unknown_is_one_of_few() {
        assert_eq!(find("/geminga.v1.Stream/Produces").name, "other");
        assert_eq!((status(b"13"), status(b"99"), status(b"")), ("internal", "unknown", "unknown"));
    }
}
