//! A call of another broker on behalf of a request: it carries the request's id, so that logs of both tell of the same.

use geminga_runtime::requests;
use tonic::Request;
use tonic::metadata::MetadataValue;

/// The call, with the id of the request that it is made for, where that is known.
pub(crate) fn hop<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    let id = requests::current().and_then(|id| MetadataValue::try_from(id.to_string()).ok());
    if let Some(id) = id {
        request.metadata_mut().insert(requests::HEADER, id);
    }
    request
}

#[cfg(test)]
mod tests {
    use geminga_runtime::requests::RequestId;

    use super::*;

    #[tokio::test]
    async fn a_call_carries_the_id_of_what_it_is_made_for() {
        assert!(hop(()).metadata().is_empty());
        let id = RequestId::parse("order-17").unwrap();
        let request = requests::scope(id, async { hop(()) }).await;
        assert_eq!(request.metadata().get(requests::HEADER).unwrap(), "order-17");
    }
}
