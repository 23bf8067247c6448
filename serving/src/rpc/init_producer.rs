//! `Stream.InitProducer`: ids for idempotent producers. A new epoch follows from the one that is given; partitions learn of it
//! with its first batch, so nothing is stored for it.

use geminga_metastore::ProducerIds;
use geminga_proto::reason::{ApiError, Reason};
use geminga_proto::v1;

use super::metadata::api_error;

pub(crate) async fn init(
    ids: &ProducerIds,
    request: v1::InitProducerRequest,
) -> Result<v1::InitProducerResponse, ApiError> {
    if let Some(producer_id) = request.producer_id {
        let epoch = i16::try_from(request.epoch).ok().filter(|epoch| *epoch >= 0);
        let Some(epoch) = epoch.filter(|_| producer_id >= 0) else {
            let why = "a producer has an id from 0 and an epoch from 0 to 32767, as InitProducer said: send these, or none";
            return Err(ApiError::new(Reason::InvalidRequest, why));
        };
        if let Some(next) = epoch.checked_add(1) {
            return Ok(v1::InitProducerResponse { producer_id, epoch: i32::from(next) });
        }
    }
    let producer_id = ids.next().await.map_err(|error| api_error(&error))?;
    Ok(v1::InitProducerResponse { producer_id, epoch: 0 })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use geminga_metastore::MemoryStore;

    use super::*;

    #[tokio::test]
    async fn ids_are_new_and_epochs_rise() {
        let ids = ProducerIds::new(Arc::new(MemoryStore::new()), 0);
        let ask = async |producer_id, epoch| {
            let answer = init(&ids, v1::InitProducerRequest { producer_id, epoch }).await?;
            Ok::<_, ApiError>((answer.producer_id, answer.epoch))
        };
        assert_eq!(ask(None, 0).await, Ok((1, 0)));
        assert_eq!(ask(None, 0).await, Ok((2, 0)));
        assert_eq!(ask(Some(1), 0).await, Ok((1, 1)));
        assert_eq!(ask(Some(1), 32_766).await, Ok((1, 32_767)));
        assert_eq!(ask(Some(1), 32_767).await, Ok((3, 0)), "its epochs are used up");
        for (producer_id, epoch) in [(Some(-1), 0), (Some(1), -1), (Some(1), 32_768)] {
            assert_eq!(ask(producer_id, epoch).await.unwrap_err().reason, Reason::InvalidRequest);
        }
    }
}
