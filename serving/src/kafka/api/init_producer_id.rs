//! InitProducerId: the id of an idempotent producer. Transactional ids are refused until there are transactions.

use bytes::Bytes;
use futures::FutureExt;
use geminga_proto::v1;

use super::Api;
use crate::kafka::call::{Call, Served};
use crate::kafka::codec::messages::{InitProducerIdRequest, InitProducerIdResponse};
use crate::kafka::error::{Code, Fault};
use crate::rpc::init_producer;

pub(super) const API: Api = Api::new::<InitProducerIdRequest>(
    "InitProducerId",
    0,
    5,
    |call, body| serve(call, body).boxed(),
    "Without a transactional id; with one it is answered TRANSACTIONAL_ID_AUTHORIZATION_FAILED, since transactions are not built.",
);

async fn serve(call: Call, body: Bytes) -> Served {
    let request: InitProducerIdRequest = call.decode(body)?;
    let mut response = InitProducerIdResponse::default();
    (response.producer_id, response.producer_epoch) = (-1, -1);
    match init(&call, &request).await {
        Ok((id, epoch)) => (response.producer_id, response.producer_epoch) = (id, epoch),
        Err(fault) => response.error_code = fault.code.0,
    }
    call.answer(&response)
}

async fn init(call: &Call, request: &InitProducerIdRequest) -> Result<(i64, i16), Fault> {
    match request.transactional_id.as_deref() {
        None => {}
        Some("") => return Err(Fault::new(Code::INVALID_REQUEST, "an empty transactional id")),
        // The one refusal that every client takes for final: retriable ones would be retried for ever.
        Some(_) => {
            let why = "transactions are not supported";
            return Err(Fault::new(Code::TRANSACTIONAL_ID_AUTHORIZATION_FAILED, why));
        }
    }
    let known = request.producer_id >= 0;
    if known != (request.producer_epoch >= 0) {
        let why = "a producer has a number and an epoch, or neither";
        return Err(Fault::new(Code::INVALID_REQUEST, why));
    }
    let again = v1::InitProducerRequest {
        producer_id: known.then_some(request.producer_id),
        epoch: if known { i32::from(request.producer_epoch) } else { 0 },
    };
    let given = init_producer::init(&call.kafka.ctx.producer_ids, again).await?;
    let epoch = i16::try_from(given.epoch).expect("epochs are at most 32767");
    Ok((given.producer_id, epoch))
}
