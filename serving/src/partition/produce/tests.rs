use super::*;

#[tokio::test]
async fn a_reply_that_is_lost_is_no_acknowledgement() {
    let (answer, pending) = oneshot::channel();
    drop(answer);
    assert_eq!(Answer(pending).await.unwrap_err().reason, Reason::Unknown);
}
