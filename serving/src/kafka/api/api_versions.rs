//! ApiVersions: which APIs and versions there are. It never fails: a client that asks in a version that is not known is
//! answered in version 0, with the version to step down to.

use bytes::Bytes;
use futures::FutureExt;

use super::{Api, TABLE};
use crate::kafka::call::{Call, Served};
use crate::kafka::codec::messages::api_versions_response::ApiVersion;
use crate::kafka::codec::messages::{ApiVersionsRequest, ApiVersionsResponse, StrBytes};
use crate::kafka::error::Code;

pub(super) const API: Api = Api::new::<ApiVersionsRequest>(
    "ApiVersions",
    0,
    4,
    |call, body| serve(call, body).boxed(),
    "A version that is not known is answered in version 0 with UNSUPPORTED_VERSION. No features are finalized.",
)
.always_saying(&[
    ("supported_features", "[]"),
    ("finalized_features_epoch", "-1"),
    ("finalized_features", "[]"),
    ("zk_migration_ready", "false"),
    ("throttle_time_ms", "0"),
]);

/// The first version in which a client says what it is.
const NAMED_SINCE: i16 = 3;

async fn serve(call: Call, body: Bytes) -> Served {
    let request: ApiVersionsRequest = call.decode(body)?;
    let named = is_name(&request.client_software_name) && is_name(&request.client_software_version);
    let code = match call.version() < NAMED_SINCE || named {
        true => Code::NONE,
        false => Code::INVALID_REQUEST,
    };
    let mut response = ApiVersionsResponse::default();
    response.error_code = code.0;
    if code == Code::NONE {
        response.api_keys = TABLE.iter().map(row).collect();
    }
    call.answer(&response)
}

/// The answer to a version that is not known.
pub(super) fn refuse(call: &Call) -> Served {
    let mut response = ApiVersionsResponse::default();
    response.error_code = Code::UNSUPPORTED_VERSION.0;
    response.api_keys = vec![row(&API)];
    let mut call = call.clone();
    call.header.version = 0;
    call.answer(&response)
}

fn row(api: &Api) -> ApiVersion {
    let mut row = ApiVersion::default();
    (row.api_key, row.min_version, row.max_version) = (api.key, api.advertised, api.max);
    row
}

/// What Kafka takes for a name or a version of a client: letters and digits, with dots and dashes between.
fn is_name(name: &StrBytes) -> bool {
    let name = name.as_bytes();
    let inner = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.');
    let outer = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    name.iter().all(inner) && outer(name.first()) && outer(name.last())
}
